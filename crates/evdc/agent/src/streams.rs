//! Logs of containers, commands in them and ports of pods, for whoever carries them to the API server's clients: [`Streams`] are the
//! [`Pods`](atoll_kubelet::Pods) of this node in this eVDC. Knows nothing of HTTP, and does not ask who may: its caller has.

mod exec;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_kubelet::LogWish;
use atoll_runtime::logs::{self, Follow, LogLine, LogQuery};
use atoll_runtime::{ContainerId, ContainerStatus, GroupName, Runtime, RuntimeError, State};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::launch::{LABEL_CONTAINER, LABEL_NAMESPACE, LABEL_POD};
use crate::seams::Network;

/// Pieces of a log that wait for a slow reader; the reader of the file waits too.
const PIECES_WAITING_MAX: usize = 16;

/// Kubernetes' limits for a termination message taken from the log.
const LAST_LINES: usize = 80;
const LAST_BYTES: usize = 2_048;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No such container here, or it has not begun.
    #[error("container {container:?} in pod {pod:?} is not available on this node")]
    NotFound {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// It would need to be named.
    #[error("a container name must be specified for pod {0}, choose one of: {1:?}")]
    WhichContainer(String, Vec<String>),
    /// It has not been started before.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Not running.
    #[error("container {0:?} is not running")]
    NotRunning(String),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Files.
    #[error("the log cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// Gives them out. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    logs: PathBuf,
    /// Whose sandboxes are this eVDC's: others on this node may have pods of the same names.
    group: Option<GroupName>,
}

/// The newest attempt of a container.
struct Newest {
    id: ContainerId,
    running: bool,
    log: PathBuf,
}

impl Streams {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Network>,
        logs: PathBuf,
        group: Option<GroupName>,
    ) -> Self {
        Self { runtime, network, logs, group }
    }

    /// The log as bytes; ends where the log does, or with the container when it is followed. An error in it is its last item.
    ///
    /// # Errors
    ///
    /// No such log.
    pub async fn logs(&self, request: LogWish) -> Result<BoxStream<'static, Result<Bytes, StreamError>>, StreamError> {
        let (path, running) = self.find_log(&request).await?;
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let runtime = self.runtime.clone();
        tokio::spawn(async move {
            if let Err(error) = deliver(&path, &request, running, runtime, &sender).await {
                // A reader that is gone needs no word.
                let _ = sender.send(Err(error)).await;
            }
        });
        let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        Ok(Box::pin(stream))
    }

    /// The containers of this pod, also those that ended.
    async fn containers(&self, namespace: &str, pod: &str) -> Result<Vec<ContainerStatus>, StreamError> {
        let sandboxes = self.runtime.sandboxes().await?;
        let own: BTreeSet<_> = sandboxes.into_iter().filter(|it| it.group == self.group).map(|it| it.id).collect();
        let mut found = self.runtime.containers().await?;
        found.retain(|it| {
            let is = |name: &str, wanted: &str| label(&it.labels, name) == Some(wanted);
            own.contains(&it.sandbox) && is(LABEL_NAMESPACE, namespace) && is(LABEL_POD, pod)
        });
        Ok(found)
    }

    async fn newest(&self, namespace: &str, pod: &str, container: &str) -> Result<Option<Newest>, StreamError> {
        let mine = self.containers(namespace, pod).await?;
        let mut names: Vec<&str> = mine.iter().filter_map(|it| label(&it.labels, LABEL_CONTAINER)).collect();
        names.sort_unstable();
        names.dedup();
        let name = match (container, names.as_slice()) {
            ("", [only]) => *only,
            ("", []) => return Ok(None),
            ("", _) => {
                let names = names.into_iter().map(str::to_owned).collect();
                return Err(StreamError::WhichContainer(pod.to_owned(), names));
            }
            (given, _) => given,
        };
        // Of two pods of this name the newer one is meant: the older is on its way out.
        let newest = mine.iter().filter(|it| label(&it.labels, LABEL_CONTAINER) == Some(name));
        let newest = newest.max_by_key(|it| it.created_at);
        Ok(newest.map(|it| Newest {
            id: it.id.clone(),
            running: matches!(it.state, State::Running),
            log: it.log_path.clone(),
        }))
    }

    async fn find_log(&self, request: &LogWish) -> Result<(PathBuf, Option<ContainerId>), StreamError> {
        let not_found = || StreamError::NotFound { pod: request.pod.clone(), container: request.container.clone() };
        let newest = self.newest(&request.namespace, &request.pod, &request.container).await?;
        let (path, running) = match newest {
            Some(Newest { id, running, log }) => (log, running.then_some(id)),
            // Its container was removed; the log is there as long as the pod is.
            None => (self.on_disk(request).ok_or_else(not_found)?, None),
        };
        if !request.previous {
            return Ok((path, running));
        }
        let attempt = path.file_stem().and_then(|it| it.to_str()).and_then(|it| it.parse::<u32>().ok());
        let before = attempt.and_then(|it| it.checked_sub(1)).map(|it| path.with_file_name(format!("{it}.log")));
        let none = || StreamError::NoPrevious { pod: request.pod.clone(), container: request.container.clone() };
        before.filter(|path| path.exists()).map(|path| (path, None)).ok_or_else(none)
    }

    fn on_disk(&self, request: &LogWish) -> Option<PathBuf> {
        // These are names in a path: nothing that could lead elsewhere.
        let plain = |text: &str| !text.is_empty() && !text.contains(['/', '\0']) && !text.starts_with('.');
        if ![&request.namespace, &request.pod, &request.container].iter().all(|it| plain(it)) {
            return None;
        }
        let prefix = format!("{}_{}_", request.namespace, request.pod);
        let folders = std::fs::read_dir(&self.logs).ok()?.filter_map(Result::ok);
        let folders = folders.filter(|it| it.file_name().to_string_lossy().starts_with(&prefix));
        let attempts =
            folders.flat_map(|it| std::fs::read_dir(it.path().join(&request.container)).into_iter().flatten());
        let paths = attempts.filter_map(Result::ok).map(|it| it.path());
        let number = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
        paths.filter(|path| number(path).is_some()).max_by_key(|path| number(path))
    }
}

fn label<'a>(labels: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    labels.get(name).map(String::as_str)
}

async fn deliver(
    path: &Path,
    request: &LogWish,
    running: Option<ContainerId>,
    runtime: Arc<dyn Runtime>,
    sender: &mpsc::Sender<Result<Bytes, StreamError>>,
) -> Result<(), StreamError> {
    if let Some(id) = running.filter(|_| request.follow) {
        return follow(path, request, &id, runtime, sender).await;
    }
    let query = LogQuery { tail: request.tail, since: request.since, bytes_max: request.bytes_max };
    let at = path.to_owned();
    let lines = tokio::task::spawn_blocking(move || logs::read(&at, &query)).await.map_err(std::io::Error::other)??;
    send(sender, &lines, request).await;
    Ok(())
}

/// All from the beginning by one reader, so that no line is lost or told twice where the past meets the present.
async fn follow(
    path: &Path,
    request: &LogWish,
    id: &ContainerId,
    runtime: Arc<dyn Runtime>,
    sender: &mpsc::Sender<Result<Bytes, StreamError>>,
) -> Result<(), StreamError> {
    let mut follow = Follow::new(path);
    let mut lines = follow.available()?;
    lines.retain(|line| request.since.is_none_or(|since| line.at >= since));
    let first = request.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    if !send(sender, &lines[first..], request).await {
        return Ok(());
    }
    let mut ended = std::pin::pin!(runtime.wait(id));
    loop {
        let lines = tokio::select! {
            lines = follow.next() => lines?,
            _ = &mut ended => {
                send(sender, &follow.available()?, request).await;
                return Ok(());
            }
            () = sender.closed() => return Ok(()),
        };
        if !send(sender, &lines, request).await {
            return Ok(());
        }
    }
}

async fn send(sender: &mpsc::Sender<Result<Bytes, StreamError>>, lines: &[LogLine], request: &LogWish) -> bool {
    if lines.is_empty() {
        return true;
    }
    let mut bytes = Vec::new();
    for line in lines {
        if request.timestamps {
            bytes.extend_from_slice(format!("{} ", line.at).as_bytes());
        }
        bytes.extend_from_slice(&line.text);
        if !line.partial {
            bytes.push(b'\n');
        }
    }
    sender.send(Ok(bytes.into())).await.is_ok()
}

/// The end of a log, for a container that failed and said nothing else.
pub(crate) fn last_lines(path: &Path) -> String {
    let query = LogQuery { tail: Some(LAST_LINES), ..LogQuery::default() };
    let lines = logs::read(path, &query).unwrap_or_default();
    let text: Vec<u8> = lines.iter().flat_map(|line| [line.text.as_slice(), b"\n"].concat()).collect();
    let from = text.len().saturating_sub(LAST_BYTES);
    String::from_utf8_lossy(&text[from..]).into_owned()
}
