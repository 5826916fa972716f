//! The small servers of the catalogue's charts, run in containers as `atoll sample NAME`. They take all configuration from the
//! environment, listen on `[::]` (IPv4 too where the system allows) and end well: on SIGTERM they first say that they are not ready,
//! serve on while the news spreads, then finish what they have begun.

pub mod guestbook_db;
pub mod guestbook_web;
pub mod store;
pub mod website;

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Where they listen unless `PORT` says otherwise; the charts name it.
const PORT: u16 = 8080;

/// The variable by which an image tells its program which version it is: its tag.
pub const VERSION: &str = "SAMPLE_VERSION";

/// How long a server goes on serving after it was told to stop: until probes (every second, two failures) and endpoints have followed.
const DRAIN: Duration = Duration::from_millis(4000);

/// How long open requests may take after that; with [`DRAIN`] it stays below the 30 s after which Kubernetes kills.
const FINISH: Duration = Duration::from_secs(20);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// There is no server of this name.
    #[error("there is no sample {0:?}: guestbook-web, guestbook-db, website")]
    Unknown(String),
    /// The environment lacks or garbles something.
    #[error("{variable}: {message}")]
    Environment {
        /// The variable.
        variable: String,
        /// What is wrong.
        message: String,
    },
    /// The socket cannot be had.
    #[error("cannot listen on port {port}: {source}")]
    Listen {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The server broke.
    #[error("serving: {0}")]
    Serve(std::io::Error),
}

/// Variables of the environment, handed in.
pub type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Runs a server until SIGTERM or SIGINT. For `atoll sample NAME`.
///
/// # Errors
/// No such server, or it cannot start.
pub async fn run(name: &str, variables: Variables<'_>) -> Result<(), SampleError> {
    let ready = Ready::default();
    let router = match name {
        "guestbook-db" => {
            guestbook_db::router(&variables("GUESTBOOK_DATA").unwrap_or_else(|| "/data".into()), ready.clone())?
        }
        "guestbook-web" => guestbook_web::router(guestbook_web::Config::from_env(variables)?, ready.clone()),
        "website" => {
            website::router(variables("WEBSITE_FILES").unwrap_or_else(|| "/site".into()).into(), ready.clone())
        }
        other => return Err(SampleError::Unknown(other.to_owned())),
    };
    let listener = listen(port(variables)?).await?;
    serve(listener, router, ready, terminated(), DRAIN).await
}

fn port(variables: Variables<'_>) -> Result<u16, SampleError> {
    let Some(text) = variables("PORT") else { return Ok(PORT) };
    let wrong = |_| SampleError::Environment { variable: "PORT".into(), message: format!("{text:?} is no port") };
    text.parse().map_err(wrong)
}

/// A socket on all addresses, IPv6 first.
async fn listen(port: u16) -> Result<TcpListener, SampleError> {
    if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        return Ok(listener);
    }
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address).await.map_err(|source| SampleError::Listen { port, source })
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the signals end the process at once, as they do by default.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Whether a server wants requests.
#[derive(Debug, Clone)]
pub struct Ready(Arc<AtomicBool>);

impl Default for Ready {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Ready {
    /// Whether it does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// It does not any more.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// `/healthz` and `/readyz`.
fn probes(ready: Ready) -> Router {
    let readyz = move || async move {
        if ready.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "ending\n") }
    };
    Router::new().route("/healthz", get(|| async { "alive\n" })).route("/readyz", get(readyz))
}

/// Serves until `stop` is done: then not ready, `drain` of serving on, and the end of the open requests.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    ready: Ready,
    stop: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> Result<(), SampleError> {
    let (told, mut stopping) = tokio::sync::watch::channel(false);
    let until = async move {
        stop.await;
        ready.end();
        tokio::time::sleep(drain).await;
        told.send_replace(true);
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(until);
    let overdue = async move {
        // An error means that serving ended first.
        if stopping.wait_for(|it| *it).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(FINISH).await;
    };
    tokio::select! {
        ended = serving.into_future() => ended.map_err(SampleError::Serve),
        () = overdue => Ok(()),
    }
}
