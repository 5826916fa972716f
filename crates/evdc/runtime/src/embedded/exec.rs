//! Further processes in containers of the embedded runtime, each with a helper of its own.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal as SystemSignal, kill_process_group};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe::Receiver;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::{Embedded, Inner, private_dir};
use crate::error::{RuntimeError, io_error, sys_error};
use crate::helper::{self, ExecRequest, ExecResult, Kind};
use crate::names::ContainerId;
use crate::oci;
use crate::runtime::{ExecIo, ExecOutput};
use crate::spec::ExecSpec;
use crate::status::ExecExit;

/// How long output is read after the process has ended: something it left behind may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(200);
/// Read at a time.
const PIECE_BYTES: usize = 16 << 10;
/// The socket by which a terminal comes, in the folder of its exec.
const CONSOLE: &str = "console.sock";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The folder of one exec. Dropped before the end, it ends the process.
struct Exec {
    folder: PathBuf,
    request: PathBuf,
    pid_file: PathBuf,
    result: PathBuf,
    ended: bool,
}

impl Drop for Exec {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.pid_file).ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid.filter(|_| !self.ended) {
            // Its helper has been killed and it is nobody's child, so its number is its own until it ends.
            let _ = kill_process_group(pid, SystemSignal::KILL);
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

impl Inner {
    fn prepare_exec(&self, id: &ContainerId, exec: &ExecSpec, terminal: bool) -> Result<Exec, RuntimeError> {
        let (dir, record) = self.running(id)?;
        let process = oci::exec_process(&record.spec, exec, terminal, &self.machine)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = dir.0.join("exec").join(format!("{}-{number}", std::process::id()));
        let state = folder.join(id.as_str());
        private_dir(&state)?;
        let prepared = Exec {
            request: folder.join("request.json"),
            pid_file: folder.join("pid"),
            result: folder.join("result.json"),
            folder,
            ended: false,
        };
        // A copy of its own: libcontainer puts sockets beside it that nobody else removes.
        let (from, to) = (dir.oci().join(id.as_str()).join("state.json"), state.join("state.json"));
        fs::copy(&from, &to).map_err(io_error("copy", &from))?;
        let process_path = prepared.folder.join("process.json");
        fs::write(&process_path, process.to_string()).map_err(io_error("write", &process_path))?;
        let request = ExecRequest {
            container: id.to_string(),
            root: prepared.folder.clone(),
            process: process_path,
            pid_file: prepared.pid_file.clone(),
            result: prepared.result.clone(),
            timeout: exec.timeout,
            console: terminal.then(|| prepared.folder.join(CONSOLE)),
        };
        let bytes = serde_json::to_vec(&request);
        let bytes = bytes.map_err(|error| RuntimeError::invalid(format!("container {id}"), error.to_string()))?;
        fs::write(&prepared.request, bytes).map_err(io_error("write", &prepared.request))?;
        Ok(prepared)
    }
}

impl Embedded {
    pub(super) async fn run_exec(&self, id: ContainerId, exec: ExecSpec, io: ExecIo) -> Result<ExecExit, RuntimeError> {
        let (name, terminal) = (id.clone(), io.terminal.is_some());
        let mut prepared = self.blocking(move |inner| inner.prepare_exec(&id, &exec, terminal)).await?;
        let console = io.terminal.map(|wanted| Ok((listen(&prepared.folder)?, wanted))).transpose();
        let console = console.map_err(io_error("listen in", &prepared.folder))?;
        let mut command = helper::command(&self.inner.helper, Kind::Exec, &prepared.request);
        let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        command.stdin(stdio(io.stdin)).stdout(stdio(io.stdout)).stderr(stdio(io.stderr));
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().map_err(io_error("start", &self.inner.helper));
        // It holds the caller's ends of pipes, which must close with the process.
        drop(command);
        let mut child = child?;
        let ended = tokio::select! {
            ended = child.wait() => ended,
            never = hand_over(console) => match never {},
        };
        ended.map_err(io_error("wait for", &self.inner.helper))?;
        let result = fs::read(&prepared.result).map_err(|error| error.to_string());
        let result = result.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        let reason = match result {
            Ok(ExecResult::Ended(exit)) => {
                prepared.ended = true;
                return Ok(exit);
            }
            Ok(ExecResult::Failed(reason)) => reason,
            Err(reason) => format!("its helper went without a result: {reason}"),
        };
        Err(RuntimeError::Failed { subject: format!("container {name}"), what: "given a further process", reason })
    }

    pub(super) async fn capture_exec(
        &self,
        id: ContainerId,
        exec: ExecSpec,
        bytes_max: usize,
    ) -> Result<ExecOutput, RuntimeError> {
        let ((mut out, stdout), (mut err, stderr)) = (self.pipe()?, self.pipe()?);
        let io = ExecIo { stdout: Some(stdout), stderr: Some(stderr), ..ExecIo::default() };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = {
            let running = self.run_exec(id, exec, io);
            let reading = async {
                tokio::join!(keep(&mut out, &mut stdout, bytes_max), keep(&mut err, &mut stderr, bytes_max));
            };
            tokio::pin!(running, reading);
            let mut read = false;
            let exit = loop {
                tokio::select! {
                    exit = &mut running => break exit,
                    () = &mut reading, if !read => read = true,
                }
            };
            if !read {
                // Late output is a courtesy.
                let _ = tokio::time::timeout(DRAIN, &mut reading).await;
            }
            exit?
        };
        Ok(ExecOutput { exit, stdout, stderr })
    }

    fn pipe(&self) -> Result<(Receiver, OwnedFd), RuntimeError> {
        let failed = || sys_error("make a pipe for", &self.inner.dir);
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed())?;
        let read = Receiver::from_owned_fd(read).map_err(io_error("make a pipe for", &self.inner.dir))?;
        Ok((read, write))
    }
}

/// By way of an open folder: a socket's own path may have 107 bytes.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    let folder = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{CONSOLE}", folder.as_raw_fd());
    UnixListener::bind(path)
}

/// Hands a terminal over when it comes. Never ends by itself: the process may fail before it has one.
async fn hand_over(console: Option<(UnixListener, oneshot::Sender<OwnedFd>)>) -> Infallible {
    if let Some((listener, wanted)) = console {
        match receive(&listener).await {
            // Who wanted it may be gone.
            Ok(terminal) => drop(wanted.send(terminal)),
            Err(error) => tracing::warn!(%error, "a terminal did not come"),
        }
    }
    std::future::pending().await
}

async fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || take(&stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            taken => return taken,
        }
    }
}

/// The file descriptor in the next message.
fn take(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut sent = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut sent, RecvFlags::CMSG_CLOEXEC)?;
    let found = sent.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    found.ok_or_else(|| io::Error::other("a message without a file descriptor"))
}

/// Reads to the end and keeps the beginning.
async fn keep(pipe: &mut Receiver, kept: &mut Vec<u8>, bytes_max: usize) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(read) = pipe.read(&mut piece).await {
        if read == 0 {
            break;
        }
        let room = bytes_max.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(&piece[..room]);
    }
}
