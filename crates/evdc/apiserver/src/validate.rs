//! What may not be stored, with the field and the reason that Kubernetes gives. The checks are those that people meet; they are not all of Kubernetes'.

use serde_json::{Map, Value};

use crate::{
    error::Cause,
    kinds::{Resource, custom},
    object::{at, list, name, number, text},
    selector::LabelSelector,
};

mod names;
mod pod;
pub(crate) mod policy;

/// Most bytes of annotations, names and values together.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;

/// Most bytes in a ConfigMap or a Secret.
const DATA_BYTES_MAX: usize = 1 << 20;

/// What is wrong with a new object.
pub(crate) fn new(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(resource, object, &mut causes);
    content(resource, object, &mut causes);
    causes
}

/// What is wrong with an object that takes the place of another.
pub(crate) fn changed(resource: &Resource, old: &Value, object: &Value) -> Vec<Cause> {
    let mut causes = new(resource, object);
    immutable(resource, old, object, &mut causes);
    causes
}

fn metadata(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let name = name(object);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = names::object_name(resource, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), why));
    }
    labels(at(object, &["metadata", "labels"]), "metadata.labels", causes);
    let mut bytes = 0;
    for (key, value) in map(at(object, &["metadata", "annotations"])) {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        if let Some(why) = names::qualified(key) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), why));
        }
    }
    if bytes > ANNOTATION_BYTES_MAX {
        let message = format!("Too long: may not be more than {ANNOTATION_BYTES_MAX} bytes");
        causes.push(Cause { field: "metadata.annotations".to_owned(), reason: "FieldValueTooLong", message });
    }
}

fn map(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn labels(value: Option<&Value>, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in map(value) {
        if let Some(why) = names::qualified(key) {
            causes.push(Cause::invalid(field, &key.as_str().into(), why));
        }
        if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, why));
        }
    }
}

fn content(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    if let Some(custom) = &resource.custom {
        causes.extend(custom::validate(&custom.schema, object));
        return;
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Pod") => pod::spec(&object["spec"], "spec", causes),
        ("", "Service") => service(object, causes),
        ("", "ConfigMap" | "Secret") => data(object, causes),
        ("", "PersistentVolumeClaim") => claim(&object["spec"], "spec", causes),
        ("", "PersistentVolume") => volume(&object["spec"], causes),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet") => workload(resource, object, causes),
        ("networking.k8s.io", "Ingress") => ingress(object, causes),
        ("networking.k8s.io", "NetworkPolicy") => policy::spec(&object["spec"], causes),
        ("storage.k8s.io", "StorageClass") if text(object, &["provisioner"]).is_empty() => {
            causes.push(Cause::required("provisioner", ""));
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            for (index, rule) in list(object, &["rules"]).iter().enumerate() {
                if list(rule, &["verbs"]).is_empty() {
                    causes.push(Cause::required(
                        format!("rules[{index}].verbs"),
                        "verbs must contain at least one value",
                    ));
                }
            }
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            if text(object, &["roleRef", "name"]).is_empty() {
                causes.push(Cause::required("roleRef.name", ""));
            }
            one_of(&object["roleRef"], "kind", "roleRef", &["Role", "ClusterRole"], causes);
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => causes.extend(custom::validate_definition(object)),
        _ => {}
    }
}

/// A field that has to have one of these values; it may be absent.
fn one_of(object: &Value, name: &str, path: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    if let Some(value) = object.get(name)
        && !value.as_str().is_some_and(|value| allowed.contains(&value))
    {
        causes.push(Cause::not_supported(format!("{path}.{name}"), value, allowed));
    }
}

fn not_negative(object: &Value, name: &str, path: &str, causes: &mut Vec<Cause>) {
    if let Some(number) = number(object, &[name]).filter(|number| *number < 0) {
        causes.push(Cause::invalid(format!("{path}.{name}"), &number.into(), "must be greater than or equal to 0"));
    }
}

fn port(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    let fits = value.as_i64().is_some_and(|port| (1..=65_535).contains(&port));
    if !fits {
        causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

fn service(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    one_of(spec, "type", "spec", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], causes);
    one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"], causes);
    let ports = list(spec, &["ports"]);
    let kind = text(spec, &["type"]);
    if kind == "ExternalName" && text(spec, &["externalName"]).is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    if ports.is_empty() && kind != "ExternalName" && spec["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    labels(spec.get("selector"), "spec.selector", causes);
    let mut seen = Vec::new();
    for (index, it) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        port(&it["port"], &format!("{path}.port"), causes);
        if ports.len() > 1 && text(it, &["name"]).is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        one_of(it, "protocol", &path, &["SCTP", "TCP", "UDP"], causes);
        if it["targetPort"].is_number() {
            port(&it["targetPort"], &format!("{path}.targetPort"), causes);
        }
        let key = (it["port"].clone(), it["protocol"].clone());
        if seen.contains(&key) {
            causes.push(Cause::duplicate(path, &serde_json::json!({"port": key.0, "protocol": key.1})));
        }
        seen.push(key);
    }
}

fn data(object: &Value, causes: &mut Vec<Cause>) {
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map(object.get(field)) {
            bytes += key.len() + value.as_str().map_or(0, str::len);
            if let Some(why) = names::data_key(key) {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &key.as_str().into(), why));
            }
        }
    }
    if bytes > DATA_BYTES_MAX * 4 / 3 {
        let message = format!("Too long: may not be more than {DATA_BYTES_MAX} bytes");
        causes.push(Cause { field: String::new(), reason: "FieldValueTooLong", message });
    }
    if object["kind"] == "Secret" {
        for (key, value) in map(object.get("data")) {
            let decodes = value.as_str().is_some_and(|text| data_encoding::BASE64.decode(text.as_bytes()).is_ok());
            if !decodes {
                causes.push(Cause::invalid(format!("data[{key}]"), &"<hidden>".into(), "must be base64"));
            }
        }
    }
}

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let modes = list(spec, &["accessModes"]);
    if modes.is_empty() {
        causes.push(Cause::required(format!("{path}.accessModes"), "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !mode.as_str().is_some_and(|mode| ACCESS_MODES.contains(&mode))) {
        causes.push(Cause::not_supported(format!("{path}.accessModes"), mode, &ACCESS_MODES));
    }
}

fn claim(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    access_modes(spec, path, causes);
    let field = format!("{path}.resources[storage]");
    match at(spec, &["resources", "requests", "storage"]) {
        None => causes.push(Cause::required(field, "")),
        Some(amount) => pod::quantity(amount, &field, causes),
    }
    one_of(spec, "volumeMode", path, &["Block", "Filesystem"], causes);
}

fn volume(spec: &Value, causes: &mut Vec<Cause>) {
    access_modes(spec, "spec", causes);
    match at(spec, &["capacity", "storage"]) {
        None => causes.push(Cause::required("spec.capacity", "")),
        Some(amount) => pod::quantity(amount, "spec.capacity[storage]", causes),
    }
    one_of(spec, "persistentVolumeReclaimPolicy", "spec", &["Delete", "Recycle", "Retain"], causes);
}

fn workload(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    not_negative(spec, "replicas", "spec", causes);
    not_negative(spec, "minReadySeconds", "spec", causes);
    not_negative(spec, "revisionHistoryLimit", "spec", causes);
    let selector = &spec["selector"];
    let is_empty =
        list(selector, &["matchExpressions"]).is_empty() && map(selector.get("matchLabels")).next().is_none();
    if selector.is_null() {
        causes.push(Cause::required("spec.selector", ""));
    } else if is_empty {
        causes.push(Cause::invalid("spec.selector", selector, "empty selector is invalid for deployment"));
    } else if !LabelSelector::of(selector).matches(&spec["template"]) {
        let labels = at(spec, &["template", "metadata", "labels"]).cloned().unwrap_or_default();
        let detail = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &labels, detail));
    }
    labels(at(spec, &["template", "metadata", "labels"]), "spec.template.metadata.labels", causes);
    let template = &spec["template"]["spec"];
    let claims = list(spec, &["volumeClaimTemplates"]).iter().map(|claim| text(claim, &["metadata", "name"]));
    pod::spec_with(template, "spec.template.spec", &claims.collect::<Vec<_>>(), causes);
    if template["restartPolicy"] != "Always" {
        causes.push(Cause::not_supported("spec.template.spec.restartPolicy", &template["restartPolicy"], &["Always"]));
    }
    match resource.kind.as_str() {
        "Deployment" => one_of(&spec["strategy"], "type", "spec.strategy", &["Recreate", "RollingUpdate"], causes),
        "StatefulSet" => {
            one_of(spec, "podManagementPolicy", "spec", &["OrderedReady", "Parallel"], causes);
            one_of(&spec["updateStrategy"], "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"], causes);
        }
        _ => {}
    }
}

fn ingress(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let rules = list(spec, &["rules"]);
    if rules.is_empty() && spec.get("defaultBackend").is_none() {
        causes.push(Cause::invalid("spec", spec, "either `defaultBackend` or `rules` must be specified"));
    }
    for (index, rule) in rules.iter().enumerate() {
        for (at_path, path) in list(rule, &["http", "paths"]).iter().enumerate() {
            let field = format!("spec.rules[{index}].http.paths[{at_path}]");
            match path.get("pathType") {
                None => causes.push(Cause::required(format!("{field}.pathType"), "pathType must be specified")),
                Some(_) => one_of(path, "pathType", &field, &["Exact", "ImplementationSpecific", "Prefix"], causes),
            }
            let prefix = text(path, &["path"]);
            if !prefix.starts_with('/') {
                causes.push(Cause::invalid(format!("{field}.path"), &prefix.into(), "must be an absolute path"));
            }
            if at(path, &["backend", "service", "name"]).is_none() && at(path, &["backend", "resource"]).is_none() {
                causes.push(Cause::required(format!("{field}.backend"), "must specify a service or a resource"));
            }
        }
    }
}

/// Fields that stay as they are once an object is stored.
fn immutable(resource: &Resource, old: &Value, object: &Value, causes: &mut Vec<Cause>) {
    let mut fixed = |path: &[&str]| {
        let (was, is) = (at(old, path), at(object, path));
        if was.is_some_and(|was| !was.is_null()) && was != is {
            causes.push(Cause::invalid(path.join("."), is.unwrap_or(&Value::Null), "field is immutable"));
        }
    };
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "ReplicaSet") => fixed(&["spec", "selector"]),
        ("apps", "StatefulSet") => {
            let allowed = [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
                "revisionHistoryLimit",
            ];
            let rest = |object: &Value| {
                let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
                spec.retain(|name, _| !allowed.contains(&name.as_str()));
                spec
            };
            if rest(old) != rest(object) {
                let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
                causes.push(Cause::forbidden("spec", detail));
            }
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => fixed(&["roleRef"]),
        ("storage.k8s.io", "StorageClass") => {
            fixed(&["provisioner"]);
            fixed(&["parameters"]);
        }
        ("apps", "ControllerRevision") => fixed(&["data"]),
        ("", "Secret") => fixed(&["type"]),
        ("", "Pod") => pod::immutable(old, object, causes),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            fixed(&["spec", "group"]);
            fixed(&["spec", "scope"]);
            fixed(&["spec", "names", "plural"]);
        }
        ("", "PersistentVolumeClaim") if !text(old, &["spec", "volumeName"]).is_empty() => {
            for field in ["volumeName", "storageClassName", "accessModes"] {
                fixed(&["spec", field]);
            }
        }
        _ => {}
    }
    if matches!(resource.kind.as_str(), "ConfigMap" | "Secret") && resource.group.is_empty() && old["immutable"] == true
    {
        for field in ["data", "binaryData", "immutable"] {
            if old.get(field) != object.get(field) {
                causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
            }
        }
    }
}
