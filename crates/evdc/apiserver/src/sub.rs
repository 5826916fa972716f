//! Subresources that are more than a part of their object, and the kinds that are only questions.

use std::sync::Arc;

use atoll_kv::Bytes;
use atoll_merge::{json_patch, merge_patch};
use http::{Method, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    auth::{
        User,
        rbac::Attributes,
        token::{Claims, ISSUER},
    },
    body,
    error::{ApiError, Cause},
    kinds::ScalePaths,
    object::{at, child, fields, is_deleting, list, name, namespace, number, text, time, uid},
    respond::{self, ResponseBody},
    selector::LabelSelector,
    server::{Context, Server},
    verbs::{
        delete::{self, Options},
        write::{Changed, change},
    },
};

/// Shortest and longest life of a token, as Kubernetes limits them, and what is given when nothing is asked for.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 24 * 3600 * 365;
const TOKEN_SECONDS: i64 = 3600;

fn object_of(context: &Context, body: &Bytes) -> Result<Value, ApiError> {
    let object = body::decode(&context.media_type, body)?;
    object.filter(Value::is_object).ok_or_else(|| ApiError::bad_request("the body must be an object"))
}

fn path_at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

fn scale_of(context: &Context, paths: &ScalePaths, object: &Value) -> Value {
    let count = |path: &[String]| path_at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => path_at(object, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        None if context.resource.custom.is_none() => LabelSelector::of(&object["spec"]["selector"]).to_string(),
        None => String::new(),
    };
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        meta[field] = object["metadata"][field].clone();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": count(&paths.spec_replicas)},
        "status": {"replicas": count(&paths.status_replicas), "selector": selector},
    })
}

/// Reads and writes the number of replicas.
pub(crate) async fn scale(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = &context.target;
    let paths = context.resource.scale.as_ref().ok_or_else(ApiError::no_route)?;
    if context.method == Method::GET {
        let found = server.store.get(&context.resource, &target.namespace, &target.name).await?;
        let found = found.ok_or_else(|| context.not_found())?;
        return Ok(respond::json(200, &scale_of(context, paths, &found)));
    }
    let sent = if context.verb == "patch" { body::json(body)? } else { object_of(context, body)? };
    let written = change(server, context, |old| {
        let mut scale = scale_of(context, paths, old);
        match (context.verb, context.media_type.as_str()) {
            ("update", _) => scale.clone_from(&sent),
            (_, "application/json-patch+json") => {
                json_patch(&mut scale, &sent).map_err(|error| ApiError::bad_request(error.to_string()))?;
            }
            _ => merge_patch(&mut scale, &sent),
        }
        let replicas = number(&scale, &["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let cause = Cause::invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
            return Err(ApiError::invalid(context.resource.about(), name(old), &[cause]));
        }
        let mut object = old.clone();
        let version = text(&scale, &["metadata", "resourceVersion"]);
        if !version.is_empty() {
            object["metadata"]["resourceVersion"] = version.into();
        }
        set_at(&mut object, &paths.spec_replicas, replicas.into());
        Ok(Changed { object, keeps_managers: false })
    });
    Ok(respond::json(200, &scale_of(context, paths, &written.await?)))
}

fn set_at(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let parent = parents.iter().fold(object, |object, name| child(object, name));
    fields(parent).insert(last.clone(), value);
}

/// Assigns a pod to a node, once.
pub(crate) async fn bind(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let binding = object_of(context, body)?;
    let node = text(&binding, &["target", "name"]).to_owned();
    if node.is_empty() {
        let causes = [Cause::required("target.name", "")];
        return Err(ApiError::invalid(
            crate::error::About { group: "", plural: "bindings", kind: "Binding" },
            &context.target.name,
            &causes,
        ));
    }
    let wanted_uid = text(&binding, &["metadata", "uid"]);
    change(server, context, |old| {
        let conflict = |why: &str| ApiError::conflict(context.resource.about(), name(old), why);
        if is_deleting(old) {
            return Err(conflict(&format!("pod {} is being deleted, cannot be assigned to a host", name(old))));
        }
        if !wanted_uid.is_empty() && wanted_uid != uid(old) {
            return Err(conflict("the UID in the precondition does not match the UID in record"));
        }
        let assigned = text(old, &["spec", "nodeName"]);
        if !assigned.is_empty() {
            return Err(conflict(&format!("pod {} is already assigned to node \"{assigned}\"", name(old))));
        }
        let mut object = old.clone();
        object["spec"]["nodeName"] = node.clone().into();
        // The status changes with the assignment, which only this subresource may do.
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time(Timestamp::now())});
        let status = child(&mut object, "status");
        let mut conditions = list(status, &["conditions"]).to_vec();
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
        status["conditions"] = conditions.into();
        Ok(Changed { object, keeps_managers: false })
    })
    .await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Deletes a pod as an administrator asks for it. There are no disruption budgets here that could stand in the way.
pub(crate) async fn evict(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let eviction = object_of(context, body)?;
    let asked = name(&eviction);
    if !asked.is_empty() && asked != context.target.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let options = Options::of_eviction(context, &eviction)?;
    delete::delete_object(server, context, &context.target.name, &options).await?;
    Ok(respond::json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Takes the finalizers off a namespace; the namespace controller does so when it is empty.
pub(crate) async fn finalize(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let sent = object_of(context, body)?;
    let finalizers = list(&sent, &["spec", "finalizers"]).to_vec();
    let version = text(&sent, &["metadata", "resourceVersion"]).to_owned();
    let written = change(server, context, |old| {
        let mut object = old.clone();
        if !version.is_empty() {
            object["metadata"]["resourceVersion"] = version.clone().into();
        }
        child(&mut object, "spec")["finalizers"] = finalizers.clone().into();
        Ok(Changed { object, keeps_managers: false })
    });
    Ok(context.answer(200, written.await?))
}

/// Signs a token for a ServiceAccount.
pub(crate) async fn token(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut request = object_of(context, body)?;
    let target = &context.target;
    let account = server.store.get(&context.resource, &target.namespace, &target.name).await?;
    let account = account.ok_or_else(|| context.not_found())?;
    let asked = number(&request, &["spec", "expirationSeconds"]).unwrap_or(TOKEN_SECONDS);
    if asked < TOKEN_SECONDS_MIN {
        let cause =
            Cause::invalid("spec.expirationSeconds", &asked.into(), "may not specify a duration less than 10 minutes");
        let about =
            crate::error::About { group: "authentication.k8s.io", plural: "tokenrequests", kind: "TokenRequest" };
        return Err(ApiError::invalid(about, "", &[cause]));
    }
    let bound = &request["spec"]["boundObjectRef"];
    let pod = match text(bound, &["kind"]) {
        "" => None,
        "Pod" => Some(bound_pod(server, context, bound, &target.name).await?),
        other => return Err(ApiError::bad_request(format!("tokens cannot be bound to a {other}, only to a Pod"))),
    };
    if crate::auth::node::node_of(&context.user).is_some() && pod.is_none() {
        let why = "a node gets tokens that are bound to one of its pods alone";
        return Err(ApiError::forbidden(context.resource.about(), &target.name, why));
    }
    let issued = Timestamp::now().as_second();
    let asked_audiences = list(&request, &["spec", "audiences"]).iter().filter_map(Value::as_str);
    let mut audiences: Vec<String> = asked_audiences.map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let claims = Claims {
        namespace: namespace(&account).to_owned(),
        account: name(&account).to_owned(),
        account_uid: uid(&account).to_owned(),
        pod,
        audiences,
        issued,
        expires: issued + asked.min(TOKEN_SECONDS_MAX),
    };
    let expires = Timestamp::from_second(claims.expires).map_err(|error| ApiError::internal(error.to_string()))?;
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    child(&mut request, "metadata")["name"] = claims.account.clone().into();
    child(&mut request, "metadata")["namespace"] = claims.namespace.clone().into();
    child(&mut request, "spec")["audiences"] = claims.audiences.clone().into();
    child(&mut request, "spec")["expirationSeconds"] = asked.into();
    request["status"] = json!({"token": server.tokens.sign(&claims), "expirationTimestamp": time(expires)});
    Ok(respond::json(201, &request))
}

async fn bound_pod(
    server: &Server,
    context: &Context,
    bound: &Value,
    account: &str,
) -> Result<(String, String), ApiError> {
    let pods = context.registry.get("", "v1", "pods").ok_or_else(ApiError::no_route)?;
    let pod_name = text(bound, &["name"]);
    let pod = server.store.get(&pods, &context.target.namespace, pod_name).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found(pods.about(), pod_name))?;
    let wanted = text(bound, &["uid"]);
    if !wanted.is_empty() && wanted != uid(&pod) {
        let why = format!("the UID in the bound object reference ({wanted}) does not match the UID in record");
        return Err(ApiError::conflict(pods.about(), pod_name, &why));
    }
    if let Some(node) = crate::auth::node::node_of(&context.user)
        && text(&pod, &["spec", "nodeName"]) != node
    {
        let why = "a node gets tokens for its own pods alone";
        return Err(ApiError::forbidden(pods.about(), pod_name, why));
    }
    if text(&pod, &["spec", "serviceAccountName"]) != account {
        let message = format!(
            "cannot bind token for serviceaccount \"{account}\" to pod running with a different serviceaccount name"
        );
        return Err(ApiError::bad_request(message));
    }
    Ok((pod_name.to_owned(), uid(&pod).to_owned()))
}

/// Answers a question.
pub(crate) async fn review(
    server: &Arc<Server>,
    context: &Context,
    body: &Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    if context.verb != "create" || !context.target.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let mut review = object_of(context, body)?;
    crate::convert::name_kind(&context.resource, &mut review);
    review["status"] = match context.resource.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": user_info(&context.user)}),
        "TokenReview" => token_status(server, &review).await?,
        "SelfSubjectAccessReview" => access_status(server, &context.user, &review["spec"]),
        "SelfSubjectRulesReview" => rules_status(server, &context.user, text(&review, &["spec", "namespace"])),
        _ => {
            let spec = &review["spec"];
            let strings = list(spec, &["groups"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let user = User {
                name: text(spec, &["user"]).to_owned(),
                uid: text(spec, &["uid"]).to_owned(),
                groups: strings,
                extra: Default::default(),
            };
            access_status(server, &user, spec)
        }
    };
    Ok(respond::json(201, &review))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token_status(server: &Server, review: &Value) -> Result<Value, ApiError> {
    let audiences: Vec<&str> = list(review, &["spec", "audiences"]).iter().filter_map(Value::as_str).collect();
    let found = server.user_of_token(text(review, &["spec", "token"]), &audiences).await?;
    Ok(match found {
        Some((user, claims)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": claims.audiences})
        }
        None => json!({"authenticated": false, "error": "the token is not valid"}),
    })
}

fn access_status(server: &Server, user: &User, spec: &Value) -> Value {
    let part = |path: &[&str]| text(spec, path).to_owned();
    let attributes = match at(spec, &["nonResourceAttributes"]) {
        Some(_) => Attributes {
            verb: part(&["nonResourceAttributes", "verb"]),
            path: Some(part(&["nonResourceAttributes", "path"])),
            ..Attributes::default()
        },
        None => Attributes {
            verb: part(&["resourceAttributes", "verb"]),
            group: part(&["resourceAttributes", "group"]),
            resource: part(&["resourceAttributes", "resource"]),
            subresource: part(&["resourceAttributes", "subresource"]),
            namespace: part(&["resourceAttributes", "namespace"]),
            name: part(&["resourceAttributes", "name"]),
            path: None,
        },
    };
    json!({"allowed": server.rules().allow(user, &attributes)})
}

fn rules_status(server: &Server, user: &User, in_namespace: &str) -> Value {
    let rules = server.rules();
    let mut found: Vec<Value> = rules.rules_of(user, in_namespace).into_iter().cloned().collect();
    if user.is_in(crate::auth::MASTERS) {
        found.push(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        found.push(json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
    }
    let (paths, resources): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
