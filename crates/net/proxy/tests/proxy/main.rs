//! The proxy and the far side over real links on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bytes;
mod exits;
mod limits;
mod programs;
mod support;
mod web;
