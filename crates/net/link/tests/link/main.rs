//! Links of several nodes in one process, over real sockets on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

mod acquaint;
mod fast;
mod find;
mod hostile;
mod join;
mod packets;
mod reach;
mod relay;
mod streams;
mod support;
