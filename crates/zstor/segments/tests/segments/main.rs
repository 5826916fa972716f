//! Tests of the segment log from outside: what it promises, on a simulated disk that loses, tears, refuses and rots,
//! and on a real one.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a failing test shows its seed and where it was")]

mod basic;
mod crash;
mod faults;
mod harness;
mod histories;
mod rot;
mod sim;
mod space;
