//! Calls about reaching out.

use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::Method;
use hyper::body::Frame;

use futures_util::StreamExt as _;

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
        let body = StreamBody::new(input.map(|part| part.map(Frame::data)));
        let uri = uri("/net/connect", &[("target", target), ("port", &port.to_string())]);
        let response = self.send(Method::POST, &uri, BoxBody::new(body)).await?;
        Ok(Body { inner: response.into_body() })
    }
}
