//! Requests on one byte stream: HTTP/1.1, and what it is changed to.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::pods::{Command, LogWish, Pods, Refusal};
use crate::query::Wanted;
use crate::spdy::Stream;
use crate::status::{Body, Problem};
use crate::upgrade::{Spoken, agree};
use crate::{command, forward, spdy, websocket};

/// Logs, commands and forwarded pods at once on one node: each costs two tasks and some 100 KiB.
const SESSIONS_MAX: usize = 256;

/// How long a request may take to be written: its writer is the API server.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// How long a client may take to open a command's channels, as kubelet waits.
const CHANNELS_WITHIN: Duration = Duration::from_secs(30);

/// What is spoken for a command.
const EXEC_WEBSOCKET: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const EXEC_SPDY: &[&str] = &["v4.channel.k8s.io"];

/// What is spoken for ports; within a WebSocket it is SPDY again.
const FORWARD_WEBSOCKET: &[&str] = &["SPDY/3.1+portforward.k8s.io"];
const FORWARD_SPDY: &[&str] = &["portforward.k8s.io"];

/// Why a stream ended before its client ended it.
#[derive(Debug, thiserror::Error)]
#[error("a stream to this node's pods broke: {0}")]
pub struct ServeError(#[from] hyper::Error);

/// Answers for the pods of one node. Cheap to clone; all clones share their limits.
#[derive(Clone)]
pub struct Kubelet {
    pods: Arc<dyn Pods>,
    places: Arc<Semaphore>,
}

impl Kubelet {
    /// For these pods.
    pub fn new(pods: Arc<dyn Pods>) -> Self {
        Self { pods, places: Arc::new(Semaphore::new(SESSIONS_MAX)) }
    }

    /// Serves whoever is at the other end of `stream`, who must have been let in, until it is closed or `stop`.
    ///
    /// # Errors
    /// [`ServeError`]; it concerns this stream alone.
    pub fn serve<S>(&self, stream: S, stop: CancellationToken) -> BoxFuture<'static, Result<(), ServeError>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (kubelet, stopping) = (self.clone(), stop.clone());
        let service = service_fn(move |request| {
            let (kubelet, stopping) = (kubelet.clone(), stopping.clone());
            async move {
                let answer = kubelet.answer(request, stopping).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(|problem| problem.response()))
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        // On the heap, and so of one known type: what is in it is large.
        async move { stop.run_until_cancelled(connection).await.unwrap_or(Ok(())).map_err(ServeError) }.boxed()
    }

    async fn answer(&self, request: Request<Incoming>, stop: CancellationToken) -> Result<Response<Body>, Problem> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let why = "this node has too many streams to its pods; try again later";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why)
        })?;
        let wanted = Wanted::parse(request.uri().path(), request.uri().query().unwrap_or_default(), Timestamp::now())?;
        match wanted {
            Wanted::Logs(_) if request.method() != Method::GET => {
                Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "logs are read by GET"))
            }
            Wanted::Logs(wish) => self.logs(wish, place).await,
            Wanted::Exec(command) => self.exec(request, command, place, stop),
            Wanted::Forward(namespace, pod) => self.forward(request, (namespace, pod), place, stop),
        }
    }

    async fn logs(&self, wish: LogWish, place: OwnedSemaphorePermit) -> Result<Response<Body>, Problem> {
        let mut left = wish.bytes_max.unwrap_or(usize::MAX);
        let pieces = self.pods.logs(wish).await?;
        // One that breaks off ends: the client sees how far it came. The place is held as long as the body.
        let frames = pieces.map(move |piece| {
            let _place = &place;
            piece.map(|mut bytes| {
                bytes.truncate(left);
                left -= bytes.len();
                Frame::data(bytes)
            })
        });
        let frames = frames.map(|frame| frame.map_err(|refusal: Refusal| std::io::Error::other(refusal)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn exec(
        &self,
        mut request: Request<Incoming>,
        command: Command,
        place: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) -> Result<Response<Body>, Problem> {
        let (spoken, answer) = agree(request.headers(), EXEC_WEBSOCKET, EXEC_SPDY)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let pods = self.pods.clone();
        let session = async move {
            let _place = place;
            let Ok(io) = upgrade.await else { return };
            let io = TokioIo::new(io);
            match spoken {
                Spoken::WebSocket => {
                    let (channels, carrier) = websocket::channels(websocket::accepted(io).await, &command);
                    command::run(&*pods, command, channels, carrier).await;
                }
                Spoken::Spdy => {
                    let (mut streams, carrier) = spdy::session(io);
                    let mut carrier = std::pin::pin!(carrier);
                    let channels = tokio::select! {
                        channels = tokio::time::timeout(CHANNELS_WITHIN, channels(&mut streams, &command)) => channels,
                        () = &mut carrier => return,
                    };
                    match channels {
                        Ok(channels) => command::run(&*pods, command, channels, carrier).await,
                        Err(_) => tracing::debug!("a client did not open its command's channels"),
                    }
                }
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(Box::pin(session)).await });
        Ok(answer)
    }

    fn forward(
        &self,
        mut request: Request<Incoming>,
        pod: (String, String),
        place: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) -> Result<Response<Body>, Problem> {
        let (spoken, answer) = agree(request.headers(), FORWARD_WEBSOCKET, FORWARD_SPDY)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let pods = self.pods.clone();
        let session = async move {
            let _place = place;
            let Ok(io) = upgrade.await else { return };
            let io = TokioIo::new(io);
            match spoken {
                Spoken::Spdy => {
                    let (streams, carrier) = spdy::session(io);
                    forward::run(pods, pod, streams, carrier).await;
                }
                Spoken::WebSocket => {
                    let (bytes, outer) = websocket::bytes(websocket::accepted(io).await);
                    let (streams, inner) = spdy::session(bytes);
                    let carrier = async {
                        tokio::select! { () = outer => {}, () = inner => {} }
                    };
                    forward::run(pods, pod, streams, carrier).await;
                }
            }
        };
        tokio::spawn(async move { stop.run_until_cancelled(Box::pin(session)).await });
        Ok(answer)
    }
}

/// Waits for the streams that are a command's channels: errors always, the others as it asked.
async fn channels(streams: &mut tokio::sync::mpsc::Receiver<Stream>, command: &Command) -> command::Channels {
    let mut channels = command::Channels::default();
    let wanted = [command.stdin, command.stdout, command.stderr, command.terminal];
    let mut missing = 1 + wanted.iter().filter(|&&wanted| wanted).count();
    while missing > 0 {
        // The carrier ends with its client, and this with the carrier.
        let Some(stream) = streams.recv().await else { return std::future::pending().await };
        let channel = match stream.header("streamtype") {
            "error" => &mut channels.error,
            "stdin" if command.stdin => &mut channels.stdin,
            "stdout" if command.stdout => &mut channels.stdout,
            "stderr" if command.stderr => &mut channels.stderr,
            "resize" if command.terminal => &mut channels.sizes,
            _ => continue,
        };
        if channel.replace(stream.io).is_none() {
            missing -= 1;
        }
    }
    channels
}
