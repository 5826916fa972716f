//! `delete` and `deletecollection`: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use atoll_kv::{Bytes, Condition, KvError, Mutation};
use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    addresses, convert,
    error::ApiError,
    kinds::{Resource, custom},
    object::{at, has_finalizers, is_deleting, list, meta, name, namespace, number, revision, text, time},
    respond::{self, ResponseBody},
    server::{Context, Server},
    verbs::{
        admit::Extras,
        read::Wanted,
        write::{ATTEMPTS_MAX, replace},
    },
};

/// Finalizers that stand for a propagation policy.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How a deletion is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    grace_seconds: Option<i64>,
    policy: String,
    uid: String,
    revision: String,
}

impl Options {
    /// Reads `DeleteOptions` from the body, or from the query.
    fn read(context: &Context, body: &Bytes) -> Result<Self, ApiError> {
        let object = crate::body::decode(&context.media_type, body)?.unwrap_or_default();
        let query = &context.query;
        let grace_query = query.number("gracePeriodSeconds")?.and_then(|seconds| i64::try_from(seconds).ok());
        let mut policy = text(&object, &["propagationPolicy"]);
        if policy.is_empty() {
            policy = query.text("propagationPolicy");
        }
        let orphans = object.get("orphanDependents").and_then(Value::as_bool);
        if policy.is_empty() && (orphans == Some(true) || query.is_true("orphanDependents")) {
            policy = "Orphan";
        }
        if !["", "Orphan", "Background", "Foreground"].contains(&policy) {
            let message = format!("propagationPolicy: Unsupported value: \"{policy}\": Foreground, Background, Orphan");
            return Err(ApiError::new(422, "Invalid", message));
        }
        let grace_seconds = number(&object, &["gracePeriodSeconds"]).or(grace_query);
        if grace_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(ApiError::new(422, "Invalid", "gracePeriodSeconds: must be greater than or equal to 0"));
        }
        Ok(Self {
            grace_seconds,
            policy: policy.to_owned(),
            uid: text(&object, &["preconditions", "uid"]).to_owned(),
            revision: text(&object, &["preconditions", "resourceVersion"]).to_owned(),
        })
    }

    fn check(&self, resource: &Resource, object: &Value) -> Result<(), ApiError> {
        let found = |field: &str| text(object, &["metadata", field]);
        for (what, wanted, found) in
            [("UID", &self.uid, found("uid")), ("ResourceVersion", &self.revision, found("resourceVersion"))]
        {
            if !wanted.is_empty() && wanted != found {
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(ApiError::conflict(resource.about(), name(object), &why));
            }
        }
        Ok(())
    }
}

/// Whether a marked object without finalizers still waits: a pod for its node, a namespace for being emptied.
pub(crate) fn waits(resource: &Resource, object: &Value) -> bool {
    if resource.is("", "Namespace") {
        return !list(object, &["spec", "finalizers"]).is_empty();
    }
    number(object, &["metadata", "deletionGracePeriodSeconds"]).is_some_and(|seconds| seconds > 0)
}

pub(super) async fn delete(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let options = Options::read(context, body)?;
    let (object, gone) = delete_object(server, context, &context.target.name, &options).await?;
    if !gone || context.resource.is("", "Pod") {
        return Ok(context.answer(200, object));
    }
    Ok(respond::json(200, &respond::success(&context.resource, &object)))
}

/// Deletes, or marks, the object of this name. Returns it as it is now, or last was, and whether it is gone.
pub(crate) async fn delete_object(
    server: &Arc<Server>,
    context: &Context,
    name: &str,
    options: &Options,
) -> Result<(Value, bool), ApiError> {
    let (resource, target) = (&context.resource, &context.target);
    for _ in 0..ATTEMPTS_MAX {
        let old = server.store.get(resource, &target.namespace, name).await?;
        let old = old.ok_or_else(|| ApiError::not_found(resource.about(), name))?;
        options.check(resource, &old)?;
        if resource.is("", "Namespace") && ["default", "kube-system", "kube-public"].contains(&name) {
            return Err(ApiError::forbidden(resource.about(), name, "this namespace may not be deleted"));
        }
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") && !context.query.dry_run()? {
            delete_custom_objects(server, &old).await?;
        }
        let mut new = old.clone();
        mark(resource, &mut new, options);
        let stays = has_finalizers(&new) || waits(resource, &new);
        if context.query.dry_run()? {
            return Ok((new, !stays));
        }
        if !stays {
            if remove(server, resource, &old).await? {
                return Ok((new, true));
            }
        } else if new == old {
            return Ok((new, false));
        } else if let Some(written) = replace(server, context, &old, new, Extras::default()).await? {
            return Ok((written, false));
        }
    }
    Err(ApiError::modified(resource.about(), name))
}

/// Writes into the object that it is to go, and when.
fn mark(resource: &Resource, object: &mut Value, options: &Options) {
    let finalizers: Vec<Value> = list(object, &["metadata", "finalizers"]).to_vec();
    let others = finalizers.iter().filter(|it| options.policy.is_empty() || **it != ORPHAN && **it != FOREGROUND);
    let mut finalizers: Vec<Value> = others.cloned().collect();
    match options.policy.as_str() {
        "Orphan" => finalizers.push(ORPHAN.into()),
        "Foreground" => finalizers.push(FOREGROUND.into()),
        _ => {}
    }
    let grace = grace_seconds(resource, object, options);
    let before = number(object, &["metadata", "deletionGracePeriodSeconds"]);
    let marked = is_deleting(object);
    let meta = meta(object);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), finalizers.into());
    }
    // A second deletion may only shorten the wait.
    if !marked || before.is_some_and(|before| grace < before) {
        let at = Timestamp::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
        meta.insert("deletionTimestamp".to_owned(), time(at).into());
        meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
    if resource.is("", "Namespace") {
        object["status"] = json!({"phase": "Terminating"});
    }
}

fn grace_seconds(resource: &Resource, object: &Value, options: &Options) -> i64 {
    if !resource.is("", "Pod") {
        return 0;
    }
    let unassigned = text(object, &["spec", "nodeName"]).is_empty();
    let finished = ["Succeeded", "Failed"].contains(&text(object, &["status", "phase"]));
    if unassigned || finished {
        return 0;
    }
    let own = number(object, &["spec", "terminationGracePeriodSeconds"]);
    options.grace_seconds.or(own).unwrap_or(crate::defaults::GRACE_SECONDS)
}

/// Removes an object that is still as it was; returns whether it was.
pub(crate) async fn remove(server: &Arc<Server>, resource: &Resource, old: &Value) -> Result<bool, ApiError> {
    let key = server.store.key(resource, namespace(old), name(old));
    let revision = revision(old).ok_or_else(|| ApiError::internal("a stored object has no revision"))?;
    let mut mutations = vec![Mutation::Delete { key: key.clone() }];
    mutations.extend(addresses::release(server, resource, old));
    match server.store.commit(vec![Condition::Revision { key, revision }], mutations).await {
        Ok(_) => {
            server.written(resource).await?;
            Ok(true)
        }
        Err(KvError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// With a definition go its objects; those that wait for finalizers hold the definition up.
async fn delete_custom_objects(server: &Arc<Server>, definition: &Value) -> Result<(), ApiError> {
    let mut definition = definition.clone();
    for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
        version["served"] = true.into();
    }
    let Some(resource) = custom::resources(&definition).into_iter().next() else { return Ok(()) };
    let mut waiting = 0;
    for object in server.store.all(&resource, "").await? {
        if has_finalizers(&object) {
            waiting += 1;
        } else {
            remove(server, &resource, &object).await?;
        }
    }
    if waiting == 0 {
        return Ok(());
    }
    let why = format!("{waiting} of its objects have finalizers; delete those objects first");
    let about = crate::error::About { group: "apiextensions.k8s.io", plural: "customresourcedefinitions", kind: "" };
    Err(ApiError::conflict(about, name(&definition), &why))
}

pub(super) async fn collection(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let options = Options::read(context, body)?;
    let wanted = Wanted::of(context)?;
    let prefix = server.store.prefix(&context.resource, &context.target.namespace);
    let listed = server.store.list(&prefix, None, usize::MAX, None, |object| wanted.matches(context, object)).await?;
    let mut deleted = Vec::with_capacity(listed.objects.len());
    for object in &listed.objects {
        match delete_object(server, context, name(object), &options).await {
            Ok((mut object, _)) => {
                convert::show(&context.resource, &mut object);
                deleted.push(object);
            }
            // Somebody else was faster.
            Err(error) if error.reason() == "NotFound" => {}
            Err(error) => return Err(error),
        }
    }
    let meta = json!({"resourceVersion": listed.revision.to_string()});
    let shown = context.accept.many(&context.resource, deleted, meta, context.include_object());
    Ok(respond::json(200, &shown))
}

impl Options {
    /// The options in an `Eviction`.
    pub(crate) fn of_eviction(context: &Context, eviction: &Value) -> Result<Self, ApiError> {
        let options = at(eviction, &["deleteOptions"]).cloned().unwrap_or_default();
        let grace_seconds = number(&options, &["gracePeriodSeconds"]);
        if grace_seconds.is_some_and(|seconds| seconds < 0) {
            return Err(ApiError::bad_request("gracePeriodSeconds: must be greater than or equal to 0"));
        }
        let uid = text(&options, &["preconditions", "uid"]).to_owned();
        let revision = text(&options, &["preconditions", "resourceVersion"]).to_owned();
        let policy = context.query.text("propagationPolicy").to_owned();
        Ok(Self { grace_seconds, policy, uid, revision })
    }
}
