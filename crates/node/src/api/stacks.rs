//! Handlers about stacks: plan, apply, destroy, drift.

use atoll_control::{ApiError, Kind, StackDrift, StackFile, StackPlan, StackRequest, StackSummary, Summary};
use atoll_deploy::{StackName, Wanted};
use atoll_iac::SourceFile;
use axum::extract::State;
use axum::response::{Json, Response};

use super::apps::{job, refused, tell, until_stopped};
use super::{Answer, Refused, Shared};

/// Files of one stack: far more than people write by hand.
const FILES_MAX: usize = 1000;

fn files(files: Vec<StackFile>) -> Result<Vec<SourceFile>, ApiError> {
    match files.len() {
        0 => Err(ApiError::new(Kind::Input, "the stack has no files").with_help("name a folder with .yaml files")),
        1..=FILES_MAX => Ok(files.into_iter().map(|it| SourceFile { name: it.name, text: it.text }).collect()),
        many => Err(ApiError::new(Kind::Input, format!("a stack has at most {FILES_MAX} files, not {many}"))),
    }
}

fn named(request: &mut StackRequest) -> Result<StackName, ApiError> {
    match request.name.take() {
        Some(name) => Ok(StackName::Named(name)),
        None => Ok(StackName::Files(files(std::mem::take(&mut request.files))?)),
    }
}

fn wanted(mut request: StackRequest) -> Result<Wanted, ApiError> {
    match request.destroy {
        true => Ok(Wanted::Gone(named(&mut request)?)),
        false => Ok(Wanted::AsWritten(files(request.files)?)),
    }
}

pub(super) async fn list(State(parts): Shared) -> Answer<Vec<String>> {
    Ok(Json(parts.deploy.stacks().await.map_err(|it| refused(&it))?))
}

pub(super) async fn plan(State(parts): Shared, Json(request): Json<StackRequest>) -> Answer<StackPlan> {
    // Which peer is a gateway is known once they were asked.
    parts.peers.settled().await;
    let plan = parts.deploy.plan(&wanted(request)?, &|_| {}).await.map_err(|it| refused(&it))?;
    Ok(Json(StackPlan {
        stack: plan.stack.clone(),
        empty: plan.is_empty(),
        changes: plan.json()["changes"].take(),
        text: plan.text(),
        digest: atoll_deploy::digest(&plan),
    }))
}

pub(super) async fn apply(State(parts): Shared, Json(mut request): Json<StackRequest>) -> Result<Response, Refused> {
    parts.peers.settled().await;
    let shown = request.shown.take();
    let wanted = wanted(request)?;
    job(parts, move |parts, events| async move {
        let tell = tell(events);
        let before = parts.cloud.tenant.all().await.unwrap_or_default();
        let done = until_stopped(&parts, Box::pin(parts.deploy.apply(&wanted, shown.as_deref(), &tell))).await;
        // Also after a failure: what is there is served.
        parts.cloud.serve_apis(&before, &parts.stop).await;
        let done = done?;
        Ok(Summary::Stack(StackSummary {
            stack: done.stack,
            created: done.created,
            changed: done.changed,
            replaced: done.replaced,
            deleted: done.deleted,
            seconds: done.seconds,
        }))
    })
}

pub(super) async fn drift(State(parts): Shared, Json(mut request): Json<StackRequest>) -> Answer<StackDrift> {
    let stack = named(&mut request)?;
    let moved = parts.deploy.drift(&stack, &|_| {}).await.map_err(|it| refused(&it))?;
    let json = atoll_iac::drift_json(&moved);
    Ok(Json(StackDrift { moved: json, text: atoll_iac::drift_text(&moved) }))
}
