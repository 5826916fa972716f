//! Streams to pods on their nodes: logs, exec, attach, port-forward. The server carries the bytes; what they mean is between client and agent.

use std::sync::Arc;

use futures_util::{
    StreamExt as _,
    future::{self, BoxFuture},
};
use http::{Request, Response, header, request::Parts};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    error::ApiError,
    object::{list, text},
    respond::ResponseBody,
    server::{Context, Server},
};

/// A byte stream to the agent of a node, on which it answers one HTTP/1.1 request.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// Opens streams to agents.
pub trait NodeProxy: Send + Sync + 'static {
    /// A stream to the agent of the node with this name. The agent serves HTTP/1.1 on it, at the paths of Kubernetes' kubelet:
    /// `/containerLogs/<namespace>/<pod>/<container>`, `/exec/…`, `/attach/…` and `/portForward/<namespace>/<pod>`.
    ///
    /// The error is shown to the client: it says what to do.
    fn open(&self, node: &str) -> BoxFuture<'_, Result<Box<dyn NodeStream>, String>>;
}

/// Passes a request on to the node of a pod, and its connection too when the protocol is changed.
pub(crate) async fn to_pod(
    server: &Arc<Server>,
    context: Context,
    parts: Parts,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = &context.target;
    let place = Arc::clone(&server.watches).try_acquire_owned();
    let place =
        place.map_err(|_| ApiError::new(429, "TooManyRequests", "the server has too many streams; try again later"))?;
    let pod = server.store.get(&context.resource, &target.namespace, &target.name).await?;
    let pod = pod.ok_or_else(|| context.not_found())?;
    let node = text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        let message = format!("pod {} does not have a host assigned", target.name);
        return Err(ApiError::bad_request(message));
    }
    let path = agent_path(&context, &pod)?;
    let proxy = server.proxy().ok_or_else(|| {
        ApiError::new(
            501,
            "NotImplemented",
            "this API server has no way to its nodes; logs and streams are not available",
        )
    })?;
    let stream = proxy.open(node).await;
    let stream = stream.map_err(|why| ApiError::new(502, "BadGateway", format!("error dialing node {node}: {why}")))?;
    pass_on(server, parts, &path, stream, place).await
}

/// The path at the agent.
fn agent_path(context: &Context, pod: &serde_json::Value) -> Result<String, ApiError> {
    let target = &context.target;
    let base = match target.subresource.as_str() {
        "portforward" => return Ok(format!("/portForward/{}/{}", target.namespace, target.name)),
        "log" => "containerLogs",
        other => other,
    };
    let containers = list(pod, &["spec", "containers"]);
    let all: Vec<&str> = containers
        .iter()
        .chain(list(pod, &["spec", "initContainers"]))
        .map(|container| text(container, &["name"]))
        .collect();
    let container = match (context.query.text("container"), containers) {
        ("", [only]) => text(only, &["name"]),
        ("", _) => {
            let names = all.join(" ");
            let message =
                format!("a container name must be specified for pod {}, choose one of: [{names}]", target.name);
            return Err(ApiError::bad_request(message));
        }
        (asked, _) if all.contains(&asked) => asked,
        (asked, _) => {
            return Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", target.name)));
        }
    };
    Ok(format!("/{base}/{}/{}/{container}", target.namespace, target.name))
}

async fn pass_on(
    server: &Arc<Server>,
    mut parts: Parts,
    path: &str,
    stream: Box<dyn NodeStream>,
    place: tokio::sync::OwnedSemaphorePermit,
) -> Result<Response<ResponseBody>, ApiError> {
    let lost = |error: &dyn std::fmt::Display| ApiError::new(502, "BadGateway", format!("the node's agent: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    let closing = server.closing.clone();
    server.connections.spawn(async move {
        let connection = connection.with_upgrades();
        tokio::select! {
            outcome = connection => if let Err(error) = outcome { tracing::debug!(%error, "a stream to a node ended") },
            () = closing.cancelled() => {}
        }
    });
    let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut request = Request::builder().method(parts.method).uri(format!("{path}{query}"));
    for (name, value) in &parts.headers {
        // Whom the client is to the server is no business of the node.
        if name != header::AUTHORIZATION && name != header::HOST {
            request = request.header(name, value);
        }
    }
    let request = request.header(header::HOST, "node").body(Empty::<Bytes>::new()).map_err(|error| lost(&error))?;
    let mut answer = sender.send_request(request).await.map_err(|error| lost(&error))?;
    if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(upgrade) = upgrade
    {
        let there = hyper::upgrade::on(&mut answer);
        let closing = server.closing.clone();
        server.connections.spawn(async move {
            let _place = place;
            let both = async {
                let (here, there) = tokio::try_join!(upgrade, there).ok()?;
                tokio::io::copy_bidirectional(&mut TokioIo::new(here), &mut TokioIo::new(there)).await.ok()
            };
            tokio::select! { _ = both => {}, () = closing.cancelled() => {} }
        });
        let (parts, _) = answer.into_parts();
        return Ok(Response::from_parts(parts, crate::respond::full(Bytes::new())));
    }
    let (parts, body) = answer.into_parts();
    // A stream that breaks off ends; the client sees how far it came. The place is held as long as the body.
    let body = body.map_frame(move |frame| {
        let _place = &place;
        frame
    });
    let frames = http_body_util::BodyStream::new(body).filter_map(|frame| future::ready(frame.ok().map(Ok)));
    Ok(Response::from_parts(parts, http_body_util::StreamBody::new(frames).boxed_unsync()))
}
