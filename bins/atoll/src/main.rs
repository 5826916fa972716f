//! `atoll`, the command line: parses, calls, prints. What it does for real is done by the node that runs (`atoll up`) or by
//! the libraries it calls.
//!
//! Data goes to standard output, everything else to standard error. Exit status: 0 done, 1 failed, 2 wrong usage
//! (or, of `plan` and `drift` with `--detailed-exitcode`, that there is a difference).

mod args;
mod commands;
mod failure;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;

/// For files, disks and processor-bound work: more than the sixteen reads a storage node has on its disk at once.
const BLOCKING_THREADS: usize = 24;

fn main() -> ExitCode {
    // A container's supervisor is this program again: single-threaded, so before anything else.
    let arguments: Vec<_> = std::env::args_os().collect();
    if atoll_runtime::is_helper(&arguments) {
        return atoll_runtime::helper_main(&arguments);
    }
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failure::print(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let result = runtime.block_on(commands::run(cli));
    // What is still running in the background (a read that hangs on a terminal) must not keep the program from ending.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => failure::print(&error),
    }
}
