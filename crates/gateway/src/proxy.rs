//! One request: choose a replica, pass it on, choose another if the first did not get it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::back::Gateway;
use crate::replica::{ReplicaConnector, uri};
use crate::table::{Choice, ReplicaKey};

/// Bodies up to this are read before the first replica is tried, so that a second one can be. Forms are smaller, uploads larger.
const KEPT_BODY_BYTES: usize = 64 << 10;

/// Replicas that are tried for one request. Three dead ones in a row mean more than bad luck.
const TRIES: usize = 3;

/// A replica begins to answer within this. The usual 60 s of proxies.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// An idle connection to a replica is kept this long. Shorter than servers commonly keep one, so that it is we who close.
const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per replica.
const IDLE_MAX: usize = 32;

/// Headers that mean only one connection (RFC 9110, section 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type RequestBody = BoxBody<Bytes, BoxError>;

/// What goes back to the browser.
pub(crate) type ResponseBody = BoxBody<Bytes, BoxError>;

/// Passes requests to replicas.
#[derive(Clone)]
pub(crate) struct Proxy {
    gateway: Gateway,
    client: Client<ReplicaConnector, RequestBody>,
}

/// A request, ready to be sent more than once if its body could be kept.
struct Outgoing {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: OutgoingBody,
    upgrade: Option<OnUpgrade>,
}

enum OutgoingBody {
    Kept(Bytes),
    Once(Option<RequestBody>),
}

impl Proxy {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .set_host(false)
            .retry_canceled_requests(true)
            .build(ReplicaConnector(gateway.clone()));
        Self { gateway, client }
    }

    /// Answers one request that came from `from` over TLS.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let stats = self.gateway.stats();
        stats.requests.fetch_add(1, Ordering::Relaxed);
        let response = self.pass_on(request, from).await.unwrap_or_else(|(status, text)| {
            if status.is_server_error() {
                stats.failed.fetch_add(1, Ordering::Relaxed);
            }
            plain(status, &text)
        });
        Ok(response)
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Response<ResponseBody>, (StatusCode, String)> {
        let host = host_of(&request).ok_or((StatusCode::BAD_REQUEST, "the request names no host".to_owned()))?;
        let path = request.uri().path().to_owned();
        let mut outgoing = Outgoing::of(request, &host, from).await?;
        let mut tried = Vec::new();
        let mut last = String::new();
        while tried.len() < TRIES {
            let key = match self.gateway.choose(&host, &path, &tried) {
                Choice::Replica(key) => key,
                Choice::NoRule => return Err((StatusCode::NOT_FOUND, format!("nothing answers for {host}{path}"))),
                Choice::NoReplica => break,
            };
            let under_way = UnderWay { gateway: self.gateway.clone(), key };
            if !tried.is_empty() {
                self.gateway.stats().retried.fetch_add(1, Ordering::Relaxed);
            }
            tried.push(key);
            match self.send(&mut outgoing, key).await? {
                Ok(response) => return Ok(self.finish(response, outgoing.upgrade, under_way)),
                Err(Failure { text, again: true }) => last = text,
                Err(Failure { text, again: false }) => return Err((StatusCode::BAD_GATEWAY, text)),
            }
        }
        tracing::debug!(%host, %path, last, "no replica answered");
        Err((StatusCode::SERVICE_UNAVAILABLE, format!("no replica of {host} answers now; try again in a moment")))
    }

    async fn send(
        &self,
        outgoing: &mut Outgoing,
        key: ReplicaKey,
    ) -> Result<Result<Response<Incoming>, Failure>, (StatusCode, String)> {
        let request = outgoing.request(key)?;
        let repeatable = matches!(outgoing.body, OutgoingBody::Kept(_)) && outgoing.upgrade.is_none();
        match timeout(ANSWER_WITHIN, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(Ok(response)),
            Ok(Err(error)) => {
                let safe = error.is_connect() || outgoing.method.is_idempotent();
                Ok(Err(Failure { text: format!("the replica did not answer: {error}"), again: repeatable && safe }))
            }
            Err(_) => {
                let text = format!("the replica did not answer within {} s", ANSWER_WITHIN.as_secs());
                Err((StatusCode::GATEWAY_TIMEOUT, text))
            }
        }
    }

    fn finish(
        &self,
        mut response: Response<Incoming>,
        upgrade: Option<OnUpgrade>,
        under_way: UnderWay,
    ) -> Response<ResponseBody> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(outer) = upgrade
        {
            let inner = hyper::upgrade::on(&mut response);
            tokio::spawn(tunnel(outer, inner, under_way));
            return response.map(|_| empty());
        }
        strip(response.headers_mut(), false);
        *response.version_mut() = Version::default();
        response.map(|body| Counted { body, _under_way: under_way }.boxed())
    }
}

struct Failure {
    text: String,
    again: bool,
}

impl Outgoing {
    async fn of(mut request: Request<Incoming>, host: &str, from: SocketAddr) -> Result<Self, (StatusCode, String)> {
        let wants_upgrade = request.headers().contains_key(header::UPGRADE) && request.version() == Version::HTTP_11;
        let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        strip(&mut headers, wants_upgrade);
        forwarded(&mut headers, host, from);
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        let small = body.size_hint().upper().is_some_and(|upper| upper <= KEPT_BODY_BYTES as u64);
        let body = if small {
            let bad = |error: BoxError| (StatusCode::BAD_REQUEST, format!("the request's body broke off: {error}"));
            OutgoingBody::Kept(Limited::new(body, KEPT_BODY_BYTES).collect().await.map_err(bad)?.to_bytes())
        } else {
            OutgoingBody::Once(Some(body.map_err(Into::into).boxed()))
        };
        Ok(Self { method: parts.method, path, headers, body, upgrade })
    }

    fn request(&mut self, key: ReplicaKey) -> Result<Request<RequestBody>, (StatusCode, String)> {
        let bad = |error: hyper::http::Error| (StatusCode::BAD_REQUEST, error.to_string());
        let body = match &mut self.body {
            OutgoingBody::Kept(bytes) => full(bytes.clone()),
            OutgoingBody::Once(body) => {
                let spent = (StatusCode::BAD_GATEWAY, "the request's body was spent on a replica that died".to_owned());
                body.take().ok_or(spent)?
            }
        };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(uri(key, &self.path).map_err(bad)?)
            .body(body)
            .map_err(bad)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

/// The host a request is for, lower case, without port. HTTP/2 says it in the URI, HTTP/1.1 in `Host`.
fn host_of<B>(request: &Request<B>) -> Option<String> {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = request.uri().host().or(named)?;
    let host = host.rsplit_once(':').map_or(host, |(host, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { host } else { request.uri().host().unwrap_or(host) }
    });
    Some(host.to_ascii_lowercase())
}

/// Removes what is meant for one connection only; an upgrade is kept for a replica that should get it.
fn strip(headers: &mut HeaderMap, keep_upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let upgrade = headers.get(header::UPGRADE).cloned().filter(|_| keep_upgrade);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Says who asked and how. What the browser claims of this is not believed.
fn forwarded(headers: &mut HeaderMap, host: &str, from: SocketAddr) {
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-forwarded-for", &from.ip().to_canonical().to_string());
    set("x-forwarded-proto", "https");
    set("x-forwarded-host", host);
    set("host", host);
}

async fn tunnel(outer: OnUpgrade, inner: OnUpgrade, under_way: UnderWay) {
    let (Ok(outer), Ok(inner)) = tokio::join!(outer, inner) else { return };
    let (mut outer, mut inner) = (TokioIo::new(outer), TokioIo::new(inner));
    if let Err(error) = tokio::io::copy_bidirectional(&mut outer, &mut inner).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
    drop(under_way);
}

/// Counts a request at its replica for as long as it lives.
struct UnderWay {
    gateway: Gateway,
    key: ReplicaKey,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.gateway.done(self.key);
    }
}

/// A body that counts as a request under way until it is dropped.
struct Counted {
    body: Incoming,
    _under_way: UnderWay,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn empty() -> ResponseBody {
    full(Bytes::new())
}

/// An answer of the gateway's own.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(full(Bytes::from(format!("{} {text}\n", status.as_u16()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_host_is_found() {
        fn check(uri: &str, header: Option<&str>, expected: Option<&str>) {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = header {
                request = request.header("host", host);
            }
            assert_eq!(host_of(&request.body(()).unwrap()).as_deref(), expected, "{uri} {header:?}");
        }
        check("/", Some("A.example:8443"), Some("a.example"));
        check("/", Some("a.example"), Some("a.example"));
        check("https://b.example/x", None, Some("b.example"));
        check("/", None, None);
    }

    #[test]
    fn headers_of_one_connection_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-private"), ("x-private", "1"), ("te", "trailers"), ("upgrade", "h2c"), ("a", "b")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut kept = headers.clone();
        strip(&mut headers, false);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["a"]);
        strip(&mut kept, true);
        assert_eq!(kept.get("upgrade").unwrap(), "h2c");
        assert_eq!(kept.get("connection").unwrap(), "upgrade");
    }
}
