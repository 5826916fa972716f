//! A typed client of the control API. One connection a request: they are local, and a job's connection is its lifetime.

mod bus;
mod cloud;
mod deploy;
mod fs;
mod names;
mod proxy;
mod rules;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use atoll_ids::{BucketName, NodeId};
pub use bus::BusEvents;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    API_VERSION, ApiError, BucketInfo, BucketRequest, ConfigEntry, Event, GetRequest, HealRequest, InviteRequest,
    Invited, JoinRequest, Joined, Listing, NetFound, NetPaths, NetStatus, NodeStatus, ObjectInfo, PutRequest,
    RemoveRequest, SOCKET_NAME, Usage,
};

/// No answer but a stream is larger than this: a page of a listing is about 1,000 objects of under 8 KiB each.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// One event is a line of JSON; the longest names a few paths.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no node is running for {}", data_dir.display())]
    NotRunning {
        /// The data directory that was asked for.
        data_dir: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot use the control socket {}: {source}", socket.display())]
    Socket {
        /// The socket's path.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The node answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection broke: the node stopped or crashed.
    #[error("the node went away in the middle of its answer: {0}")]
    Gone(String),
    /// The answer is not of this API's form: another version of the program runs there.
    #[error("the node's answer is not understood ({0}); is another version of atoll running?")]
    Malformed(String),
}

type RequestBody = BoxBody<Bytes, io::Error>;

/// Speaks to the node of one data directory. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    data_dir: PathBuf,
    socket: PathBuf,
}

/// The bytes of a content upload.
pub type Upload = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

impl Client {
    /// A client of the node whose state lies in `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_path_buf(), socket: data_dir.join(SOCKET_NAME) }
    }

    /// Who the node is and how it fares.
    ///
    /// # Errors
    /// As every call of this client: [`ClientError`].
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.json(Method::GET, "/status", &[], None::<&()>).await
    }

    /// The planetary network as the node sees it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net(&self) -> Result<NetStatus, ClientError> {
        self.json(Method::GET, "/net", &[], None::<&()>).await
    }

    /// The ways to a peer, measured. It is named by its id, name or address.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_path(&self, node: &str) -> Result<NetPaths, ClientError> {
        self.json(Method::GET, "/net/path", &[("node", node)], None::<&()>).await
    }

    /// Looks up where a node is that has this id, address or name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_find(&self, who: &str) -> Result<NetFound, ClientError> {
        self.json(Method::GET, "/net/find", &[("who", who)], None::<&()>).await
    }

    /// The effective configuration of the running node.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config(&self) -> Result<Vec<ConfigEntry>, ClientError> {
        self.json(Method::GET, "/config", &[], None::<&()>).await
    }

    /// Asks the node to stop; answers once it has begun to.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        self.json(Method::POST, "/shutdown", &[], None::<&()>).await
    }

    /// A ticket by which other nodes join this one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn invite(&self, request: &InviteRequest) -> Result<Invited, ClientError> {
        self.json(Method::POST, "/invite", &[], Some(request)).await
    }

    /// Joins the node that made the ticket.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join(&self, request: &JoinRequest) -> Result<Joined, ClientError> {
        self.json(Method::POST, "/join", &[], Some(request)).await
    }

    /// Forgets a peer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn forget(&self, node: NodeId) -> Result<(), ClientError> {
        self.json(Method::DELETE, &format!("/peers/{node}"), &[], None::<&()>).await
    }

    /// All buckets.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn buckets(&self) -> Result<Vec<BucketInfo>, ClientError> {
        self.json(Method::GET, "/buckets", &[], None::<&()>).await
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_bucket(&self, name: &BucketName, request: &BucketRequest) -> Result<BucketInfo, ClientError> {
        self.json(Method::PUT, &format!("/buckets/{name}"), &[], Some(request)).await
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_bucket(&self, name: &BucketName) -> Result<(), ClientError> {
        self.json(Method::DELETE, &format!("/buckets/{name}"), &[], None::<&()>).await
    }

    /// One page of a bucket's objects.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<char>,
        after: Option<&str>,
    ) -> Result<Listing, ClientError> {
        let delimiter = delimiter.map(String::from).unwrap_or_default();
        let query = [
            ("bucket", bucket.as_str()),
            ("prefix", prefix),
            ("delimiter", &delimiter),
            ("after", after.unwrap_or("")),
        ];
        self.json(Method::GET, "/list", &query, None::<&()>).await
    }

    /// One object.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stat(&self, bucket: &BucketName, key: &str) -> Result<ObjectInfo, ClientError> {
        self.json(Method::GET, "/stat", &[("bucket", bucket.as_str()), ("key", key)], None::<&()>).await
    }

    /// How much is stored under a prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn usage(&self, bucket: &BucketName, prefix: &str) -> Result<Usage, ClientError> {
        self.json(Method::GET, "/usage", &[("bucket", bucket.as_str()), ("prefix", prefix)], None::<&()>).await
    }

    /// Stores local files and directories; the node reads them itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, request: &PutRequest) -> Result<Events, ClientError> {
        self.events("/put", request).await
    }

    /// Writes objects to local files; the node writes them itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, request: &GetRequest) -> Result<Events, ClientError> {
        self.events("/get", request).await
    }

    /// Removes objects.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove(&self, request: &RemoveRequest) -> Result<Events, ClientError> {
        self.events("/remove", request).await
    }

    /// Looks for lost and rotten shards and makes them again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn heal(&self, request: &HealRequest) -> Result<Events, ClientError> {
        self.events("/heal", request).await
    }

    /// Stores what a stream gives under one key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn upload(&self, bucket: &BucketName, key: &str, content: Upload) -> Result<ObjectInfo, ClientError> {
        let body = StreamBody::new(content.map(|part| part.map(Frame::data)));
        let uri = uri("/object", &[("bucket", bucket.as_str()), ("key", key)]);
        let response = self.send(Method::PUT, &uri, BoxBody::new(body)).await?;
        parse(&collect(response.into_body()).await?)
    }

    /// The content of one object, streamed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn download(&self, bucket: &BucketName, key: &str) -> Result<Body, ClientError> {
        let uri = uri("/object", &[("bucket", bucket.as_str()), ("key", key)]);
        let response = self.send(Method::GET, &uri, empty()).await?;
        Ok(Body { inner: response.into_body() })
    }

    async fn events<B: Serialize>(&self, path: &str, request: &B) -> Result<Events, ClientError> {
        let response = self.send(Method::POST, &uri(path, &[]), json_body(request)?).await?;
        Ok(Events { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let body = body.map_or_else(|| Ok(empty()), json_body)?;
        let response = self.send(method, &uri(path, query), body).await?;
        parse(&collect(response.into_body()).await?)
    }

    async fn send(&self, method: Method, uri: &str, body: RequestBody) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.connect_error(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| ClientError::Malformed(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(gone)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    fn connect_error(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { data_dir: self.data_dir.clone() }
            }
            _ => ClientError::Socket { socket: self.socket.clone(), source },
        }
    }
}

/// What a job says, as it says it.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// The next event; `None` after [`Event::Done`] or [`Event::Failed`] was given.
    ///
    /// # Errors
    /// [`ClientError::Gone`] if the node stops before the job ends.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return parse(&line).map(Some);
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(ClientError::Malformed("an event of more than 1 MiB".into()));
            }
            match self.body.frame().await {
                Some(frame) => self.buffer.extend_from_slice(&data(frame)?),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError::Gone("an event is cut".into())),
            }
        }
    }

    /// Runs the job to its end, handing every event but the last to `on_event`, and gives its summary.
    ///
    /// # Errors
    /// [`ClientError::Api`] if the job failed, [`ClientError::Gone`] if the node went away.
    pub async fn finish(mut self, mut on_event: impl FnMut(&Event)) -> Result<crate::Summary, ClientError> {
        while let Some(event) = self.next().await? {
            match event {
                Event::Done { summary } => return Ok(summary),
                Event::Failed { error } => return Err(error.into()),
                other => on_event(&other),
            }
        }
        Err(ClientError::Gone("the job has no end".into()))
    }
}

/// The content of an object.
#[derive(Debug)]
pub struct Body {
    inner: Incoming,
}

impl Body {
    /// The next piece; `None` at the end of the content. A content that breaks off is an error, never a short end.
    ///
    /// # Errors
    /// [`ClientError::Gone`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        match self.inner.frame().await {
            Some(frame) => data(frame).map(Some),
            None => Ok(None),
        }
    }
}

fn data(frame: Result<Frame<Bytes>, hyper::Error>) -> Result<Bytes, ClientError> {
    Ok(frame.map_err(gone)?.into_data().unwrap_or_default())
}

fn gone(error: hyper::Error) -> ClientError {
    ClientError::Gone(error.to_string())
}

fn empty() -> RequestBody {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

fn json_body<B: Serialize>(body: &B) -> Result<RequestBody, ClientError> {
    let bytes = serde_json::to_vec(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
    Ok(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed())
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let limited = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
    Ok(limited.collect().await.map_err(|error| ClientError::Gone(error.to_string()))?.to_bytes())
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(response.into_body()).await {
        Ok(bytes) => serde_json::from_slice::<ApiError>(&bytes)
            .map_or_else(|_| ClientError::Malformed(unknown_refusal(status)), ClientError::Api),
        Err(error) => error,
    }
}

fn unknown_refusal(status: StatusCode) -> String {
    format!("HTTP status {status} without an explanation")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::Malformed(error.to_string()))
}

/// `/v1/path?name=value`, values percent-encoded (RFC 3986, section 2.1).
fn uri(path: &str, query: &[(&str, &str)]) -> String {
    let mut uri = format!("/{API_VERSION}{path}");
    for (index, (name, value)) in query.iter().enumerate() {
        uri.push(if index == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
                _ => uri.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn queries_are_percent_encoded() {
        let check = |value: &str, expected: &str| assert_eq!(uri("/stat", &[("key", value)]), expected);
        check("a/b c", "/v1/stat?key=a%2Fb%20c");
        check("ä&=?#", "/v1/stat?key=%C3%A4%26%3D%3F%23");
        check("", "/v1/stat?key=");
        assert_eq!(uri("/list", &[("a", "1"), ("b", "2")]), "/v1/list?a=1&b=2");
        assert_eq!(uri("/status", &[]), "/v1/status");
    }
}
