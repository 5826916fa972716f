//! A container's environment (pure): from the image, from Services, from `envFrom`, from `env`, in this order, later ones winning; with
//! `$(NAME)` expanded as Kubernetes does. Fails on what is named and not there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};

use crate::inputs::Inputs;
use crate::quantity::thousandths;

/// What a pod may be told of itself and its node besides what its object says.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The pod's address, once it has one.
    pub pod_ip: Option<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// Whole CPUs in thousandths that the node gives pods: the limit of one that has none.
    pub cpu_millis: i128,
    /// Bytes that the node gives pods.
    pub memory_bytes: i128,
}

/// Why a container's configuration cannot be made; the message of `CreateContainerConfigError`, in kubelet's words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigProblem(pub String);

type Variables = BTreeMap<String, String>;

/// The environment, and the command line with variables expanded.
///
/// # Errors
///
/// A named key or object that is absent and not optional; a field that cannot be referred to.
pub fn environment(
    pod: &Pod,
    container: &Container,
    inputs: &Inputs,
    services: &Variables,
    image: &[String],
    facts: &Facts,
) -> Result<Variables, ConfigProblem> {
    let mut result: Variables = image
        .iter()
        .filter_map(|it| it.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    result.extend(services.clone());
    from_objects(container, inputs, &mut result)?;
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value_from, &variable.value) {
            (Some(source), _) => referred(pod, container, inputs, source, facts)?,
            (None, Some(value)) => Some(expand(value, &result)),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            result.insert(variable.name.clone(), value);
        }
    }
    Ok(result)
}

fn from_objects(container: &Container, inputs: &Inputs, result: &mut Variables) -> Result<(), ConfigProblem> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |name: &str, value: String| {
            let name = format!("{prefix}{name}");
            // Kubelet skips what cannot be a variable's name and says so in an event; such keys are common in shared ConfigMaps.
            if !name.is_empty() && !name.contains(['=', '\0']) {
                result.insert(name, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match inputs.config_maps.get(&reference.name) {
                Some(map) => map.data.iter().flatten().for_each(|(name, value)| add(name, value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(absent("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match inputs.secrets.get(&reference.name) {
                Some(secret) => {
                    for (name, value) in secret.data.iter().flatten() {
                        add(name, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(absent("secret", &reference.name)),
            }
        }
    }
    Ok(())
}

fn absent(kind: &str, name: &str) -> ConfigProblem {
    ConfigProblem(format!("{kind} {name:?} not found"))
}

fn referred(
    pod: &Pod,
    container: &Container,
    inputs: &Inputs,
    source: &EnvVarSource,
    facts: &Facts,
) -> Result<Option<String>, ConfigProblem> {
    if let Some(field) = &source.field_ref {
        return field_of(pod, field, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_of(pod, Some(container), resource, facts).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = inputs.config_maps.get(&key.name);
        let value = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return present(value, "configmap", "ConfigMap", map.is_some(), &key.name, &key.key, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = inputs.secrets.get(&key.name);
        let value = secret.and_then(|secret| secret.data.as_ref()?.get(&key.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        return present(value, "secret", "Secret", secret.is_some(), &key.name, &key.key, key.optional);
    }
    Err(ConfigProblem("a variable's valueFrom names nothing".to_owned()))
}

fn present(
    value: Option<String>,
    kind: &str,
    title: &str,
    exists: bool,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, ConfigProblem> {
    match (value, optional, exists) {
        (Some(value), _, _) => Ok(Some(value)),
        (None, Some(true), _) => Ok(None),
        (None, _, false) => Err(absent(kind, name)),
        (None, _, true) => Err(ConfigProblem(format!("couldn't find key {key} in {title} {name}"))),
    }
}

/// A field of the pod as text (downward API).
///
/// # Errors
///
/// A path that cannot be referred to.
pub fn field_of(pod: &Pod, field: &ObjectFieldSelector, facts: &Facts) -> Result<String, ConfigProblem> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    let path = field.field_path.as_str();
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    if let Some(key) = subscript("metadata.labels") {
        return text(meta.labels.as_ref().and_then(|labels| labels.get(&key)));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return text(meta.annotations.as_ref().and_then(|annotations| annotations.get(&key)));
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" | "status.podIPs" => text(facts.pod_ip.as_ref()),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        _ => Err(ConfigProblem(format!("unsupported fieldPath: {path}"))),
    }
}

/// As kubelet writes maps into files: sorted, `key="value"`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A container's request or limit as a number.
///
/// # Errors
///
/// A container that is not there, a resource that cannot be referred to, a divisor that is no quantity.
pub fn resource_of(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, ConfigProblem> {
    let problem = |what: &str| ConfigProblem(format!("resource {}: {what}", selector.resource));
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => {
            let spec = pod.spec.as_ref().ok_or_else(|| problem("the pod has no spec"))?;
            crate::observed::containers(spec).map(|(_, it)| it).find(|it| it.name == name)
        }
        None => own,
    };
    let resources = container.ok_or_else(|| problem("no such container"))?.resources.clone().unwrap_or_default();
    let (list, name) = selector.resource.split_once('.').ok_or_else(|| problem("unsupported container resource"))?;
    let (list, whole) = match (list, name) {
        ("limits", "cpu") => (resources.limits, facts.cpu_millis),
        ("limits", "memory") => (resources.limits, facts.memory_bytes.saturating_mul(1_000)),
        ("requests", "cpu" | "memory") => (resources.requests, 0),
        _ => return Err(problem("unsupported container resource")),
    };
    let value = list.as_ref().and_then(|list| list.get(name)).map_or(Some(whole), thousandths);
    let value = value.ok_or_else(|| problem("not a quantity"))?;
    let divisor = selector.divisor.as_ref().map(thousandths).unwrap_or(Some(1_000)).filter(|it| *it >= 0);
    // A divisor of 0 means 1, as the API's default.
    let divisor = divisor.map(|it| if it == 0 { 1_000 } else { it }).ok_or_else(|| problem("no such divisor"))?;
    Ok(((value + divisor - 1) / divisor).to_string())
}

/// `$(NAME)` becomes the variable's value; `$$` becomes `$`; what names no variable stays as it is.
#[must_use]
pub fn expand(text: &str, variables: &Variables) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')')).map(|(name, _)| name);
        match (after.chars().next(), name) {
            (Some('$'), _) => {
                result.push('$');
                rest = &after[1..];
            }
            (_, Some(name)) => {
                match variables.get(name) {
                    Some(value) => result.push_str(value),
                    None => result.push_str(&rest[at..at + name.len() + 3]),
                }
                rest = &after[name.len() + 2..];
            }
            _ => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests;
