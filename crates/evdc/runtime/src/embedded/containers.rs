//! Containers of the embedded runtime: made by a supervisor, seen through their files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;

use super::{Inner, private_dir};
use crate::cgroups::Usage;
use crate::error::{RuntimeError, io_error, sys_error};
use crate::helper::{self, Answer, Kind, SOCKET, START};
use crate::names::ContainerId;
use crate::oci::{self, Surroundings};
use crate::records::{self, ContainerDir, ContainerRecord, ExitRecord, StateRecord, VERSION};
use crate::spec::{ContainerSpec, PidNamespace, Signal, Target};
use crate::status::{ContainerStatus, Exit, ExitReason, State};

/// How long a container may take to be created; it takes milliseconds, unless the machine is out of something.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a supervisor may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a supervisor may take to go after everything in its container was killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a helper, and the part of its complaints that is shown.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

impl Inner {
    fn record(&self, id: &ContainerId) -> Result<ContainerRecord, RuntimeError> {
        let record = records::read(&self.container_dir(id).record())?;
        record.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))
    }

    pub(super) fn create(&self, spec: ContainerSpec) -> Result<(), RuntimeError> {
        self.needs_root()?;
        oci::check(&spec)?;
        let sandbox = self.sandbox(&spec.sandbox)?;
        let sandbox = sandbox.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {}", spec.sandbox)))?;
        let pid_namespace = self.pid_namespace(&spec)?;
        let cgroup = sandbox.cgroup.join(spec.id.as_str());
        let around = Surroundings {
            machine: &self.machine,
            cgroup: &cgroup,
            namespaces: &self.sandbox_dir(&spec.sandbox).join("ns"),
            pid_namespace: pid_namespace.as_deref(),
            limits_swap: self.cgroups.limits_swap(),
        };
        let config = oci::config(&spec, &around)?;
        let dir = self.container_dir(&spec.id);
        match fs::create_dir(&dir.0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::Exists(format!("container {}", spec.id)));
            }
            other => other.map_err(io_error("create", &dir.0))?,
        }
        let record = ContainerRecord { version: VERSION, spec, cgroup, created_at: Timestamp::now() };
        let made = self.prepare(&dir, &record, &config).and_then(|()| self.launch(&dir, &record));
        if made.is_err() {
            // What went wrong first is what matters.
            if let Err(error) = self.undo(&dir) {
                tracing::warn!("after a container that could not be created: {error}");
            }
        }
        made
    }

    fn pid_namespace(&self, spec: &ContainerSpec) -> Result<Option<PathBuf>, RuntimeError> {
        let PidNamespace::Of(other) = &spec.pid else { return Ok(None) };
        let status = self.status(other)?;
        let pid = status.pid.filter(|_| status.sandbox == spec.sandbox);
        let reason = || format!("it is to share the processes of {other}, which does not run in its sandbox");
        let pid = pid.ok_or_else(|| RuntimeError::invalid(format!("container {}", spec.id), reason()))?;
        Ok(Some(oci::pid_namespace_of(pid)))
    }

    fn prepare(
        &self,
        dir: &ContainerDir,
        record: &ContainerRecord,
        config: &serde_json::Value,
    ) -> Result<(), RuntimeError> {
        let bundle = dir.bundle();
        private_dir(&bundle)?;
        let path = bundle.join("config.json");
        fs::write(&path, config.to_string()).map_err(io_error("write", &path))?;
        records::write(&dir.record(), record, false)
    }

    fn launch(&self, dir: &ContainerDir, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let complaints = dir.supervisor_log();
        let complaints = File::create(&complaints).map_err(io_error("create", &complaints))?;
        let mut command = helper::command(&self.helper, Kind::Launch, &dir.0);
        let child = command.stdout(Stdio::piped()).stderr(complaints).spawn();
        let mut child = child.map_err(io_error("start", &self.helper))?;
        let answer = child.stdout.take().map(|stdout| read_answer(OwnedFd::from(stdout), CREATE_TIMEOUT));
        child.wait().map_err(io_error("wait for", &self.helper))?;
        let answer = answer.transpose().map_err(io_error("hear from", &self.helper))?.unwrap_or_default();
        understand(&answer, || format!("container {}", record.spec.id), "created", &dir.0)
    }

    /// Removes what there is of a container that did not come to be.
    pub(super) fn undo(&self, dir: &ContainerDir) -> Result<(), RuntimeError> {
        if let Some(record) = records::read::<ContainerRecord>(&dir.record())? {
            self.end(&record)?;
            self.cgroups.remove(&record.cgroup)?;
        }
        self.discard(&dir.0)
    }

    fn end(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        self.cgroups.signal(&record.cgroup, Signal::KILL).map_err(sys_error("kill what is in", &record.cgroup))
    }

    pub(super) fn start(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.status(id)?.state {
            State::Created => {}
            State::Running => return Ok(()),
            State::Exited(_) => {
                let subject = format!("container {id}");
                return Err(RuntimeError::State { subject, state: "ended", wanted: "started" });
            }
        }
        let dir = self.container_dir(id);
        let answer = ask(&dir.0, START).map_err(io_error("ask the supervisor in", &dir.0))?;
        understand(&answer, || format!("container {id}"), "started", &dir.0)
    }

    pub(super) fn status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        let record = self.record(id)?;
        let dir = self.container_dir(id);
        let state: Option<StateRecord> = records::read(&dir.state())?;
        let state = state.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        // In this order: the supervisor writes first and goes then.
        let supervised = state.supervisor.is_alive();
        let exit = records::read::<ExitRecord>(&dir.exit())?.map(|record| record.exit);
        let exit = match exit {
            None if !supervised => Some(self.lost(&dir, &record, &state)?),
            exit => exit,
        };
        let pid = u32::try_from(state.init.pid).ok().filter(|_| exit.is_none());
        let state_now = match exit {
            Some(exit) => State::Exited(exit),
            None if state.started_at.is_some() => State::Running,
            None => State::Created,
        };
        let ContainerSpec { id, sandbox, attempt, labels, log, .. } = record.spec;
        Ok(ContainerStatus {
            id,
            sandbox,
            attempt,
            labels,
            state: state_now,
            pid,
            created_at: record.created_at,
            started_at: state.started_at,
            log_path: log.path,
        })
    }

    /// A container whose supervisor is gone without a word: its output goes nowhere and its end would be seen by nobody, so it ends now.
    fn lost(&self, dir: &ContainerDir, record: &ContainerRecord, state: &StateRecord) -> Result<Exit, RuntimeError> {
        // Or it was removed since its state was read, which takes the word of its end away in the same step.
        let gone = || RuntimeError::NotFound(format!("container {}", record.spec.id));
        if records::read(&dir.state())?.as_ref() != Some(state) {
            return Err(gone());
        }
        self.end(record)?;
        state.init.signal(Signal::KILL).map_err(sys_error("kill what is in", &record.cgroup))?;
        let exit = Exit {
            code: 255,
            signal: None,
            reason: ExitReason::SupervisorLost,
            message: "its supervisor is gone: the machine was restarted or the supervisor killed".to_owned(),
            finished_at: Timestamp::now(),
        };
        let written = ExitRecord { version: VERSION, exit };
        match records::write(&dir.exit(), &written, true) {
            Err(_) if !dir.state().exists() => Err(gone()),
            other => other.map(|()| written.exit),
        }
    }

    pub(super) fn containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let mut all = Vec::new();
        for id in self.names::<ContainerId>("containers")? {
            match self.status(&id) {
                Ok(status) => all.push(status),
                // Being made or being removed.
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// A handle on a container's supervisor while it is there.
    pub(super) fn supervisor(&self, id: &ContainerId) -> Result<Option<OwnedFd>, RuntimeError> {
        let state: Option<StateRecord> = records::read(&self.container_dir(id).state())?;
        let state = state.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        Ok(state.supervisor.open())
    }

    pub(super) fn kill(&self, id: &ContainerId, signal: Signal, target: Target) -> Result<(), RuntimeError> {
        let record = self.record(id)?;
        let state: Option<StateRecord> = records::read(&self.container_dir(id).state())?;
        let sent = match (target, state) {
            (Target::Init, Some(state)) => state.init.signal(signal).map(drop),
            (Target::All, _) => self.cgroups.signal(&record.cgroup, signal),
            (Target::Init, None) => Ok(()),
        };
        sent.map_err(sys_error("send a signal to what is in", &record.cgroup))
    }

    pub(super) fn delete(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let dir = self.container_dir(id);
        let Some(record) = records::read::<ContainerRecord>(&dir.record())? else { return self.discard(&dir.0) };
        if let Some(state) = records::read::<StateRecord>(&dir.state())? {
            let supervisor = state.supervisor.open();
            let failed = || sys_error("kill what is in", &record.cgroup);
            state.init.signal(Signal::KILL).map_err(failed())?;
            self.end(&record)?;
            if let Some(supervisor) = supervisor
                && !wait_readable(&supervisor, END_TIMEOUT)
            {
                state.supervisor.signal(Signal::KILL).map_err(failed())?;
            }
        }
        self.undo(&dir)
    }

    pub(super) fn usage(&self, id: &ContainerId) -> Result<Usage, RuntimeError> {
        Ok(self.cgroups.usage(&self.record(id)?.cgroup))
    }

    /// What an exec needs to know of a container that runs.
    pub(super) fn running(&self, id: &ContainerId) -> Result<(ContainerDir, ContainerRecord), RuntimeError> {
        let state = match self.status(id)?.state {
            State::Running => return Ok((self.container_dir(id), self.record(id)?)),
            State::Created => "not started",
            State::Exited(_) => "ended",
        };
        Err(RuntimeError::State { subject: format!("container {id}"), state, wanted: "given a further process" })
    }
}

/// Waits until the process of a handle has ended.
pub(super) async fn ended(process: OwnedFd) -> Result<(), RuntimeError> {
    let failed = || io_error("watch", Path::new("a supervisor"));
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for types that change their descriptor; an OwnedFd does not"
    )]
    let process = AsyncFd::with_interest(process, tokio::io::Interest::READABLE).map_err(failed())?;
    process.readable().await.map(drop).map_err(failed())
}

fn wait_readable(fd: &OwnedFd, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

/// The first line that a helper says.
fn read_answer(pipe: OwnedFd, timeout: Duration) -> io::Result<Vec<u8>> {
    if !wait_readable(&pipe, timeout) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut line = Vec::new();
    BufReader::new(File::from(pipe).take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// Sends a request to a supervisor and reads its answer.
fn ask(dir: &Path, request: &str) -> io::Result<Vec<u8>> {
    // A socket's path has a hundred characters at most; a descriptor of its folder makes it short.
    let folder = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::PATH.bits().cast_signed()).open(dir)?;
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    writeln!(stream, "{request}")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// What a helper's answer means; without one, its complaints.
pub(super) fn understand(
    answer: &[u8],
    subject: impl Fn() -> String,
    what: &'static str,
    dir: &Path,
) -> Result<(), RuntimeError> {
    let reason = match serde_json::from_slice(answer) {
        Ok(Answer::Done) => return Ok(()),
        Ok(Answer::Failed(reason)) => reason,
        Err(_) => "its helper went without an answer".to_owned(),
    };
    let complaints = fs::read_to_string(dir.join("supervisor.log")).unwrap_or_default();
    // The first line is the cause, those after it are who it passed on its way.
    let first = complaints.lines().next().map(|line| line.trim().trim_start_matches("ERROR").trim());
    let reason = first.map_or(reason.clone(), |first| format!("{reason} ({first})"));
    Err(RuntimeError::Failed { subject: subject(), what, reason })
}
