//! The shard protocol end to end: the real client against the real server over real segments, each of them against a
//! peer that the test plays itself, and against peers that send anything.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod connection;
mod hostile;
mod operations;
mod refusals;
mod world;
