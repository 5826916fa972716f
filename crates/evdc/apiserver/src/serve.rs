//! One client on one byte stream: TLS, who it is, HTTP.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{User, ca, token::Claims},
    error::ApiError,
    object::{is_deleting, uid},
    respond::{self, ResponseBody},
    server::{ApiServer, Server},
};

/// How long a client may take for the TLS handshake, and for the headers of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most requests at once on one HTTP/2 connection, as Kubernetes' server: watches are requests too.
const H2_STREAMS_MAX: u32 = 250;

/// How often an HTTP/2 connection is probed, and how long it may take to answer: a client that is gone gives its watches back.
const H2_PING_EVERY: Duration = Duration::from_secs(30);
const H2_PING_WAIT: Duration = Duration::from_secs(15);

/// Largest headers of a request, in all; tokens take some KiB.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// Why a connection ended before its client ended it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not complete the TLS handshake.
    #[error("the TLS handshake with a client of the Kubernetes API failed: {0}")]
    Handshake(#[source] std::io::Error),
    /// The client took too long for the TLS handshake.
    #[error("a client of the Kubernetes API did not complete the TLS handshake in {} seconds", PATIENCE.as_secs())]
    Slow,
    /// What came was not HTTP, or the connection broke.
    #[error("a connection to the Kubernetes API broke: {0}")]
    Http(String),
}

impl ApiServer {
    /// Serves one client on a byte stream: TLS inside it, with a client certificate of this server's authority or none, then HTTP/1.1 or 2. Returns when
    /// the client has closed the connection, or gracefully after `shutdown`, or after [`ApiServer::shutdown`].
    ///
    /// # Errors
    /// See [`ServeError`]; they concern this connection alone.
    pub async fn serve<S>(&self, stream: S, shutdown: CancellationToken) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let server = Arc::clone(&self.server);
        let work = self.server.connections.track_future(serve(server, stream, shutdown));
        Box::pin(work).await
    }
}

async fn serve<S>(server: Arc<Server>, stream: S, shutdown: CancellationToken) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let accepting = TlsAcceptor::from(Arc::clone(&server.tls)).accept(stream);
    let stream = tokio::time::timeout(PATIENCE, accepting).await.map_err(|_| ServeError::Slow)?;
    let stream = stream.map_err(ServeError::Handshake)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(|chain| ca::user_of(chain.first()?));
    let closing = server.closing.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, user) = (Arc::clone(&server), user.clone());
        async move { Ok::<_, Infallible>(answer(server, user, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PING_WAIT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => { connection.as_mut().graceful_shutdown(); connection.await }
        () = closing.cancelled() => { connection.as_mut().graceful_shutdown(); connection.await }
    };
    outcome.map_err(|error| ServeError::Http(error.to_string()))
}

async fn answer(server: Arc<Server>, certified: Option<User>, request: Request<Incoming>) -> Response<ResponseBody> {
    let user = match certified {
        Some(user) => user,
        None => {
            let header = request.headers().get(header::AUTHORIZATION).cloned();
            match bearer(&server, header).await {
                Ok(user) => user,
                Err(error) => return respond::error(&error),
            }
        }
    };
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    server.handle(user, request).await
}

/// Who a bearer token names; nobody when there is none. A token that is not valid is refused, not ignored.
async fn bearer(server: &Server, header: Option<HeaderValue>) -> Result<User, ApiError> {
    let Some(value) = header else { return Ok(User::anonymous()) };
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    let found = match token {
        Some(token) => server.user_of_token(token.trim(), &[]).await?,
        None => None,
    };
    found.map(|(user, _)| user).ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))
}

impl Server {
    /// The ServiceAccount that a token stands for, if it is valid now for one of these audiences (none: the server itself) and the account, and the pod it
    /// is bound to, still exist.
    pub(crate) async fn user_of_token(
        &self,
        token: &str,
        audiences: &[&str],
    ) -> Result<Option<(User, Claims)>, ApiError> {
        let own = [crate::auth::token::ISSUER];
        let audiences = if audiences.is_empty() { &own[..] } else { audiences };
        let Some(claims) = self.tokens.verify(token, Timestamp::now().as_second()) else { return Ok(None) };
        if !claims.audiences.iter().any(|audience| audiences.contains(&audience.as_str())) {
            return Ok(None);
        }
        if !self.exists(&claims, "serviceaccounts", &claims.account, &claims.account_uid).await? {
            return Ok(None);
        }
        if let Some((pod, uid)) = &claims.pod
            && !self.exists(&claims, "pods", pod, uid).await?
        {
            return Ok(None);
        }
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", claims.namespace)];
        let mut user = User::new(format!("system:serviceaccount:{}:{}", claims.namespace, claims.account), groups);
        user.uid.clone_from(&claims.account_uid);
        if let Some((pod, uid)) = &claims.pod {
            user.extra.insert("authentication.kubernetes.io/pod-name".to_owned(), vec![pod.clone()]);
            user.extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![uid.clone()]);
        }
        Ok(Some((user, claims)))
    }
    /// Whether the object that a token names is still there, and not on its way out if it is the account.
    async fn exists(&self, claims: &Claims, plural: &str, name: &str, wanted: &str) -> Result<bool, ApiError> {
        let resource = self.registry().get("", "v1", plural).ok_or_else(ApiError::no_route)?;
        let found = self.store.get(&resource, &claims.namespace, name).await?;
        Ok(found.is_some_and(|found| uid(&found) == wanted && !(plural == "serviceaccounts" && is_deleting(&found))))
    }
}
