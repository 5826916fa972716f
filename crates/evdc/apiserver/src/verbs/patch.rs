//! `patch`: JSON Patch, merge patch, strategic merge, and server-side apply; the merging itself is `atoll-merge`'s.

use std::sync::Arc;

use atoll_kv::Bytes;
use atoll_merge::{ApplyError, json_patch, merge_patch, strategic_merge};
use http::Response;
use serde_json::Value;

use crate::{
    auth::rbac::Attributes,
    body,
    error::ApiError,
    object::{name, set_revision, text},
    respond::{ResponseBody, warn},
    server::{Context, Server},
    verbs::{
        admit::{self, Extras},
        write::{ATTEMPTS_MAX, Changed, change, create_object},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    fn of(context: &Context) -> Result<Self, ApiError> {
        Ok(match context.media_type.as_str() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" if context.resource.custom.is_none() => Self::Strategic,
            "application/apply-patch+yaml" => Self::Apply,
            _ => {
                let strategic =
                    if context.resource.custom.is_some() { "" } else { ", application/strategic-merge-patch+json" };
                let message = format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json{strategic}, application/apply-patch+yaml"
                );
                return Err(ApiError::new(415, "UnsupportedMediaType", message));
            }
        })
    }
}

pub(super) async fn patch(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let kind = Kind::of(context)?;
    if kind == Kind::Apply {
        return apply(server, context, body).await;
    }
    let patch = body::json(body)?;
    let warnings = std::sync::Mutex::new(Vec::new());
    let written = change(server, context, |old| {
        let mut extras = Extras::default();
        let object = admit::check_fields(context, patched(context, kind, old, &patch)?, &mut extras)?;
        *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = extras.warnings;
        Ok(Changed { object, keeps_managers: false })
    })
    .await?;
    let mut response = context.answer(200, written);
    warn(&mut response, &warnings.into_inner().unwrap_or_default());
    Ok(response)
}

/// The object that a patch makes of `old`.
fn patched(context: &Context, kind: Kind, old: &Value, patch: &Value) -> Result<Value, ApiError> {
    let mut new = old.clone();
    let does_not_fit = |error: &dyn std::fmt::Display| {
        ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        )
    };
    match kind {
        Kind::Json => json_patch(&mut new, patch).map_err(|error| does_not_fit(&error))?,
        Kind::Strategic => {
            strategic_merge(&context.resource.merging(), &mut new, patch)
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
        }
        Kind::Merge | Kind::Apply => merge_patch(&mut new, patch),
    }
    if name(&new) != name(old) {
        return Err(ApiError::bad_request("a patch may not change metadata.name"));
    }
    Ok(new)
}

async fn apply(server: &Arc<Server>, context: &Context, body: &Bytes) -> Result<Response<ResponseBody>, ApiError> {
    let mut extras = Extras::default();
    let config = admit::decode(context, body, &mut extras)?;
    let config = without_empty_status(context, config);
    let force = context.query.is_true("force");
    let mut attempt = 0;
    loop {
        attempt += 1;
        let outcome = apply_once(server, context, &config, force).await;
        match outcome {
            // Somebody made or removed it in between.
            Err(error)
                if matches!(error.reason(), "AlreadyExists" | "NotFound")
                    && attempt < ATTEMPTS_MAX
                    && context.target.subresource.is_empty() => {}
            Err(error) => return Err(error),
            Ok((code, written)) => {
                let mut response = context.answer(code, written);
                warn(&mut response, &extras.warnings);
                return Ok(response);
            }
        }
    }
}

/// A status is not applied with the object; Go clients send an empty one.
fn without_empty_status(context: &Context, mut config: Value) -> Value {
    if context.target.subresource.is_empty()
        && context.resource.status
        && let Value::Object(fields) = &mut config
    {
        fields.remove("status");
    }
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    config
}

async fn apply_once(
    server: &Arc<Server>,
    context: &Context,
    config: &Value,
    force: bool,
) -> Result<(u16, Value), ApiError> {
    let (resource, target) = (&context.resource, &context.target);
    if !name(config).is_empty() && name(config) != target.name {
        let message =
            format!("the name of the object ({}) does not match the name on the URL ({})", name(config), target.name);
        return Err(ApiError::bad_request(message));
    }
    let schema = resource.merging();
    let writer =
        atoll_merge::Writer { manager: context.query.text("fieldManager").to_owned(), ..admit::writer(context) };
    if server.store.get(resource, &target.namespace, &target.name).await?.is_some() {
        let written = change(server, context, |old| {
            let sent = text(config, &["metadata", "resourceVersion"]);
            if !sent.is_empty() && sent != text(old, &["metadata", "resourceVersion"]) {
                return Err(ApiError::modified(resource.about(), name(old)));
            }
            let mut object = atoll_merge::apply(&schema, Some(old), config, &writer, force).map_err(refused)?;
            if let Some(revision) = crate::object::revision(old) {
                set_revision(&mut object, revision);
            }
            Ok(Changed { object, keeps_managers: true })
        });
        return Ok((200, written.await?));
    }
    if !target.subresource.is_empty() {
        return Err(context.not_found());
    }
    let create = Attributes {
        verb: "create".to_owned(),
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        namespace: target.namespace.clone(),
        ..Attributes::default()
    };
    server.authorize(&context.user, &create)?;
    if !text(config, &["metadata", "uid"]).is_empty() {
        let why = "uid mismatch: the provided object specified uid, and no existing object was found";
        return Err(ApiError::conflict(resource.about(), &target.name, why));
    }
    let object = atoll_merge::apply(&schema, None, config, &writer, force).map_err(refused)?;
    Ok((201, create_object(server, context, object, true).await?))
}

fn refused(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let causes: Vec<_> = conflicts.causes().into_iter().map(|cause| (cause.field, cause.message)).collect();
            ApiError::apply_conflicts(conflicts.to_string(), &causes)
        }
        ApplyError::NoManager => ApiError::new(422, "Invalid", error.to_string()),
        error => ApiError::bad_request(error.to_string()),
    }
}
