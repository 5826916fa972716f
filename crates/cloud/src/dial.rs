//! The Kubernetes API over the link: `atoll/kube/1`.
//!
//! A stream begins with a frame that names the eVDC; what follows is the TLS connection of an ordinary Kubernetes client, end to end with the API server.
//! The link says which node speaks, the client's certificate says as whom; both are needed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_ids::{EvdcId, NodeId};
use atoll_link::{BoxStream, LinkHandle, Traffic};
use atoll_wire::{read_frame, write_frame};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::protocol::Credentials;

/// The protocol's name.
pub const KUBE_PROTOCOL: &str = "atoll/kube/1";

/// What every API server's certificate is good for besides its addresses: the name that pods use.
pub const API_SERVER_NAME: &str = "kubernetes.default.svc";

/// The frame that names the eVDC: its 16 bytes.
const NAMING_BYTES_MAX: u32 = 16;

/// A server that cannot be reached is not waited for longer; the client tries again.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// An HTTP/2 connection that is silent is asked for a sign of life after this, and given up after as long again: a node that died is noticed in ten
/// seconds even if its host never says so.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Connections to one API by one local port at once: programs of one person, or pods of one node. Others wait.
const CONNECTIONS_MAX: usize = 512;

/// Why the API cannot be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// The node that serves it cannot be reached.
    #[error("the node of the API, {}, cannot be reached: {why}", .node.short())]
    Unreachable {
        /// Which node.
        node: NodeId,
        /// What is in the way.
        why: String,
    },
    /// TLS fails.
    #[error("TLS with the API server: {0}")]
    Tls(io::Error),
    /// The credentials are not usable.
    #[error("the credentials for the API are not usable: {0}")]
    Credentials(String),
}

/// Where an eVDC's API is.
#[derive(Clone)]
pub struct ApiAddress {
    /// How to get there.
    pub link: LinkHandle,
    /// The node that serves it.
    pub control: NodeId,
    /// Which eVDC's.
    pub evdc: EvdcId,
}

impl ApiAddress {
    /// A stream to the API server, before TLS.
    ///
    /// # Errors
    /// [`DialError::Unreachable`]
    pub async fn open(&self) -> Result<BoxStream, DialError> {
        let opened = open_named(&self.link, self.control, KUBE_PROTOCOL, self.evdc).await;
        opened.map_err(|why| DialError::Unreachable { node: self.control, why })
    }

    /// A Kubernetes client with these credentials.
    ///
    /// # Errors
    /// [`DialError::Credentials`]; whether the server can be reached shows with the first request.
    pub fn client(&self, credentials: &Credentials) -> Result<kube::Client, DialError> {
        let connector = ApiConnector { address: self.clone(), tls: Arc::new(tls(credentials)?) };
        let http = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_keep_alive_interval(ALIVE_EVERY)
            .http2_keep_alive_timeout(ALIVE_EVERY)
            .http2_keep_alive_while_idle(true)
            .build::<_, kube::client::Body>(connector);
        Ok(kube::Client::new(Absolute(http), "default"))
    }

    /// Passes connections of `listener` on to the API server, byte by byte, until told to stop: for kubectl and its like, and for pods.
    pub async fn serve_local(self, listener: TcpListener, stop: CancellationToken) {
        each_connection(listener, stop, move |mut local| {
            let address = self.clone();
            async move {
                let mut remote = address.open().await.map_err(|error| error.to_string())?;
                tokio::io::copy_bidirectional(&mut local, &mut remote)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
        })
        .await;
    }
}

/// Serves each connection of a listener until told to stop, so many at once and no more.
pub(crate) async fn each_connection<F>(listener: TcpListener, stop: CancellationToken, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                listener.accept().await.map(|(local, _)| (local, place))
            } => accepted,
        };
        let Ok((local, place)) = accepted else {
            // Out of file descriptors, mostly: trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // A connection that cannot be set so is slower, no more.
        let _ = local.set_nodelay(true);
        let (served, stop) = (serve(local), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Some(Err(error)) = stop.run_until_cancelled(served).await {
                tracing::debug!(error, "a connection to an eVDC's API ended");
            }
        });
    }
}

/// A stream to a node for a protocol that begins with the name of an eVDC.
pub(crate) async fn open_named(
    link: &LinkHandle,
    node: NodeId,
    protocol: &'static str,
    evdc: EvdcId,
) -> Result<BoxStream, String> {
    let opening = async {
        let mut stream = link.open(node, protocol, Traffic::Control).await.map_err(|error| error.to_string())?;
        let named = write_frame(&mut stream, evdc.as_bytes(), NAMING_BYTES_MAX).await;
        named.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        Ok(stream)
    };
    timeout(CONNECT_WITHIN, opening).await.map_err(|_| "no answer")?
}

/// Reads which eVDC a stream is for.
///
/// # Errors
/// In words.
pub async fn named<S: AsyncRead + Unpin>(stream: &mut S) -> Result<EvdcId, String> {
    let frame = timeout(CONNECT_WITHIN, read_frame(stream, NAMING_BYTES_MAX)).await.map_err(|_| "it names no eVDC")?;
    let frame = frame.map_err(|error| error.to_string())?.ok_or("it closed the stream")?;
    EvdcId::from_slice(&frame).ok_or_else(|| "it does not name an eVDC".into())
}

fn tls(credentials: &Credentials) -> Result<ClientConfig, DialError> {
    let bad = |error: &dyn std::fmt::Display| DialError::Credentials(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(credentials.authority.as_bytes()) {
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| bad(&error))?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(|error| bad(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| bad(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// kube gives URIs without a host; hyper's pool wants one.
#[derive(Clone)]
struct Absolute(HttpClient<ApiConnector, kube::client::Body>);

impl Service<hyper::Request<kube::client::Body>> for Absolute {
    type Response = hyper::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = hyper_util::client::legacy::ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: hyper::Request<kube::client::Body>) -> Self::Future {
        let path = request.uri().path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let uri = Uri::builder().scheme("https").authority(API_SERVER_NAME).path_and_query(path).build();
        if let Ok(uri) = uri {
            *request.uri_mut() = uri;
        }
        self.0.request(request)
    }
}

/// hyper's way to the API server.
#[derive(Clone)]
struct ApiConnector {
    address: ApiAddress,
    tls: Arc<ClientConfig>,
}

impl Service<Uri> for ApiConnector {
    type Response = ApiIo;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<ApiIo, DialError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        async move {
            let stream = address.open().await?;
            let name = ServerName::try_from(API_SERVER_NAME).expect("it is a DNS name");
            let handshake = timeout(CONNECT_WITHIN, TlsConnector::from(tls).connect(name, stream)).await;
            let stream = handshake.map_err(|_| DialError::Tls(io::ErrorKind::TimedOut.into()))?;
            Ok(ApiIo(TokioIo::new(stream.map_err(DialError::Tls)?)))
        }
        .boxed()
    }
}

/// A TLS connection as hyper wants it.
struct ApiIo(TokioIo<TlsStream<BoxStream>>);

impl Connection for ApiIo {
    fn connected(&self) -> Connected {
        Connected::new().negotiated_h2()
    }
}

impl Read for ApiIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, sink)
    }
}

impl Write for ApiIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
