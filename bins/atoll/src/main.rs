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

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use atoll_node::NodeError;
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
        Err(error) if matches!(error.downcast_ref(), Some(NodeError::CutOff)) => start_again(&arguments, &error),
        Err(error) => failure::print(&error),
    }
}

/// Becomes this program anew, as the same process: for a node that has ended in order because only a new one can be reached again. Whoever
/// watches over the process sees none end. If the new one cannot start, that is what ends it.
fn start_again(arguments: &[OsString], why: &anyhow::Error) -> ExitCode {
    eprintln!("{why}; starting again");
    let mut command = Command::new("/proc/self/exe");
    if let [own_name, rest @ ..] = arguments {
        command.arg0(own_name).args(rest);
    }
    let error = command.exec();
    failure::print(&anyhow::Error::new(error).context("cannot start this node again"))
}
