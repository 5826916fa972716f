//! Logs of containers and commands in them, for whoever carries them to the API server's clients. Knows nothing of HTTP, and does not ask
//! who may: its caller has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_runtime::logs::{self, Follow, LogLine, LogQuery};
use atoll_runtime::{ContainerId, ExecExit, ExecIo, ExecSpec, Runtime, RuntimeError, State};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::launch::{LABEL_CONTAINER, LABEL_NAMESPACE, LABEL_POD};

/// Pieces of a log that wait for a slow reader; the reader of the file waits too.
const PIECES_WAITING_MAX: usize = 16;

/// Kubernetes' limits for a termination message taken from the log.
const LAST_LINES: usize = 80;
const LAST_BYTES: usize = 2_048;

/// Which part of which log.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; may be left empty when the pod has one.
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
    logs: PathBuf,
}

impl Streams {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, logs: PathBuf) -> Self {
        Self { runtime, logs }
    }

    /// The log as bytes; ends where the log does, or with the container when it is followed. An error in it is its last item.
    ///
    /// # Errors
    ///
    /// No such log.
    pub async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, StreamError>>, StreamError> {
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

    /// Runs a command in a running container, its ends being these; how it ended.
    ///
    /// # Errors
    ///
    /// No such container, or it does not run; the command cannot be started.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        args: Vec<String>,
        io: ExecIo,
    ) -> Result<ExecExit, StreamError> {
        let found = self.newest(namespace, pod, container).await?;
        let id = match found {
            Some((id, true, _)) => id,
            Some(_) => return Err(StreamError::NotRunning(container.to_owned())),
            None => return Err(StreamError::NotFound { pod: pod.to_owned(), container: container.to_owned() }),
        };
        let exec = ExecSpec { args, env: Vec::new(), cwd: None, user: None, timeout: None };
        Ok(self.runtime.exec(&id, exec, io).await?)
    }

    /// The newest attempt: its id, whether it runs, its log.
    async fn newest(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Option<(ContainerId, bool, PathBuf)>, StreamError> {
        let label = |name: &str, labels: &std::collections::BTreeMap<String, String>| labels.get(name).cloned();
        let mine: Vec<_> = self
            .runtime
            .containers()
            .await?
            .into_iter()
            .filter(|it| label(LABEL_NAMESPACE, &it.labels).as_deref() == Some(namespace))
            .filter(|it| label(LABEL_POD, &it.labels).as_deref() == Some(pod))
            .collect();
        let mut names: Vec<String> = mine.iter().filter_map(|it| label(LABEL_CONTAINER, &it.labels)).collect();
        names.sort();
        names.dedup();
        let name = match (container, names.as_slice()) {
            ("", [only]) => only.clone(),
            ("", []) => return Ok(None),
            ("", _) => return Err(StreamError::WhichContainer(pod.to_owned(), names)),
            (given, _) => given.to_owned(),
        };
        // Of two pods of this name the newer one is meant: the older is on its way out.
        let newest = mine
            .into_iter()
            .filter(|it| label(LABEL_CONTAINER, &it.labels).as_deref() == Some(name.as_str()))
            .max_by_key(|it| it.created_at);
        Ok(newest.map(|it| (it.id, matches!(it.state, State::Running), it.log_path)))
    }

    async fn find_log(&self, request: &LogRequest) -> Result<(PathBuf, Option<ContainerId>), StreamError> {
        let not_found = || StreamError::NotFound { pod: request.pod.clone(), container: request.container.clone() };
        let newest = self.newest(&request.namespace, &request.pod, &request.container).await?;
        let (path, running) = match newest {
            Some((id, running, path)) => (path, running.then_some(id)),
            // Its container was removed; the log is there as long as the pod is.
            None => (self.on_disk(request).ok_or_else(not_found)?, None),
        };
        if !request.previous {
            return Ok((path, running));
        }
        let attempt: u32 =
            path.file_stem().and_then(|it| it.to_str()).and_then(|it| it.parse().ok()).ok_or_else(not_found)?;
        let before = attempt.checked_sub(1).ok_or_else(not_found)?;
        let path = path.with_file_name(format!("{before}.log"));
        if path.exists() { Ok((path, None)) } else { Err(not_found()) }
    }

    fn on_disk(&self, request: &LogRequest) -> Option<PathBuf> {
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

async fn deliver(
    path: &Path,
    request: &LogRequest,
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
    request: &LogRequest,
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

async fn send(sender: &mpsc::Sender<Result<Bytes, StreamError>>, lines: &[LogLine], request: &LogRequest) -> bool {
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
