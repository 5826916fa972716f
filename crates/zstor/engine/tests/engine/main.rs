//! The engine against nodes in memory that fail in every way: what is stored is read back, what cannot be is refused with the right words, nothing
//! leaks, and nothing wrong is ever handed out.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bench;
mod faults;
mod grid;
mod heal;
mod model;
mod objects;
mod resume;
