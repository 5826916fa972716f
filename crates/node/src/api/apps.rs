//! Handlers about applications: the catalogue, releases in eVDCs, the built-in image.

use std::sync::Arc;
use std::time::Duration;

use atoll_control::{
    ApiError, AppAsk, AppNeeds, AppObject, AppStatus, CatalogueApp, Event, ImageStatus, InstallRequest, Kind,
    PodStatus, RemovedApp, RollbackRequest, SampleRequest, Summary, UninstallRequest,
};
use atoll_dashboard::Workloads;
use atoll_deploy::{AppState, DeployError, Install, Kind as DeployKind, Note, PodState};
use axum::extract::{Path, Query, State};
use axum::response::{Json, Response};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::cloud::image;
use super::jobs::respond;
use super::{Answer, Refused, Shared};
use crate::daemon::Parts;

/// How long a page waits for an API: a person would think that it hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(4);

/// What goes wrong with applications and stacks, as the API tells it.
pub(super) fn error(error: &DeployError) -> ApiError {
    let kind = match error.kind() {
        DeployKind::Input => Kind::Input,
        DeployKind::NotFound => Kind::NotFound,
        DeployKind::Conflict => Kind::Conflict,
        DeployKind::Unavailable => Kind::Unavailable,
        DeployKind::Broken => Kind::Broken,
    };
    let help = match error {
        DeployError::NoApp { .. } => Some("`atoll app search` lists them"),
        DeployError::NotReady { .. } => Some("run the same command again to go on waiting"),
        DeployError::OtherPlan(_) => Some("`atoll plan` shows it"),
        _ if kind == Kind::Unavailable => Some("run the same command again: it goes on where it ended"),
        _ => None,
    };
    let told = ApiError::new(kind, error.to_string());
    match help {
        Some(help) => told.with_help(help),
        None => told,
    }
}

pub(super) fn refused(it: &DeployError) -> Refused {
    Refused(error(it))
}

/// Passes notes on as events. One that a slow receiver has no room for is dropped: the next says more.
pub(super) fn tell(events: mpsc::Sender<Event>) -> impl Fn(Note) + Send + Sync {
    move |note| {
        let event = match note {
            Note::Step { number, of, what } => Event::Step { number, of, what },
            Note::Waiting(what) => Event::Waiting { what },
            Note::Warning(message) => Event::Warning { message },
        };
        let _: Result<(), _> = events.try_send(event);
    }
}

/// Runs something that goes on without its caller, until it is done or the node stops.
pub(super) async fn until_stopped<T>(
    parts: &Parts,
    work: impl Future<Output = Result<T, DeployError>>,
) -> Result<T, ApiError> {
    match parts.stop.run_until_cancelled(work).await {
        Some(done) => done.map_err(|it| error(&it)),
        None => Err(ApiError::new(Kind::Unavailable, "the node is stopping").with_help("run the same command again")),
    }
}

/// A word in a query.
#[derive(serde::Deserialize)]
pub(super) struct Word {
    #[serde(default)]
    word: String,
}

pub(super) async fn catalogue(Query(Word { word }): Query<Word>) -> Json<Vec<CatalogueApp>> {
    let word = word.to_lowercase();
    let has = |app: &&atoll_apps::App| {
        [app.name, app.summary, app.page].iter().any(|text| text.to_lowercase().contains(&word))
    };
    Json(atoll_apps::catalogue().iter().filter(has).map(described).collect())
}

fn described(app: &atoll_apps::App) -> CatalogueApp {
    // The charts are part of the program, and a test loads each.
    let chart = app.chart().ok();
    let default = |path: &str| {
        let values = chart.as_ref().map(|it| &it.values)?;
        path.split('.').try_fold(values, |it, key| it.get(key)).cloned()
    };
    let ask = |ask: &atoll_apps::Ask| AppAsk {
        path: ask.path.to_owned(),
        what: ask.what.to_owned(),
        default: default(ask.path).unwrap_or_default(),
        required: ask.required,
    };
    CatalogueApp {
        name: app.name.to_owned(),
        version: chart.as_ref().map(|it| it.metadata.version.clone()).unwrap_or_default(),
        summary: app.summary.to_owned(),
        page: app.page.to_owned(),
        asks: app.asks.iter().map(ask).collect(),
        needs: AppNeeds {
            nodes: app.needs.nodes as u64,
            memory_mib: app.needs.memory_mib,
            storage_mib: app.needs.storage_mib,
            gateway: app.needs.gateway,
        },
    }
}

fn status(evdc: &str, state: AppState) -> AppStatus {
    let object =
        |it: atoll_deploy::ObjectState| AppObject { kind: it.kind, name: it.name, state: it.state, good: it.good };
    AppStatus {
        evdc: evdc.to_owned(),
        release: state.release,
        namespace: state.namespace,
        app: state.app,
        version: state.version,
        revision: state.revision,
        status: state.status,
        updated: state.updated,
        values: state.values,
        notes: state.notes,
        objects: state.objects.into_iter().map(object).collect(),
    }
}

pub(super) async fn list(State(parts): Shared, Path(evdc): Path<String>) -> Answer<Vec<AppStatus>> {
    let all = parts.deploy.apps(&evdc).await.map_err(|it| refused(&it))?;
    Ok(Json(all.into_iter().map(|it| status(&evdc, it)).collect()))
}

/// A namespace in a query.
#[derive(serde::Deserialize)]
pub(super) struct Where {
    namespace: String,
}

fn pod(it: PodState) -> PodStatus {
    let PodState { namespace, name, node, state, ready, restarts } = it;
    PodStatus { namespace, name, node, state, ready, restarts }
}

/// What runs in the eVDCs of this node's owner, for whoever only looks: an API that does not answer soon is left out, and said to be.
pub(crate) async fn workloads(parts: &Parts) -> Vec<Workloads> {
    let look = async |evdc: String| {
        let asked = async { tokio::try_join!(parts.deploy.apps(&evdc), parts.deploy.pods(&evdc)) };
        let problem = match tokio::time::timeout(LOOK_WITHIN, Box::pin(asked)).await {
            Ok(Ok((apps, pods))) => {
                let apps = apps.into_iter().map(|it| status(&evdc, it)).collect();
                return Workloads { apps, pods: pods.into_iter().map(pod).collect(), evdc, problem: None };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its Kubernetes API has not answered for {} s", LOOK_WITHIN.as_secs()),
        };
        Workloads { evdc, problem: Some(problem), ..Workloads::default() }
    };
    let evdcs = parts.cloud.tenant.all().await.unwrap_or_default();
    join_all(evdcs.into_iter().filter(|it| !it.removing && !it.reserved).map(|it| look(it.wish.name))).await
}

pub(super) async fn show(
    State(parts): Shared,
    Path((evdc, release)): Path<(String, String)>,
    Query(Where { namespace }): Query<Where>,
) -> Answer<AppStatus> {
    let found = parts.deploy.app(&evdc, &namespace, &release).await.map_err(|it| refused(&it))?;
    Ok(Json(status(&evdc, found)))
}

pub(super) async fn install(
    State(parts): Shared,
    Path((evdc, release)): Path<(String, String)>,
    Json(request): Json<InstallRequest>,
) -> Result<Response, Refused> {
    let app = match request.app {
        Some(app) => app,
        None if request.upgrade => {
            parts.deploy.app(&evdc, &request.namespace, &release).await.map_err(|it| refused(&it))?.app
        }
        None => return Err(ApiError::new(Kind::Input, "which application is to be installed?").into()),
    };
    let InstallRequest { namespace, values, upgrade, .. } = request;
    let install = Install { app, release, namespace, values, upgrade };
    job(parts, move |parts, events| async move {
        let tell = tell(events);
        let done = until_stopped(&parts, Box::pin(parts.deploy.install(&evdc, &install, &tell))).await?;
        Ok(Summary::App(status(&evdc, done)))
    })
}

pub(super) async fn roll_back(
    State(parts): Shared,
    Path((evdc, release)): Path<(String, String)>,
    Json(request): Json<RollbackRequest>,
) -> Result<Response, Refused> {
    job(parts, move |parts, events| async move {
        let (tell, of) = (tell(events), (request.namespace.as_str(), release.as_str()));
        let done = until_stopped(&parts, Box::pin(parts.deploy.roll_back(&evdc, of, request.revision, &tell))).await?;
        Ok(Summary::App(status(&evdc, done)))
    })
}

pub(super) async fn remove(
    State(parts): Shared,
    Path((evdc, release)): Path<(String, String)>,
    Json(request): Json<UninstallRequest>,
) -> Result<Response, Refused> {
    job(parts, move |parts, events| async move {
        let (tell, of) = (tell(events), (request.namespace.as_str(), release.as_str()));
        let done = until_stopped(&parts, Box::pin(parts.deploy.remove(&evdc, of, request.data, &tell))).await?;
        Ok(Summary::RemovedApp(RemovedApp { release: done.release, kept: done.kept }))
    })
}

/// A job that holds on to the node's parts.
pub(super) fn job<F, J>(parts: Arc<Parts>, work: F) -> Result<Response, Refused>
where
    F: FnOnce(Arc<Parts>, mpsc::Sender<Event>) -> J,
    J: Future<Output = Result<Summary, ApiError>> + Send + 'static,
{
    respond(|events| work(parts, events))
}

pub(super) async fn sample_image(State(parts): Shared, Json(request): Json<SampleRequest>) -> Answer<ImageStatus> {
    let made = parts.deploy.sample_image(&request.tag).await.map_err(|it| refused(&it))?;
    Ok(Json(image(&made)))
}
