//! From a body to an object that may be stored: what every create, update and patch goes through.
//!
//! The order is Kubernetes': decode and check the fields, fix what clients may not set, default, admit, validate, count the generation, record the managers.

use atoll_kv::{Bytes, Condition, Mutation};
use atoll_merge::{Writer, record_update};
use serde_json::{Map, Value};

use crate::{
    convert, defaults,
    error::{ApiError, Cause},
    kinds::custom,
    object::{at, fields, is_deleting, list, meta, name, name_suffix, namespace, new_uid, now, text},
    schema::{conform::conform, message},
    server::{Context, Server},
    validate,
};

/// NetworkPolicies of an eVDC. Each node keeps and compiles all of them.
const POLICIES_MAX: usize = 1_000;

/// Longest generated prefix, so that the suffix fits into a name.
const GENERATE_PREFIX_MAX: usize = 58;

/// Further writes that belong to that of an object.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) mutations: Vec<Mutation>,
    /// Said to the client.
    pub(crate) warnings: Vec<String>,
}

/// Decodes an object of the context's resource; unknown fields are refused, warned of or ignored, as asked.
pub(crate) fn decode(context: &Context, body: &Bytes, extras: &mut Extras) -> Result<Value, ApiError> {
    let object = crate::body::decode(&context.media_type, body)?;
    let object = object.ok_or_else(|| ApiError::bad_request("the request has no body"))?;
    check_fields(context, object, extras)
}

/// Checks kind and fields of an object that came from a client.
pub(crate) fn check_fields(context: &Context, mut object: Value, extras: &mut Extras) -> Result<Value, ApiError> {
    let resource = &context.resource;
    let Value::Object(root) = &object else { return Err(ApiError::bad_request("the body must be an object")) };
    let named = |field: &str| root.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (named("apiVersion"), named("kind"));
    if !api_version.is_empty() && api_version != resource.api_version() {
        let message = format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version()
        );
        return Err(ApiError::bad_request(message));
    }
    if !kind.is_empty() && kind != resource.kind {
        let message = format!("the kind in the data ({kind}) does not match the expected kind ({})", resource.kind);
        return Err(ApiError::bad_request(message));
    }
    convert::name_kind(resource, &mut object);
    let unknown = match (&resource.message, &resource.custom) {
        (Some(of), _) => checked(context, conform(of, &mut object))?,
        (None, Some(custom)) => {
            let mut unknown = custom::prune_and_default(&custom.schema, &mut object);
            if let Some(of) = message("meta.v1.ObjectMeta") {
                let mut metadata = Value::Object(std::mem::take(meta(&mut object)));
                let found = checked(context, conform(of, &mut metadata))?;
                unknown.extend(found.into_iter().map(|path| format!("metadata.{path}")));
                object["metadata"] = metadata;
            }
            if custom.has_rules {
                let warning = "the rules in x-kubernetes-validations of this kind are not evaluated by this server";
                extras.warnings.push(warning.to_owned());
            }
            unknown
        }
        (None, None) => Vec::new(),
    };
    if resource.is("networking.k8s.io", "NetworkPolicy") && validate::policy::has_ipv4(&object) {
        let warning = "pods of an eVDC have IPv6 addresses only: an ipBlock of IPv4 addresses selects nobody";
        extras.warnings.push(warning.to_owned());
    }
    let named: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match context.query.text("fieldValidation") {
        "Strict" if !named.is_empty() => {
            let what = format!("strict decoding error: {}", named.join(", "));
            Err(cannot_be_handled(context, &what))
        }
        "" | "Warn" => {
            extras.warnings.extend(named);
            Ok(object)
        }
        "Strict" | "Ignore" => Ok(object),
        other => Err(ApiError::bad_request(format!("invalid fieldValidation \"{other}\": Ignore, Warn or Strict"))),
    }
}

fn checked(context: &Context, findings: crate::schema::conform::Findings) -> Result<Vec<String>, ApiError> {
    match findings.mistyped {
        Some(what) => Err(cannot_be_handled(context, &what)),
        None => Ok(findings.unknown),
    }
}

fn cannot_be_handled(context: &Context, what: &str) -> ApiError {
    let resource = &context.resource;
    let (kind, version) = (&resource.kind, &resource.version);
    ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {what}"))
}

/// Who writes, for `managedFields`.
pub(crate) fn writer(context: &Context) -> Writer {
    let asked = context.query.text("fieldManager");
    let agent = context.user_agent.split('/').next().unwrap_or_default();
    let manager = match (asked, agent) {
        ("", "") => "unknown",
        ("", agent) => agent,
        (asked, _) => asked,
    };
    let subresource = context.target.subresource.as_str();
    let ignored = match subresource {
        "" if context.resource.status => vec![vec!["status".to_owned()]],
        "status" => vec![vec!["spec".to_owned()]],
        _ => Vec::new(),
    };
    Writer {
        manager: manager.to_owned(),
        api_version: context.resource.api_version(),
        subresource: (!subresource.is_empty()).then(|| subresource.to_owned()),
        time: now(),
        ignored,
    }
}

/// Makes a new object ready to be stored.
pub(crate) async fn admit_new(
    server: &Server,
    context: &Context,
    object: &mut Value,
    keeps_managers: bool,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let (resource, target) = (&context.resource, &context.target);
    fix_new_metadata(context, object)?;
    if resource.status {
        fields(object).remove("status");
    }
    if resource.namespaced {
        require_namespace(server, context, object, extras).await?;
    }
    defaults::apply(resource, object, None);
    admit_kind(server, context, None, object, extras).await?;
    refuse_if(validate::new(resource, object), context, object)?;
    if resource.has_generation() {
        meta(object).insert("generation".to_owned(), 1.into());
    }
    if !keeps_managers {
        meta(object).remove("managedFields");
        record_update(&resource.merging(), None, object, &writer(context));
    }
    extras.conditions.push(Condition::Absent { key: server.store.key(resource, &target.namespace, name(object)) });
    Ok(())
}

fn refuse_if(causes: Vec<Cause>, context: &Context, object: &Value) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(context.resource.about(), name(object), &causes))
}

fn fix_new_metadata(context: &Context, object: &mut Value) -> Result<(), ApiError> {
    let target = &context.target;
    let prefix = text(object, &["metadata", "generateName"]).to_owned();
    let own = namespace(object).to_owned();
    if !own.is_empty() && own != target.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    if !text(object, &["metadata", "resourceVersion"]).is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let unnamed = name(object).is_empty();
    if !target.name.is_empty() && !unnamed && name(object) != target.name {
        let message =
            format!("the name of the object ({}) does not match the name on the URL ({})", name(object), target.name);
        return Err(ApiError::bad_request(message));
    }
    let meta = meta(object);
    if context.resource.namespaced {
        meta.insert("namespace".to_owned(), target.namespace.clone().into());
    } else {
        meta.remove("namespace");
    }
    if !target.name.is_empty() {
        meta.insert("name".to_owned(), target.name.clone().into());
    } else if unnamed && !prefix.is_empty() {
        let prefix: String = prefix.chars().take(GENERATE_PREFIX_MAX).collect();
        meta.insert("name".to_owned(), format!("{prefix}{}", name_suffix()).into());
    }
    for field in ["selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        meta.remove(field);
    }
    meta.insert("uid".to_owned(), new_uid().into());
    meta.insert("creationTimestamp".to_owned(), now().into());
    Ok(())
}

/// The namespace must be there, and stay until the object is written, and not be on its way out.
async fn require_namespace(
    server: &Server,
    context: &Context,
    object: &Value,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let wanted = &context.target.namespace;
    let namespaces = context.registry.get("", "v1", "namespaces").ok_or_else(ApiError::no_route)?;
    let found = server.store.get(&namespaces, "", wanted).await?;
    let found = found.ok_or_else(|| ApiError::not_found(namespaces.about(), wanted))?;
    if is_deleting(&found) {
        let why = format!("unable to create new content in namespace {wanted} because it is being terminated");
        return Err(ApiError::forbidden(context.resource.about(), name(object), &why));
    }
    extras.conditions.push(Condition::Present { key: server.store.key(&namespaces, "", wanted) });
    Ok(())
}

/// Makes a changed object ready to be stored. Returns whether anything but the bookkeeping changed.
pub(crate) async fn admit_change(
    server: &Server,
    context: &Context,
    old: &Value,
    object: &mut Value,
    keeps_managers: bool,
    extras: &mut Extras,
) -> Result<bool, ApiError> {
    let resource = &context.resource;
    let about = resource.about();
    let sent = text(object, &["metadata", "resourceVersion"]);
    if !sent.is_empty() && sent != text(old, &["metadata", "resourceVersion"]) {
        return Err(ApiError::modified(about, name(old)));
    }
    let uid = text(object, &["metadata", "uid"]);
    if !uid.is_empty() && uid != text(old, &["metadata", "uid"]) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(old, &["metadata", "uid"])
        );
        return Err(ApiError::conflict(about, name(old), &why));
    }
    if context.target.subresource == "status" {
        only_status(old, object);
    } else if resource.status && context.target.subresource != "binding" {
        keep(old, object, "status");
    }
    keep_metadata(old, object);
    defaults::apply(resource, object, Some(old));
    admit_kind(server, context, Some(old), object, extras).await?;
    let status_only = context.target.subresource == "status";
    let causes = if status_only { Vec::new() } else { validate::changed(resource, old, object) };
    refuse_if(causes, context, object)?;
    if resource.has_generation() {
        let mut generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        generation += i64::from(!status_only && significant(old) != significant(object));
        meta(object).insert("generation".to_owned(), generation.into());
    }
    let changed = without_managers(old) != without_managers(object);
    if !keeps_managers {
        if changed {
            record_update(&resource.merging(), Some(old), object, &writer(context));
        } else {
            match at(old, &["metadata", "managedFields"]) {
                Some(managers) => meta(object).insert("managedFields".to_owned(), managers.clone()),
                None => meta(object).remove("managedFields"),
            };
        }
    }
    Ok(old != object)
}

/// What counts for the generation: everything but metadata and status.
fn significant(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.remove("metadata");
    fields.remove("status");
    fields
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    meta(&mut object).remove("managedFields");
    object
}

fn keep(old: &Value, object: &mut Value, field: &str) {
    match old.get(field) {
        Some(value) => fields(object).insert(field.to_owned(), value.clone()),
        None => fields(object).remove(field),
    };
}

/// A write to `status` changes nothing but the status; and the managers, which are recorded after.
fn only_status(old: &Value, object: &mut Value) {
    let status = fields(object).remove("status");
    let managers = meta(object).remove("managedFields");
    *object = old.clone();
    match status {
        Some(status) => fields(object).insert("status".to_owned(), status),
        None => fields(object).remove("status"),
    };
    if let Some(managers) = managers {
        meta(object).insert("managedFields".to_owned(), managers);
    }
}

/// Metadata that no client changes.
fn keep_metadata(old: &Value, object: &mut Value) {
    let fixed = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generation",
        "generateName",
    ];
    for field in fixed {
        let value = at(old, &["metadata", field]).cloned();
        let meta = meta(object);
        match value {
            Some(value) => meta.insert(field.to_owned(), value),
            None => meta.remove(field),
        };
    }
    meta(object).remove("selfLink");
}

/// What is particular to a kind and needs more than the object itself.
async fn admit_kind(
    server: &Server,
    context: &Context,
    old: Option<&Value>,
    object: &mut Value,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let resource = &context.resource;
    if let Some(node) = crate::auth::node::node_of(&context.user)
        && let Some(why) = crate::auth::node::restrict(node, &resource.kind, old, object)
    {
        return Err(ApiError::forbidden(resource.about(), name(object), &why));
    }
    if resource.is("", "Service") && context.target.subresource.is_empty() {
        return crate::addresses::assign(server, context, old, object, extras).await;
    }
    if resource.is("", "Pod") && old.is_none() {
        return super::account::admit(server, context, object).await;
    }
    if resource.is("networking.k8s.io", "NetworkPolicy") && old.is_none() {
        return room_for_policy(server, context, object).await;
    }
    if resource.group == "rbac.authorization.k8s.io" {
        return may_give(server, context, object);
    }
    Ok(())
}

/// Nodes enforce this many; more are refused here, where somebody hears of it. Several at the same moment may pass together: nodes have a bound of
/// their own.
async fn room_for_policy(server: &Server, context: &Context, object: &Value) -> Result<(), ApiError> {
    if server.store.count(&context.resource, POLICIES_MAX).await? < POLICIES_MAX {
        return Ok(());
    }
    let why = format!("there are {POLICIES_MAX} NetworkPolicies, and nodes enforce no more; put rules together");
    Err(ApiError::forbidden(context.resource.about(), name(object), &why))
}

/// Nobody gives rights that they do not have, unless a rule lets them `escalate` or `bind`.
fn may_give(server: &Server, context: &Context, object: &Value) -> Result<(), ApiError> {
    let rules = server.rules();
    let scope = &context.target.namespace;
    let is_binding = object.get("roleRef").is_some();
    let given = if is_binding {
        rules.rules_of_role(&object["roleRef"], scope)
    } else {
        list(object, &["rules"]).iter().collect()
    };
    let Some(rule) = rules.escalation(&context.user, scope, &given) else { return Ok(()) };
    let (plural, role) = match (is_binding, text(object, &["roleRef", "kind"])) {
        (true, "Role") => ("roles", text(object, &["roleRef", "name"])),
        (true, _) => ("clusterroles", text(object, &["roleRef", "name"])),
        (false, _) => (context.resource.plural.as_str(), name(object)),
    };
    let exempt = crate::auth::rbac::Attributes {
        verb: if is_binding { "bind" } else { "escalate" }.to_owned(),
        group: context.resource.group.clone(),
        resource: plural.to_owned(),
        namespace: scope.clone(),
        name: role.to_owned(),
        ..Default::default()
    };
    if rules.allow(&context.user, &exempt) {
        return Ok(());
    }
    let why =
        format!("user \"{}\" is attempting to grant RBAC permissions not currently held: {rule}", context.user.name);
    Err(ApiError::forbidden(context.resource.about(), name(object), &why))
}
