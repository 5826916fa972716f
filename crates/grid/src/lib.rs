//! A grid of real node processes on this machine: raised, joined by ticket, killed, stopped, replaced, and cleaned up.
//!
//! The demo is built on it, and so are the tests that need real processes. It knows nothing of how a node works: it starts the
//! program and speaks the control API, as a person would.
//!
//! Invariant: a process started here does not outlive its [`NodeProcess`], however this process ends (its standard input is a pipe
//! whose closing tells it to stop), unless it was started to be kept and is let go of by [`Grid::leave_running`].

pub mod cloud;
pub mod demo;
mod grid;
mod process;
mod tree;

pub use grid::{Grid, GridConfig};
pub use process::{GridError, NodeProcess, Start};
pub use tree::{Difference, TreeSpec, digest, generate};
