//! The control API's server: HTTP over the Unix socket in the data directory.
//!
//! Whoever can open the socket is the node's user or root (mode 0600 in a directory of mode 0700); there is no other
//! authentication. Handlers translate between the API's types and the parts of the node; they decide nothing.

pub(crate) mod apps;
mod bus;
pub(crate) mod cloud;
mod fs;
mod jobs;
mod names;
mod net;
mod node;
mod proxy;
mod rules;
mod stacks;
pub(crate) mod store;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use atoll_control::ApiError;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::daemon::Parts;

/// Handlers share the parts of the node.
type Shared = axum::extract::State<Arc<Parts>>;

/// An [`ApiError`] as an HTTP answer.
struct Refused(ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refused>;

/// Binds the socket. A file that a dead node left there is replaced: the lock on the data directory says that nobody uses it.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until told to stop, then finishes the requests under way.
pub(crate) async fn serve(listener: UnixListener, parts: Arc<Parts>, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(parts)).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

fn router(parts: Arc<Parts>) -> Router {
    let routes = Router::new()
        .route("/status", get(node::status))
        .route("/net", get(net::status))
        .route("/net/names", get(names::list))
        .route("/net/name", put(names::give).delete(names::take_back))
        .route("/net/resolve", get(names::resolve))
        .route("/net/rules", get(rules::list))
        .route("/net/allow", post(rules::allow))
        .route("/net/deny", post(rules::deny))
        .route("/net/check", post(rules::check))
        .route("/net/proxy", get(proxy::status).put(proxy::set))
        .route("/net/connect", post(proxy::connect))
        .merge(bus::routes())
        .route("/net/find", get(net::find))
        .route("/net/path", get(net::path))
        .route("/config", get(node::config))
        .route("/shutdown", post(node::shutdown))
        .route("/invite", post(node::invite))
        .route("/join", post(node::join))
        .route("/peers/{node}", delete(node::forget))
        .route("/buckets", get(store::buckets))
        .route("/buckets/{name}", put(store::create_bucket).delete(store::remove_bucket))
        .route("/list", get(store::list))
        .route("/stat", get(store::stat))
        .route("/usage", get(store::usage))
        .route("/object", get(store::download).put(store::upload))
        .route("/put", post(jobs::put))
        .route("/get", post(jobs::get))
        .route("/remove", post(jobs::remove))
        .route("/heal", post(jobs::heal))
        .route("/healing", get(fs::healing))
        .route("/fs", get(fs::list))
        .route("/fs/{name}", get(fs::show).put(fs::create).delete(fs::remove))
        .route("/fs/{name}/mount", put(fs::mount).delete(fs::unmount))
        .route("/offers", get(cloud::offers))
        .route("/evdcs", get(cloud::evdcs))
        .route("/evdcs/{name}", get(cloud::evdc).put(cloud::create).delete(cloud::remove))
        .route("/evdcs/{name}/kubeconfig", get(cloud::kubeconfig))
        .route("/catalogue", get(apps::catalogue))
        .route("/evdcs/{name}/apps", get(apps::list))
        .route("/evdcs/{name}/apps/{release}", get(apps::show))
        .route("/evdcs/{name}/apps/{release}/install", post(apps::install))
        .route("/evdcs/{name}/apps/{release}/rollback", post(apps::roll_back))
        .route("/evdcs/{name}/apps/{release}/remove", post(apps::remove))
        .route("/stacks", get(stacks::list))
        .route("/stacks/plan", post(stacks::plan))
        .route("/stacks/apply", post(stacks::apply))
        .route("/stacks/drift", post(stacks::drift))
        .route("/gateway", get(cloud::gateway))
        .route("/images", get(cloud::images).post(cloud::load_image).delete(cloud::remove_image))
        .route("/images/sample", post(apps::sample_image))
        // Objects are of any size; what is read into memory is limited where it is read.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(parts);
    Router::new().nest(&format!("/{}", atoll_control::API_VERSION), routes)
}
