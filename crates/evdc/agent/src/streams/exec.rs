//! Commands in containers: between a client's streams and a process's pipes, or its terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use atoll_kubelet::{Command, CommandIo, Input, Output, Size};
use atoll_runtime::{ExecExit, ExecIo, ExecSpec};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Newest, StreamError, Streams};

/// How long output may pause after the process has ended: something it left behind may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(200);

/// Read at a time.
const PIECE_BYTES: usize = 16 << 10;

/// What `timeout(1)` returns. No command here has a limit of time.
const TIMED_OUT: i32 = 124;

/// Carries content between a client and a process, to the end of its output.
type Carrying = BoxFuture<'static, ()>;

impl Streams {
    /// Runs a command in a running container to its end; all its output is written then.
    pub(super) async fn run(&self, command: Command, io: CommandIo) -> Result<i32, StreamError> {
        let Command { namespace, pod, container, args, terminal, .. } = command;
        let id = match self.newest(&namespace, &pod, &container).await? {
            Some(Newest { id, running: true, .. }) => id,
            Some(_) => return Err(StreamError::NotRunning(container)),
            None => return Err(StreamError::NotFound { pod, container }),
        };
        // What container engines say about a terminal that they know nothing of.
        let env = if terminal { vec![("TERM".to_owned(), "xterm".to_owned())] } else { Vec::new() };
        let exec = ExecSpec { args, env, cwd: None, user: None, timeout: None };
        let ended = CancellationToken::new();
        let (theirs, carrying) = if terminal { on_terminal(io, ended.clone()) } else { on_pipes(io, ended.clone())? };
        let running = async {
            let exit = self.runtime.exec(&id, exec, theirs).await;
            ended.cancel();
            exit
        };
        let (exit, ()) = tokio::join!(running, carrying);
        Ok(match exit? {
            ExecExit::Exited(code) => code,
            ExecExit::TimedOut => TIMED_OUT,
        })
    }
}

/// Pipes for what is asked for.
fn on_pipes(io: CommandIo, ended: CancellationToken) -> io::Result<(ExecIo, Carrying)> {
    let (their_stdin, stdin) = inlet(io.stdin)?;
    let (their_stdout, stdout) = outlet(io.stdout)?;
    let (their_stderr, stderr) = outlet(io.stderr)?;
    let theirs = ExecIo { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr, terminal: None };
    let carrying = async move {
        let inward = async {
            if let Some((mut from, mut to)) = stdin {
                // A process that reads no more is no failure. Dropping the pipe is its end.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }
        };
        let inward = ended.run_until_cancelled(inward);
        tokio::join!(inward, drain(stdout, &ended), drain(stderr, &ended));
    };
    Ok((theirs, carrying.boxed()))
}

type Inlet = (Option<OwnedFd>, Option<(Input, pipe::Sender)>);
type Outlet = (Option<OwnedFd>, Option<(pipe::Receiver, Output)>);

fn inlet(input: Option<Input>) -> io::Result<Inlet> {
    let Some(input) = input else { return Ok((None, None)) };
    let (sender, receiver) = pipe::pipe()?;
    Ok((Some(receiver.into_blocking_fd()?), Some((input, sender))))
}

fn outlet(output: Option<Output>) -> io::Result<Outlet> {
    let Some(output) = output else { return Ok((None, None)) };
    let (sender, receiver) = pipe::pipe()?;
    Ok((Some(sender.into_blocking_fd()?), Some((receiver, output))))
}

/// Carries output to its end, or until it pauses after the process's.
async fn drain<R: AsyncRead + Unpin>(pipe: Option<(R, Output)>, ended: &CancellationToken) {
    let Some((mut from, mut to)) = pipe else { return };
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let paused = async {
            ended.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut piece) => read.unwrap_or(0),
            () = paused => 0,
        };
        // A client that is gone has its command ended by whoever noticed; a pipe that nobody reads does the rest.
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

/// A terminal instead.
fn on_terminal(io: CommandIo, ended: CancellationToken) -> (ExecIo, Carrying) {
    let (wanted, coming) = oneshot::channel();
    let carrying = async move {
        let CommandIo { stdin, stdout, stderr: _, sizes } = io;
        // It may fail before it has one.
        let terminal = ended.run_until_cancelled(coming).await.and_then(Result::ok);
        let terminal = terminal.and_then(|fd| Terminal::new(fd).ok());
        let Some(Terminal { output, mut input, control }) = terminal else { return };
        let inward = async {
            if let Some(mut stdin) = stdin {
                let _ = tokio::io::copy(&mut stdin, &mut input).await;
            }
        };
        // What is shown to nobody must be read all the same, or the process waits for ever. A terminal that nobody holds any more fails to be read, which
        // is its end.
        let stdout = stdout.unwrap_or_else(|| Box::new(tokio::io::sink()));
        let mut outward = pin!(drain(Some((output, stdout)), &ended));
        tokio::select! {
            () = &mut outward => {}
            _ = async { tokio::join!(inward, resize(control, sizes)) } => outward.await,
        }
    };
    (ExecIo { terminal: Some(wanted), ..ExecIo::default() }, carrying.boxed())
}

/// The other end of a process's terminal. tokio's pipes do for any file that can be waited for.
struct Terminal {
    output: pipe::Receiver,
    input: pipe::Sender,
    control: OwnedFd,
}

impl Terminal {
    fn new(control: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&control, fcntl_getfl(&control)? | OFlags::NONBLOCK)?;
        let output = pipe::Receiver::from_owned_fd_unchecked(control.try_clone()?)?;
        let input = pipe::Sender::from_owned_fd_unchecked(control.try_clone()?)?;
        Ok(Self { output, input, control })
    }
}

async fn resize(terminal: OwnedFd, mut sizes: mpsc::Receiver<Size>) {
    while let Some(Size { width, height }) = sizes.recv().await {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = tcsetwinsize(&terminal, size) {
            tracing::debug!(%error, "a terminal could not be resized");
        }
    }
}
