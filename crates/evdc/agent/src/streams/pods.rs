//! The streams as a kubelet's pods.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_kubelet::{Command, CommandIo, LogWish, Pods, Refusal};
use atoll_podnet::PodKey;
use atoll_runtime::{ErrorKind, State};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

use super::{StreamError, Streams};

/// A port of a pod is on this machine: it answers at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        let text = error.to_string();
        match error {
            StreamError::NotFound { .. } => Self::NotFound(text),
            StreamError::WhichContainer(..) | StreamError::NotRunning(_) | StreamError::NoPrevious { .. } => {
                Self::Invalid(text)
            }
            StreamError::Runtime(error) if error.kind() == ErrorKind::Invalid => Self::Invalid(text),
            StreamError::Runtime(_) | StreamError::Io(_) => Self::Failed(text),
        }
    }
}

impl Pods for Streams {
    fn logs(&self, wish: LogWish) -> BoxFuture<'_, Result<BoxStream<'static, Result<Bytes, Refusal>>, Refusal>> {
        async move {
            let pieces = Self::logs(self, wish).await?;
            Ok(pieces.map(|piece| piece.map_err(Refusal::from)).boxed())
        }
        .boxed()
    }

    fn exec(&self, command: Command, io: CommandIo) -> BoxFuture<'_, Result<i32, Refusal>> {
        self.run(command, io).map(|ended| ended.map_err(Refusal::from)).boxed()
    }

    fn dial<'a>(&'a self, namespace: &'a str, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Refusal>> {
        async move {
            let path = self.network_of(namespace, pod).await?;
            let dialled = tokio::task::spawn_blocking(move || dial_within(&path, port)).await;
            let dialled = dialled.map_err(std::io::Error::other).and_then(|it| it).and_then(|stream| {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                TcpStream::from_std(stream)
            });
            let told = |error| format!("failed to connect to localhost:{port} inside the pod: {error}");
            dialled.map_err(|error| Refusal::Failed(told(error)))
        }
        .boxed()
    }
}

impl Streams {
    /// The network namespace of a pod that runs here.
    async fn network_of(&self, namespace: &str, pod: &str) -> Result<PathBuf, Refusal> {
        let containers = self.containers(namespace, pod).await?;
        let running = containers.iter().filter(|it| matches!(it.state, State::Running));
        let newest = running.max_by_key(|it| it.created_at);
        let key = newest.and_then(|it| it.sandbox.as_str().parse::<PodKey>().ok());
        // Asked for first: to attach it anew would make one for a pod that is going.
        let attached = self.network.attached();
        let key = key.filter(|key| attached.contains(key));
        let key = key.ok_or_else(|| Refusal::Invalid(format!("pod {pod} is not running")))?;
        let attached = self.network.attach(&key).await;
        attached.map(|(_, path)| path).map_err(|problem| Refusal::Failed(problem.0))
    }
}

/// A connection to the pod's own loopback, as if by one of its processes: what listens there alone is reached as well. A socket stays in the namespace
/// that it was made in, a thread can be in another than its process: so one that lives no longer than this makes it.
fn dial_within(namespace: &Path, port: u16) -> std::io::Result<std::net::TcpStream> {
    let namespace = File::open(namespace)?;
    let dialling = std::thread::Builder::new().name("pod-port".to_owned()).spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let dial = |address: SocketAddr| std::net::TcpStream::connect_timeout(&address, CONNECT_WITHIN);
        dial((Ipv6Addr::LOCALHOST, port).into()).or_else(|_| dial((Ipv4Addr::LOCALHOST, port).into()))
    })?;
    dialling.join().map_err(|_| std::io::Error::other("the thread that dials ended"))?
}
