//! What is behind the requests: pods that have logs, run commands and have ports.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Something to read from.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// Something to write to; dropping it ends it.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Why a request is not done, in words for its client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing on this node.
    #[error("{0}")]
    NotFound(String),
    /// It is there, and this cannot be done with it.
    #[error("{0}")]
    Invalid(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

/// Which part of which log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogWish {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// The attempt before the newest.
    pub previous: bool,
    /// Go on as it grows, until the container ends.
    pub follow: bool,
    /// Only so many last lines.
    pub tail: Option<usize>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Each line after its time.
    pub timestamps: bool,
    /// No more bytes than these.
    pub bytes_max: Option<usize>,
}

/// A command in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// It has a terminal, which its output and errors share.
    pub terminal: bool,
    /// It is given input.
    pub stdin: bool,
    /// Its output is wanted.
    pub stdout: bool,
    /// Its errors are wanted; never with a terminal.
    pub stderr: bool,
}

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The ends of a command: those that it asked for.
pub struct CommandIo {
    /// What it reads; ends with the client's input.
    pub stdin: Option<Input>,
    /// Where its output goes.
    pub stdout: Option<Output>,
    /// Where its errors go.
    pub stderr: Option<Output>,
    /// Sizes of its terminal as they change.
    pub sizes: mpsc::Receiver<Size>,
}

/// Pods of one node.
pub trait Pods: Send + Sync + 'static {
    /// A log, ending where it does, or with its container when it is followed. An error in it is its last item.
    fn logs(&self, wish: LogWish) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal>>;

    /// Runs a command to its end: what it returned. All its output is written by then. Dropping this ends the command.
    fn exec(&self, command: Command, io: CommandIo) -> BoxFuture<'_, Result<i32, Refusal>>;

    /// A connection to a port of a pod, as from within it.
    fn dial<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, Refusal>>;
}
