//! `create` and `update`, and the last step of every write: the commit.

use std::sync::Arc;

use atoll_kv::{Bytes, Condition, KvError};
use http::Response;
use serde_json::Value;

use crate::{
    convert,
    error::ApiError,
    object::{has_finalizers, is_deleting, name, namespace, revision, set_revision, text},
    respond::{ResponseBody, warn},
    server::{Context, Server},
    verbs::{admit, admit::Extras, delete},
};

/// How often an unconditional write is tried again when others write the same object.
pub(crate) const ATTEMPTS_MAX: usize = 10;

pub(super) async fn create(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut extras = Extras::default();
    let object = admit::decode(context, body, &mut extras)?;
    let warnings = std::mem::take(&mut extras.warnings);
    let generated = name(&object).is_empty() && !text(&object, &["metadata", "generateName"]).is_empty();
    let mut attempt = 0;
    let created = loop {
        attempt += 1;
        match create_object(server, context, object.clone(), false).await {
            // A generated name that is taken is drawn again.
            Err(error) if generated && error.reason() == "AlreadyExists" && attempt < ATTEMPTS_MAX => {}
            outcome => break outcome?,
        }
    };
    let mut response = context.answer(201, created);
    warn(&mut response, &warnings);
    Ok(response)
}

/// Stores a new object.
pub(crate) async fn create_object(
    server: &Arc<Server>,
    context: &Context,
    object: Value,
    keeps_managers: bool,
) -> Result<Value, ApiError> {
    let resource = &context.resource;
    for _ in 0..ATTEMPTS_MAX {
        let mut extras = Extras::default();
        let mut new = object.clone();
        admit::admit_new(server, context, &mut new, keeps_managers, &mut extras).await?;
        convert::store(resource, &mut new);
        let key = server.store.key(resource, &context.target.namespace, name(&new));
        if context.query.dry_run()? {
            if server.store.get(resource, namespace(&new), name(&new)).await?.is_some() {
                return Err(ApiError::already_exists(resource.about(), name(&new)));
            }
            return Ok(new);
        }
        extras.mutations.push(server.store.put(resource, &new));
        match server.store.commit(extras.conditions, extras.mutations).await {
            Ok(revision) => {
                set_revision(&mut new, revision);
                server.written(resource).await?;
                return Ok(new);
            }
            Err(KvError::Conflict { key: at }) if at == key => {
                return Err(ApiError::already_exists(resource.about(), name(&new)));
            }
            // The namespace went, or an address was taken in between: look again.
            Err(KvError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::new(409, "Conflict", "what the object needs keeps changing; try again"))
}

pub(super) async fn update(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut extras = Extras::default();
    let object = admit::decode(context, body, &mut extras)?;
    let sent = name(&object);
    if !sent.is_empty() && sent != context.target.name {
        let message =
            format!("the name of the object ({sent}) does not match the name on the URL ({})", context.target.name);
        return Err(ApiError::bad_request(message));
    }
    let updated = change(server, context, |_| Ok(Changed { object: object.clone(), keeps_managers: false })).await?;
    let mut response = context.answer(200, updated);
    warn(&mut response, &extras.warnings);
    Ok(response)
}

/// What an object becomes.
pub(crate) struct Changed {
    pub(crate) object: Value,
    /// Whether `metadata.managedFields` is already as it should be.
    pub(crate) keeps_managers: bool,
}

/// Changes the object of the context by a function of what it is, shown as the client knows it; again if others were faster.
pub(crate) async fn change(
    server: &Arc<Server>,
    context: &Context,
    to: impl Fn(&Value) -> Result<Changed, ApiError>,
) -> Result<Value, ApiError> {
    let (resource, target) = (&context.resource, &context.target);
    for _ in 0..ATTEMPTS_MAX {
        let old = server.store.get(resource, &target.namespace, &target.name).await?;
        let mut old = old.ok_or_else(|| context.not_found())?;
        convert::show(resource, &mut old);
        let Changed { object: mut new, keeps_managers } = to(&old)?;
        let mut extras = Extras::default();
        let differs = admit::admit_change(server, context, &old, &mut new, keeps_managers, &mut extras).await?;
        if !differs || context.query.dry_run()? {
            return Ok(new);
        }
        if let Some(written) = replace(server, context, &old, new, extras).await? {
            return Ok(written);
        }
    }
    Err(ApiError::modified(resource.about(), &target.name))
}

/// Writes `new` in the place of `old`; `None` when that has changed in between. An object that was only waiting for its finalizers goes.
pub(crate) async fn replace(
    server: &Arc<Server>,
    context: &Context,
    old: &Value,
    mut new: Value,
    mut extras: Extras,
) -> Result<Option<Value>, ApiError> {
    let resource = &context.resource;
    convert::store(resource, &mut new);
    if is_deleting(&new) && !has_finalizers(&new) && !delete::waits(resource, &new) {
        return Ok(delete::remove(server, resource, old).await?.then_some(new));
    }
    let key = server.store.key(resource, namespace(old), name(old));
    let revision = revision(old).ok_or_else(|| ApiError::internal("a stored object has no revision"))?;
    extras.conditions.push(Condition::Revision { key, revision });
    extras.mutations.push(server.store.put(resource, &new));
    match server.store.commit(extras.conditions, extras.mutations).await {
        Ok(revision) => {
            set_revision(&mut new, revision);
            server.written(resource).await?;
            Ok(Some(new))
        }
        Err(KvError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
