//! The gateway's outer side: TLS, HTTP/1.1 and HTTP/2, and the way from `http://` to `https://`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::back::Gateway;
use crate::certificates::{Certificates, Resolver};
use crate::proxy::{Proxy, ResponseBody, plain};

/// A browser that does not finish its handshake, or the headers of its first request, within this is not one.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Requests of one HTTP/2 connection at once: hyper's and the RFC's recommended least (RFC 9113, section 6.5.2).
const STREAMS_MAX: u32 = 100;

/// How the front is served.
#[derive(Debug, Clone, Copy)]
pub struct FrontConfig {
    /// Connections from outside at once; more wait in the kernel's queue. Each costs some 50 KiB.
    pub connections_max: usize,
    /// Connections that are under way at the end get this long.
    pub drain: Duration,
}

impl Default for FrontConfig {
    fn default() -> Self {
        Self { connections_max: 4096, drain: Duration::from_secs(5) }
    }
}

/// Why the front cannot be served.
#[derive(Debug, Error)]
pub enum FrontError {
    /// rustls refuses the configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves HTTPS on `listener` until told to stop.
///
/// # Errors
/// [`FrontError`] before anything is served; connections that fail end alone.
pub async fn serve_https(
    listener: TcpListener,
    gateway: Gateway,
    certificates: Arc<dyn Certificates>,
    config: FrontConfig,
    stop: CancellationToken,
) -> Result<(), FrontError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let resolver = Arc::new(Resolver { gateway: gateway.clone(), certificates });
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let proxy = Proxy::new(gateway);
    accept(listener, config, stop, move |stream, from, stop| {
        let (acceptor, proxy) = (acceptor.clone(), proxy.clone());
        async move {
            let Ok(Ok(stream)) = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await else { return };
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { proxy.answer(request, from).await }
            });
            let server = server();
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%from, %error, "a connection from outside ended");
            }
        }
    })
    .await;
    Ok(())
}

/// Answers plain HTTP with the way to HTTPS on `port`, until told to stop.
pub async fn serve_redirect(listener: TcpListener, port: u16, config: FrontConfig, stop: CancellationToken) {
    accept(listener, config, stop, move |stream, from, _| async move {
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(redirect(&request, port)) });
        let server = server();
        let served = server.serve_connection(TokioIo::new(stream), service);
        // One answer is all there is; whoever keeps the connection open longer wants something else.
        if let Ok(Err(error)) = timeout(HANDSHAKE_WITHIN, served).await {
            tracing::debug!(%from, %error, "a connection from outside ended");
        }
    })
    .await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_WITHIN);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    server
}

fn redirect<B>(request: &Request<B>, port: u16) -> Response<ResponseBody> {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let Some(host) = host.map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host)) else {
        return plain(StatusCode::BAD_REQUEST, "the request names no host");
    };
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{host}{port}{path}");
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, &location);
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(_) => plain(StatusCode::BAD_REQUEST, "the request's host or path cannot be repeated"),
    }
}

async fn accept<F, S>(listener: TcpListener, config: FrontConfig, stop: CancellationToken, serve: S)
where
    S: Fn(TcpStream, SocketAddr, CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(config.connections_max));
    let connections = TaskTracker::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                // Small answers should not wait for more to come.
                let _: io::Result<()> = stream.set_nodelay(true);
                let served = serve(stream, from, stop.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection from outside could not be accepted");
                // Out of file descriptors, mostly: trying again at once would only spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    if timeout(config.drain, connections.wait()).await.is_err() {
        tracing::warn!("connections from outside were still under way and are cut off");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn where_plain_http_is_sent() {
        async fn check(host: Option<&str>, uri: &str, port: u16, expected: Option<&str>) {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let response = redirect(&request.body(()).unwrap(), port);
            let location = response.headers().get("location").map(|it| it.to_str().unwrap().to_owned());
            assert_eq!(location.as_deref(), expected);
            assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
        check(Some("a.example"), "/x?y=1", 443, Some("https://a.example/x?y=1")).await;
        check(Some("a.example:80"), "/", 8443, Some("https://a.example:8443/")).await;
        check(None, "/", 443, None).await;
    }
}
