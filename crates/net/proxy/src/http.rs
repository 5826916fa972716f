//! The proxy as HTTP clients see it (RFC 9110, sections 7.6 and 9.3.6): `CONNECT`, and requests that name a whole `http://` address.
//!
//! A request of the second kind gets a connection of its own: pages that are worth more are HTTPS, and that comes by `CONNECT`.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::front::{REQUEST_WITHIN, Session};
use crate::local::Local;
use crate::reach::{ReachError, Reached};
use crate::splice::{IDLE_MAX, splice};
use crate::target::Target;

/// The port of `http://` addresses that name none (RFC 9110, section 4.2.1).
const HTTP_PORT: u16 = 80;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Headers that mean one connection only (RFC 9110, section 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// How this proxy names itself to servers, as proxies have to (RFC 9110, section 7.6.3).
const VIA: HeaderValue = HeaderValue::from_static("1.1 atoll");

type Body = BoxBody<Bytes, hyper::Error>;

/// What a program is told instead of an answer from its target.
struct Refused(StatusCode, String);

impl From<ReachError> for Refused {
    fn from(error: ReachError) -> Self {
        Self(error.status(), error.to_string())
    }
}

/// Serves the requests of one connection.
pub(crate) async fn serve(local: Local, session: Session) {
    let service = service_fn(move |request| {
        let session = session.clone();
        async move { Ok::<_, Infallible>(answer(request, session).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(local), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the proxy broke off");
    }
}

async fn answer(request: Request<Incoming>, session: Session) -> Response<Body> {
    let answered = match (session.admitted, request.method()) {
        (false, _) => {
            let text = "this proxy is for the user who runs the node (setting network.proxy_users)";
            Err(Refused(StatusCode::FORBIDDEN, text.into()))
        }
        (true, &Method::CONNECT) => connect(request, session).await,
        (true, _) => forward(request, session).await,
    };
    answered.unwrap_or_else(|Refused(status, text)| plain(status, &text))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("atoll: {text}\n"))).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Host and port of an address.
fn place(uri: &Uri, default_port: Option<u16>) -> Result<(Target, u16), Refused> {
    let bad = |text: String| Refused(StatusCode::BAD_REQUEST, text);
    let host = uri.host().ok_or_else(|| bad("the request names no host".into()))?;
    let port = uri.port_u16().or(default_port).ok_or_else(|| bad(format!("the request names no port of {host}")))?;
    Ok((host.parse().map_err(|error| bad(format!("{error}")))?, port))
}

async fn connect(request: Request<Incoming>, session: Session) -> Result<Response<Body>, Refused> {
    let (target, port) = place(request.uri(), None)?;
    let reached = session.reacher.open(&target, port).await?;
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let stop = session.stop.clone();
        tokio::select! {
            ended = tunnel(upgrade, reached) => if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel broke off");
            },
            () = stop.cancelled() => {}
        }
        drop(session);
    });
    let nothing = Full::new(Bytes::new()).map_err(|never| match never {});
    Ok(Response::new(nothing.boxed()))
}

async fn tunnel(upgrade: OnUpgrade, mut reached: Reached) -> io::Result<()> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded.downcast::<TokioIo<Local>>().map_err(|_| io::Error::other("not a connection of ours"))?;
    let mut local = parts.io.into_inner();
    local.unread(&parts.read_buf);
    let motion = reached.motion();
    splice(&mut local, &mut reached, motion, IDLE_MAX).await
}

async fn forward(request: Request<Incoming>, session: Session) -> Result<Response<Body>, Refused> {
    match request.uri().scheme_str() {
        Some("http") => {}
        Some(_) => {
            let text = "only http:// addresses are asked for by a plain request; others by CONNECT";
            return Err(Refused(StatusCode::BAD_REQUEST, text.into()));
        }
        None => {
            let text = "this is a proxy and has no pages; name it as one, as in curl -x";
            return Err(Refused(StatusCode::BAD_REQUEST, text.into()));
        }
    }
    let (target, port) = place(request.uri(), Some(HTTP_PORT))?;
    let request = outgoing(request)?;
    let reached = session.reacher.open(&target, port).await?;
    let motion = reached.motion();
    let handshake = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake::<_, Incoming>(TokioIo::new(reached));
    let broken = |error: hyper::Error| Refused(StatusCode::BAD_GATEWAY, format!("{target} port {port}: {error}"));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection for one request broke off");
            },
            () = motion.stopped(IDLE_MAX) => {}
            () = session.stop.cancelled() => {}
        }
        drop(session.place);
    });
    let mut response = sender.send_request(request).await.map_err(broken)?;
    strip(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| body.boxed()))
}

/// The request as the server is to get it.
fn outgoing(request: Request<Incoming>) -> Result<Request<Incoming>, Refused> {
    let (mut parts, body) = request.into_parts();
    let bad = |_| Refused(StatusCode::BAD_REQUEST, "the address cannot be passed on".into());
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    // Names and passwords in an address are not for the server's log.
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = HeaderValue::from_str(host).map_err(|_| bad(()))?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::builder().path_and_query(path).build().map_err(|_| bad(()))?;
    parts.version = Version::HTTP_11;
    strip(&mut parts.headers);
    // What the address says counts, not what the program wrote there (RFC 9112, section 3.2.2).
    parts.headers.insert(header::HOST, host);
    parts.headers.append(header::VIA, VIA);
    Ok(Request::from_parts(parts, body))
}

/// Removes what is meant for one connection only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_for_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn places() {
        let check = |uri: &str, default: Option<u16>, expect: Option<(&str, u16)>| {
            let found = place(&uri.parse().unwrap(), default).ok();
            let expect = expect.map(|(target, port)| (target.parse::<Target>().unwrap(), port));
            assert_eq!(found, expect, "{uri}");
        };
        check("attic.atoll:22", None, Some(("attic.atoll", 22)));
        check("[600::1]:22", None, Some(("600::1", 22)));
        check("attic.atoll", None, None);
        check("http://attic.atoll/x?y", Some(80), Some(("attic.atoll", 80)));
        check("http://user:secret@attic.atoll:8080/", Some(80), Some(("attic.atoll", 8080)));
        check("/page", Some(80), None);
        check("http://a_b!/", Some(80), None);
    }
}
