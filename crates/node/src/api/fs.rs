//! Handlers about file systems and healing.

use std::os::unix::fs::MetadataExt as _;

use atoll_control::{ApiError, FsMountRequest, FsRemoved, FsRequest, FsStatus, HealingStatus, Kind};
use atoll_fs::{Policy, VolumeName};
use axum::extract::{Path, State};
use axum::response::Json;

use super::{Answer, Refused, Shared};
use crate::filesystems::{Filesystems, FsError};

impl From<FsError> for Refused {
    fn from(error: FsError) -> Self {
        Self(error.into())
    }
}

fn named(name: &str) -> Result<VolumeName, Refused> {
    name.parse().map_err(|error| Refused(ApiError::new(Kind::Input, format!("{error}"))))
}

pub(super) async fn healing(State(parts): Shared) -> Json<HealingStatus> {
    Json(parts.healing.status())
}

pub(super) async fn list(State(parts): Shared) -> Answer<Vec<FsStatus>> {
    Ok(Json(parts.filesystems.list().await?))
}

pub(super) async fn show(State(parts): Shared, Path(name): Path<String>) -> Answer<FsStatus> {
    Ok(Json(parts.filesystems.status(&named(&name)?).await?))
}

pub(super) async fn create(
    State(parts): Shared,
    Path(name): Path<String>,
    Json(request): Json<FsRequest>,
) -> Answer<FsStatus> {
    let policy = request.policy.parse::<Policy>();
    let policy = policy.map_err(|error| Refused(ApiError::new(Kind::Input, error.to_string())))?;
    Ok(Json(parts.filesystems.create(named(&name)?, policy, request.capacity).await?))
}

pub(super) async fn remove(State(parts): Shared, Path(name): Path<String>) -> Answer<FsRemoved> {
    let left = parts.filesystems.remove(&named(&name)?).await?;
    Ok(Json(FsRemoved { left }))
}

pub(super) async fn mount(
    State(parts): Shared,
    Path(name): Path<String>,
    Json(request): Json<FsMountRequest>,
) -> Answer<FsStatus> {
    let (name, asked) = (named(&name)?, request.path.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let at = Filesystems::place(&asked)?;
        let found = std::fs::metadata(&at)?;
        Ok((at, found.dev(), found.ino()))
    });
    let looked = looked.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let (at, device, inode) = looked.map_err(|source| FsError::Directory { at: request.path.clone(), source })?;
    if (device, inode) != (request.device, request.inode) {
        return Err(FsError::Elsewhere(request.path).into());
    }
    Ok(Json(parts.filesystems.mount(&name, &at).await?))
}

pub(super) async fn unmount(State(parts): Shared, Path(name): Path<String>) -> Answer<()> {
    parts.filesystems.unmount(&named(&name)?).await?;
    Ok(Json(()))
}
