//! The pages over HTTP, and the event streams that keep them up to date.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pages::Page;
use crate::snapshot::Source;

/// How often an open page is looked at anew. A death shows within this after the node noticed it.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// What pages may load and do: their own style and script, and the event stream. Nothing from elsewhere, no framing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Why the dashboard is not served any more.
pub type ServeError = io::Error;

#[derive(Clone)]
struct Shared {
    source: Arc<dyn Source>,
    stop: CancellationToken,
}

/// Serves the dashboard until told to stop.
///
/// # Errors
/// [`ServeError`] if the listener breaks.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, stop: CancellationToken) -> Result<(), ServeError> {
    let router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/overview") }))
        .route("/{page}", get(page))
        .route("/live/{page}", get(live))
        .layer(from_fn(guard))
        .with_state(Shared { source, stop: stop.clone() });
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

async fn page(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let Some(page) = Page::named(&name) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    let snapshot = shared.source.snapshot(page).await;
    let html = page.whole(&snapshot).into_string();
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

async fn live(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let Some(page) = Page::named(&name) else {
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    Sse::new(changes(shared, page)).keep_alive(KeepAlive::default()).into_response()
}

/// The main part of a page, whenever it is another than before.
fn changes(shared: Shared, page: Page) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((shared, String::new()), move |(shared, last)| async move {
        loop {
            // An open page must not keep a node from stopping.
            shared.stop.run_until_cancelled(tokio::time::sleep(REFRESH_EVERY)).await?;
            let snapshot = shared.source.snapshot(page).await;
            let html = page.main(&snapshot).into_string();
            if html != last {
                return Some((Ok(Event::default().data(&html)), (shared, html)));
            }
        }
    })
}

/// Lets through only what was meant for this machine, and tells browsers what pages may do.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        return (StatusCode::MISDIRECTED_REQUEST, "the dashboard answers to loopback names only\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_loopback_names_are_answered() {
        for good in ["localhost:1", "127.0.0.1", "127.8.9.1:99", "[::1]:80", "LocalHost"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "evil.example", "localhost.evil.example:1", "10.0.0.1:80", "[fd00::1]:80"] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
