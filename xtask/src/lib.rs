//! Chores of the workspace that are programs rather than habits. A library, so that a test can run them on the workspace itself.

pub mod tidy;
