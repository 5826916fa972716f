//! Calls about reaching out.

use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::Method;
use hyper::body::Frame;

use futures_util::StreamExt as _;
use futures_util::stream::once;
use tokio::sync::oneshot;

use super::{Body, Client, ClientError, Upload, uri};
use crate::{ProxyRequest, ProxyStatus};

impl Client {
    /// The proxy and what went through.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn proxy(&self) -> Result<ProxyStatus, ClientError> {
        self.json(Method::GET, "/net/proxy", &[], None::<&()>).await
    }

    /// Names the nodes that take what lies outside the planetary network, until the node restarts.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_proxy(&self, request: &ProxyRequest) -> Result<ProxyStatus, ClientError> {
        self.json(Method::PUT, "/net/proxy", &[], Some(request)).await
    }

    /// Connects to a port of a target (a node's id, planetary address or name, or what an exit reaches): `input` is what is sent there, what is given is what comes back.
    /// Either may end before the other.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect(&self, target: &str, port: u16, input: Upload) -> Result<Body, ClientError> {
        // A node that refuses does not read on; what is still being written then would break the connection before its answer is read.
        let (accepted, waiting) = oneshot::channel::<()>();
        let input = once(async move {
            let _: Result<(), _> = waiting.await;
            input
        });
        let body = StreamBody::new(input.flatten().map(|part| part.map(Frame::data)));
        let uri = uri("/net/connect", &[("target", target), ("port", &port.to_string())]);
        let response = self.send(Method::POST, &uri, BoxBody::new(body)).await?;
        let _: Result<(), _> = accepted.send(());
        Ok(Body { inner: response.into_body() })
    }
}
