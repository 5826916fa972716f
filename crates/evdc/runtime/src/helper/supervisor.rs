//! A container's supervisor: one small process, alone, without a parent, that outlives the node's.
//!
//! It creates the container (so the container's first process is its child and nobody else can learn first how it ended), answers on its
//! standard output whether that worked, then waits for three things: output, which it writes to the log; a request to start; the end of
//! the container. When the container has ended it records how, on disk, and goes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use super::{Answer, answer, complain, exec};
use crate::cgroups::Cgroups;
use crate::error::{RuntimeError, chain, io_error, sys_error};
use crate::logs::{LogWriter, Stream};
use crate::records::{self, ContainerDir, ContainerRecord, ExitRecord, ProcessId, StateRecord, VERSION};
use crate::status::{Exit, ExitReason};

/// Name of the socket in the container's folder.
pub(crate) const SOCKET: &str = "control";
/// The one request there is.
pub(crate) const START: &str = "start";
/// Longest request.
const REQUEST_BYTES_MAX: u64 = 64;
/// How long a request may take to arrive; meanwhile nothing else is done.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Read from a pipe at a time: all that one holds.
const PIECE_BYTES: usize = 64 << 10;
/// How long output is waited for after the end: all of it is in the pipes already, unless something outside the container holds them.
const DRAIN: Duration = Duration::from_millis(500);

pub(super) fn main(dir: PathBuf) -> ExitCode {
    keep_log();
    match Supervisor::create(ContainerDir(dir)) {
        Ok(supervisor) => {
            answer(&Answer::Done);
            supervisor.stay()
        }
        Err(error) => {
            answer(&Answer::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// libcontainer says in its log what its errors leave out. To a copy of standard error, which is a file in the container's folder: what is
/// forked off for the container soon has another one.
fn keep_log() {
    let Ok(file) = std::io::stderr().as_fd().try_clone_to_owned().map(File::from) else { return };
    let log = tracing_subscriber::fmt().with_writer(std::sync::Mutex::new(file)).with_ansi(false);
    log.with_max_level(tracing::Level::ERROR).without_time().with_target(false).init();
}

struct Supervisor {
    dir: ContainerDir,
    record: ContainerRecord,
    state: StateRecord,
    pid: Pid,
    log: LogWriter,
    /// Standard output and error, until they are closed by all who could write.
    pipes: [Option<File>; 2],
    listener: UnixListener,
    cgroups: Cgroups,
    oom_kills_before: u64,
}

impl Supervisor {
    fn create(dir: ContainerDir) -> Result<Self, RuntimeError> {
        rustix::process::setsid().map_err(sys_error("leave the session for", &dir.0))?;
        let record: ContainerRecord = records::read(&dir.record())?
            .ok_or_else(|| RuntimeError::NotFound(format!("container in {}", dir.0.display())))?;
        let log = LogWriter::open(&record.spec.log)?;
        let (stdout, out) = pipe(&dir)?;
        let (stderr, err) = pipe(&dir)?;
        let score = fs::read_to_string("/proc/self/oom_score_adj");
        let pid = build(&dir, &record, out, err)?;
        // libcontainer sets the container's score on this process for its children to inherit; the supervisor should not go first.
        if let Some(error) = score.and_then(|score| fs::write("/proc/self/oom_score_adj", score)).err() {
            complain(&format!("the supervisor keeps the container's oom_score_adj: {error}"));
        }
        // A socket's path has a hundred characters at most, hence from within. Containers are forked by now and do not see it.
        std::env::set_current_dir(&dir.0).map_err(io_error("enter", &dir.0))?;
        let listener = UnixListener::bind(SOCKET).map_err(io_error("listen in", &dir.0))?;
        std::env::set_current_dir("/").map_err(io_error("leave", &dir.0))?;
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let process =
            |pid| ProcessId::of(pid).ok_or_else(|| failed(&record, "created", "its process ended at once".to_owned()));
        let state = StateRecord { version: VERSION, supervisor: process(own)?, init: process(pid)?, started_at: None };
        records::write(&dir.state(), &state, false)?;
        let pid = Pid::from_raw(pid).ok_or_else(|| failed(&record, "created", "it has no process".to_owned()))?;
        let cgroups = Cgroups::find();
        let oom_kills_before = cgroups.oom_kills(&record.cgroup);
        let pipes = [Some(File::from(stdout)), Some(File::from(stderr))];
        Ok(Self { dir, record, state, pid, log, pipes, listener, cgroups, oom_kills_before })
    }

    /// Until the container has ended.
    fn stay(mut self) -> ExitCode {
        // The caller reads standard output to its end.
        let quiet = File::options().write(true).open("/dev/null").map(|null| rustix::stdio::dup2_stdout(&null));
        if !matches!(quiet, Ok(Ok(()))) {
            complain("cannot let go of standard output");
        }
        let end = match rustix::process::pidfd_open(self.pid, rustix::process::PidfdFlags::empty()) {
            Ok(end) => end,
            Err(error) => {
                complain(&format!("cannot watch the container: {error}"));
                return ExitCode::FAILURE;
            }
        };
        while !self.turn(&end) {}
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => break Some(status),
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => break None,
            }
        };
        self.drain();
        self.log.finish();
        let exit = self.exit(status);
        let record = ExitRecord { version: VERSION, exit };
        match records::write(&self.dir.exit(), &record, true) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        }
    }

    /// Waits for something to happen and handles it; whether the container has ended.
    fn turn(&mut self, end: &OwnedFd) -> bool {
        let mut fds = vec![PollFd::new(end, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        if poll(&mut fds, None).is_err() {
            return false;
        }
        let (ended, asked) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        self.read_pipes();
        if asked {
            self.serve();
        }
        ended
    }

    /// Takes what is in the pipes now; whether there was anything.
    fn read_pipes(&mut self) -> bool {
        let mut some = false;
        let mut piece = [0; PIECE_BYTES];
        for (place, stream) in std::iter::zip(&mut self.pipes, [Stream::Stdout, Stream::Stderr]) {
            let Some(pipe) = place else { continue };
            match pipe.read(&mut piece) {
                Ok(0) => *place = None,
                Ok(read) => {
                    self.log.append(stream, &piece[..read]);
                    some = true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => *place = None,
            }
        }
        some
    }

    fn drain(&mut self) {
        let until = Instant::now() + DRAIN;
        while self.pipes.iter().any(Option::is_some) {
            if self.read_pipes() {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds: Vec<_> = self.pipes.iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
            let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let _ = poll(&mut fds, Some(&left));
        }
    }

    fn serve(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let served = stream.set_read_timeout(Some(REQUEST_TIMEOUT)).and_then(|()| read_request(&stream));
        let answer = match served {
            Ok(request) if request == START => match self.start() {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error.to_string()),
            },
            Ok(request) => Answer::Failed(format!("{request:?} is no request that this supervisor knows")),
            Err(error) => Answer::Failed(error.to_string()),
        };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        // Who asked may be gone; the state on disk tells the next one.
        let _ = (&stream).write_all(text.as_bytes());
    }

    fn start(&mut self) -> Result<(), RuntimeError> {
        if self.state.started_at.is_some() {
            return Ok(());
        }
        let failed = |error: &dyn std::error::Error| failed(&self.record, "started", chain(error));
        let folder = self.dir.oci().join(self.record.spec.id.as_str());
        let mut container = Container::load(folder).map_err(|error| failed(&error))?;
        container.start().map_err(|error| failed(&error))?;
        self.state.started_at = Some(Timestamp::now());
        records::write(&self.dir.state(), &self.state, false)
    }

    fn exit(&self, status: Option<WaitStatus>) -> Exit {
        let code = status.map_or(255, exec::code);
        let signal = status.and_then(|status| status.terminating_signal());
        let oom = self.cgroups.oom_kills(&self.record.cgroup) > self.oom_kills_before && code != 0;
        let (reason, message) = match code {
            _ if oom => (ExitReason::OomKilled, "it used more memory than it may".to_owned()),
            0 => (ExitReason::Completed, String::new()),
            _ => (ExitReason::Error, String::new()),
        };
        Exit { code, signal, reason, message, finished_at: Timestamp::now() }
    }
}

fn failed(record: &ContainerRecord, what: &'static str, reason: String) -> RuntimeError {
    RuntimeError::Failed { subject: format!("container {}", record.spec.id), what, reason }
}

fn read_request(stream: &UnixStream) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Reading end without blocking, writing end as programs expect it.
fn pipe(dir: &ContainerDir) -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(sys_error("make a pipe for", &dir.0))?;
    rustix::io::ioctl_fionbio(read.as_fd(), true).map_err(sys_error("make a pipe for", &dir.0))?;
    Ok((read, write))
}

/// Creates the container; the number of its first process.
fn build(dir: &ContainerDir, record: &ContainerRecord, out: OwnedFd, err: OwnedFd) -> Result<i32, RuntimeError> {
    let oci = dir.oci();
    fs::create_dir_all(&oci).map_err(io_error("create", &oci))?;
    let null = File::open("/dev/null").map_err(io_error("open", &dir.0))?;
    let failed = |error: libcontainer::error::LibcontainerError| failed(record, "created", chain(&error));
    let builder = ContainerBuilder::new(record.spec.id.to_string(), SyscallType::default());
    let builder = builder.with_root_path(&oci).map_err(failed)?.validate_id().map_err(failed)?;
    let builder = builder.with_stdin(null).with_stdout(out).with_stderr(err);
    let container = builder.as_init(dir.bundle()).with_systemd(false).with_detach(true).build().map_err(failed)?;
    let pid = container.pid().map(|pid| pid.as_raw());
    pid.ok_or_else(|| RuntimeError::Failed {
        subject: format!("container {}", record.spec.id),
        what: "created",
        reason: "it has no process".to_owned(),
    })
}
