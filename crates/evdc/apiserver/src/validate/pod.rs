//! Pods and their templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{names, not_negative, one_of, port};
use crate::{
    error::Cause,
    object::{at, list, text},
};

/// Checks a pod's spec at this path.
pub(super) fn spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    spec_with(spec, path, &[], causes);
}

/// The same for a template whose pods get further volumes of the names `given`: those of a StatefulSet's claims.
pub(super) fn spec_with(spec: &Value, path: &str, given: &[&str], causes: &mut Vec<Cause>) {
    one_of(spec, "restartPolicy", path, &["Always", "Never", "OnFailure"], causes);
    one_of(spec, "dnsPolicy", path, &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], causes);
    not_negative(spec, "terminationGracePeriodSeconds", path, causes);
    let mut volumes = volumes(spec, path, causes);
    volumes.extend(given);
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut seen = BTreeSet::new();
    for (field, containers) in [("initContainers", list(spec, &["initContainers"])), ("containers", containers)] {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{path}.{field}[{index}]");
            let name = text(container, &["name"]);
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            } else if let Some(why) = names::label(name) {
                causes.push(Cause::invalid(format!("{path}.name"), &name.into(), why));
            } else if !seen.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &name.into()));
            }
            self::container(container, &path, &volumes, causes);
        }
    }
}

fn volumes<'a>(spec: &'a Value, path: &str, causes: &mut Vec<Cause>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{path}.volumes[{index}]");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            causes.push(Cause::required(format!("{field}.name"), ""));
        } else if let Some(why) = names::label(name) {
            causes.push(Cause::invalid(format!("{field}.name"), &name.into(), why));
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{field}.name"), &name.into()));
        }
        let sources = volume.as_object().map_or(0, |fields| fields.len().saturating_sub(1));
        if sources > 1 {
            causes.push(Cause::forbidden(field, "may not specify more than 1 volume type"));
        }
    }
    names
}

fn container(container: &Value, path: &str, volumes: &BTreeSet<&str>, causes: &mut Vec<Cause>) {
    if text(container, &["image"]).is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"], causes);
    for (index, it) in list(container, &["ports"]).iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        match it.get("containerPort") {
            None => causes.push(Cause::required(format!("{path}.containerPort"), "")),
            Some(number) => port(number, &format!("{path}.containerPort"), causes),
        }
        one_of(it, "protocol", &path, &["SCTP", "TCP", "UDP"], causes);
    }
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        if text(variable, &["name"]).is_empty() {
            causes.push(Cause::required(format!("{path}.env[{index}].name"), ""));
        }
        let has_value = !text(variable, &["value"]).is_empty();
        if has_value && at(variable, &["valueFrom"]).is_some() {
            let detail = "may not be specified when `value` is not empty";
            causes.push(Cause::invalid(format!("{path}.env[{index}].valueFrom"), &"".into(), detail));
        }
    }
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = text(mount, &["name"]);
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            causes.push(Cause::not_found(format!("{path}.name"), &name.into()));
        }
        if text(mount, &["mountPath"]).is_empty() {
            causes.push(Cause::required(format!("{path}.mountPath"), ""));
        }
    }
    resources(&container["resources"], &format!("{path}.resources"), causes);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(name) {
            self::probe(probe, &format!("{path}.{name}"), causes);
        }
    }
}

fn resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    for of in ["limits", "requests"] {
        for (name, amount) in resources[of].as_object().into_iter().flatten() {
            quantity(amount, &format!("{path}.{of}[{name}]"), causes);
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Some(asked), Some(most)) = (amount(request), amount(limit))
            && asked > most
        {
            let detail =
                format!("must be less than or equal to {name} limit of {}", limit.as_str().unwrap_or_default());
            causes.push(Cause::invalid(format!("{path}.requests"), request, &detail));
        }
    }
}

/// Checks an amount such as `100m`, `1.5` or `2Gi`.
pub(super) fn quantity(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    match amount(value) {
        None => {
            let detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            causes.push(Cause::invalid(field, value, detail));
        }
        Some(amount) if amount < 0.0 => {
            causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
        }
        Some(_) => {}
    }
}

/// The size of an amount, near enough to compare two.
fn amount(value: &Value) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = value.as_str()?;
    let found = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = found.unwrap_or((text, 1.0));
    let begins = number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    number.parse::<f64>().ok().filter(|number| begins && number.is_finite()).map(|number| number * factor)
}

fn probe(probe: &Value, path: &str, causes: &mut Vec<Cause>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|name| probe.get(**name).is_some()).count();
    if handlers == 0 {
        causes.push(Cause::required(path, "must specify a handler type"));
    }
    if handlers > 1 {
        causes.push(Cause::forbidden(path, "may not specify more than 1 handler type"));
    }
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(probe, name, path, causes);
    }
}

/// What of a pod's spec may change once it is stored: images, the deadline, more tolerations, a shorter grace period; and the node, once.
pub(super) fn immutable(old: &Value, object: &Value, causes: &mut Vec<Cause>) {
    let rest = |pod: &Value| {
        let mut spec = pod["spec"].as_object().cloned().unwrap_or_default();
        for field in [
            "activeDeadlineSeconds",
            "terminationGracePeriodSeconds",
            "tolerations",
            "ephemeralContainers",
            "schedulingGates",
        ] {
            spec.remove(field);
        }
        if text(old, &["spec", "nodeName"]).is_empty() {
            spec.remove("nodeName");
        }
        for field in ["containers", "initContainers"] {
            for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
                // The default of the pull policy follows the image.
                container["imagePullPolicy"] = Value::Null;
            }
        }
        spec
    };
    if rest(old) != rest(object) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_have_kubernetes_paths() {
        let check = |pod: Value, expected: &[(&str, &str)]| {
            let mut causes = Vec::new();
            spec(&pod, "spec", &mut causes);
            let found: Vec<_> = causes.iter().map(|cause| (cause.field.as_str(), cause.reason)).collect();
            assert_eq!(found, expected, "{pod}");
        };
        check(json!({"containers": [{"name": "a", "image": "x"}]}), &[]);
        check(json!({}), &[("spec.containers", "FieldValueRequired")]);
        check(
            json!({"containers": [{"name": "A", "image": "x"}]}),
            &[("spec.containers[0].name", "FieldValueInvalid")],
        );
        check(json!({"containers": [{"name": "a"}]}), &[("spec.containers[0].image", "FieldValueRequired")]);
        check(
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]}),
            &[("spec.containers[1].name", "FieldValueDuplicate")],
        );
        check(
            json!({"restartPolicy": "No", "containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 0}],
                "volumeMounts": [{"name": "v", "mountPath": "/"}]}]}),
            &[
                ("spec.restartPolicy", "FieldValueNotSupported"),
                ("spec.containers[0].ports[0].containerPort", "FieldValueInvalid"),
                ("spec.containers[0].volumeMounts[0].name", "FieldValueNotFound"),
            ],
        );
        check(
            json!({"containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m", "memory": "x"}}}]}),
            &[
                ("spec.containers[0].resources.limits[memory]", "FieldValueInvalid"),
                ("spec.containers[0].resources.requests", "FieldValueInvalid"),
            ],
        );
    }

    #[test]
    fn a_claim_template_is_a_volume_of_the_pods() {
        let pod = json!({"containers": [
            {"name": "a", "image": "x", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        ]});
        let found = |given: &[&str]| {
            let mut causes = Vec::new();
            spec_with(&pod, "spec", given, &mut causes);
            causes.len()
        };
        assert_eq!((found(&["data"]), found(&["other"])), (0, 1));
    }

    #[test]
    fn amounts_compare() {
        let of = |text: &str| amount(&text.into());
        assert_eq!((of("1500m"), of("1.5")), (Some(1.5), Some(1.5)));
        assert!(of("1Gi") > of("1G") && of("1e3") == Some(1000.0));
        for bad in ["", "x", "1x", "Gi", "inf", "NaN", "1 Gi"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
