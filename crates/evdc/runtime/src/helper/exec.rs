//! Runs a further process in a container and waits for it. Its standard streams are this helper's own.
//!
//! Ends the process when it takes too long, and when whoever asked is gone: this helper's parent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getppid, kill_process_group, pidfd_open, waitpid,
};
use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::status::ExecExit;

/// How often the parent is looked for.
const PARENT_PERIOD: Duration = Duration::from_millis(500);

/// What to run. In a file of its own folder, which the caller removes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) container: String,
    /// Holds `<container>/state.json` as libcontainer wrote it; sockets of this exec come beside it.
    pub(crate) root: PathBuf,
    /// An OCI process.
    pub(crate) process: PathBuf,
    /// Where the process's number is put, for a caller that must end it without this helper.
    pub(crate) pid_file: PathBuf,
    /// Where the [`ExecResult`] goes.
    pub(crate) result: PathBuf,
    pub(crate) timeout: Option<Duration>,
    /// A socket to which the other end of the process's terminal is sent, if it has one.
    pub(crate) console: Option<PathBuf>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ExecResult {
    Ended(ExecExit),
    Failed(String),
}

pub(super) fn main(file: &Path) -> ExitCode {
    let request = fs::read(file).map_err(|error| error.to_string());
    let request = request.and_then(|bytes| serde_json::from_slice::<ExecRequest>(&bytes).map_err(|it| it.to_string()));
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            super::complain(&format!("{} is no request: {error}", file.display()));
            return ExitCode::FAILURE;
        }
    };
    let result = run(&request).map_or_else(ExecResult::Failed, ExecResult::Ended);
    let written = serde_json::to_vec(&result).map_err(io::Error::other).and_then(|bytes| {
        let unfinished = request.result.with_extension("new");
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, &request.result)
    });
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(request: &ExecRequest) -> Result<ExecExit, String> {
    let asked_by = getppid();
    let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
    let builder = ContainerBuilder::new(request.container.clone(), SyscallType::default());
    let builder = builder.with_root_path(&request.root).map_err(|error| chain(&error))?;
    let builder = builder.with_pid_file(Some(&request.pid_file)).map_err(|error| chain(&error))?;
    let builder = builder.with_console_socket(request.console.clone());
    let pid = builder.as_tenant().with_process(Some(&request.process)).with_detach(true).build();
    let pid = pid.map_err(|error| chain(&error))?.as_raw();
    let pid = Pid::from_raw(pid).ok_or("the process has no number")?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| format!("cannot watch the process: {error}"))?;
    let mut timed_out = false;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let pause = left.map_or(PARENT_PERIOD, |left| left.min(PARENT_PERIOD));
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        let mut fds = [PollFd::new(&handle, PollFlags::IN)];
        match poll(&mut fds, Some(&pause)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(format!("cannot watch the process: {error}")),
        }
        timed_out = timed_out || left.is_some_and(|left| left.is_zero());
        if timed_out || getppid() != asked_by {
            // It leads a session of its own; what it started goes with it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
    let status = waitpid(Some(pid), WaitOptions::empty()).map_err(|error| format!("cannot wait for it: {error}"))?;
    let status = status.ok_or("the process vanished")?.1;
    Ok(if timed_out { ExecExit::TimedOut } else { ExecExit::Exited(code(status)) })
}

/// As shells tell it.
pub(super) fn code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}
