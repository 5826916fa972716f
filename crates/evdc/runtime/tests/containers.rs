//! Real containers: this program is the node that runs them, their supervisor, and what runs in them.
//!
//! Needs root. Every case has a directory, cgroups and names of its own and leaves nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "containers/adoption.rs"]
mod adoption;
#[path = "containers/bench.rs"]
mod bench;
#[path = "containers/isolation.rs"]
mod isolation;
#[path = "containers/lifecycle.rs"]
mod lifecycle;
#[path = "containers/limits.rs"]
mod limits;
#[path = "containers/workload.rs"]
mod workload;

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

type Case = (&'static str, fn(&'static Bench) -> LocalBoxFuture<'static, ()>);

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |bench| $module::$case(bench).boxed_local())),*]
    };
}

const CASES: &[Case] = cases![
    lifecycle::output_and_exit_code,
    lifecycle::what_cannot_start_says_why,
    lifecycle::signals,
    lifecycle::further_processes,
    lifecycle::terminals,
    lifecycle::names_and_states_are_checked,
    lifecycle::many_at_once,
    lifecycle::removed_while_looked_at,
    limits::memory,
    limits::memory_of_a_group,
    limits::processes,
    limits::usage,
    isolation::files_and_users,
    isolation::namespaces,
    isolation::mounts,
    isolation::capabilities,
    adoption::containers_outlive_the_node,
    adoption::a_lost_supervisor_is_noticed,
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if atoll_runtime::is_helper(&arguments) {
        return atoll_runtime::helper_main(&arguments);
    }
    let words: Vec<String> = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match words.first().map(String::as_str) {
        Some("workload") => return workload::main(&words[1..]),
        Some("node") => return adoption::node(&words[1..]),
        _ => {}
    }
    let mut out = std::io::stderr();
    if !rustix::process::geteuid().is_root() {
        writeln!(
            out,
            "containers need root: run these tests as root, for example with sudo -E cargo test -p atoll-runtime"
        )
        .unwrap();
        return ExitCode::FAILURE;
    }
    let wanted = |name: &str| words.iter().all(|word| word.starts_with('-') || name.contains(word.as_str()));
    let bench: &'static Bench = Box::leak(Box::new(Bench::new()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| wanted(name)) {
        let begun = Instant::now();
        let passed = runtime.block_on(AssertUnwindSafe(case(bench)).catch_unwind()).is_ok();
        failed += u32::from(!passed);
        writeln!(out, "{name}: {} ({:?})", if passed { "ok" } else { "FAILED" }, begun.elapsed()).unwrap();
    }
    drop(runtime);
    bench.close();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
