//! The cells of the built-in kinds.

use serde_json::Value;

use super::{Column, age, at, list, number, text};
use crate::selector::LabelSelector;

const NONE: &str = "<none>";

fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

fn joined<'a>(items: impl Iterator<Item = &'a str>) -> Value {
    or_none(&items.collect::<Vec<_>>().join(","))
}

fn count(object: &Value, path: &[&str]) -> Value {
    number(object, path).unwrap_or(0).into()
}

fn out_of(object: &Value, ready: &[&str], all: &[&str]) -> Value {
    let of = |path: &[&str]| number(object, path).unwrap_or(0);
    format!("{}/{}", of(ready), of(all)).into()
}

fn selector(object: &Value) -> Value {
    or_none(&LabelSelector::of(&object["spec"]["selector"]).to_string())
}

fn container_names(object: &Value) -> Value {
    joined(list(object, &["spec", "template", "spec", "containers"]).iter().map(|it| text(it, &["name"])))
}

fn images(object: &Value) -> Value {
    joined(list(object, &["spec", "template", "spec", "containers"]).iter().map(|it| text(it, &["image"])))
}

fn entries(value: Option<&Value>) -> usize {
    value.and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(super) const NAMESPACE: &[Column] = &[("Status", "string", 0, |it| text(it, &["status", "phase"]).into())];

pub(super) const NODE: &[Column] = &[
    ("Status", "string", 0, node_status),
    ("Roles", "string", 0, |it| {
        let labels = it["metadata"]["labels"].as_object().into_iter().flatten();
        joined(labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")))
    }),
    ("Version", "string", 0, |it| text(it, &["status", "nodeInfo", "kubeletVersion"]).into()),
    ("Internal-IP", "string", 1, |it| node_address(it, "InternalIP")),
    ("External-IP", "string", 1, |it| node_address(it, "ExternalIP")),
    ("OS-Image", "string", 1, |it| or_none(text(it, &["status", "nodeInfo", "osImage"]))),
    ("Kernel-Version", "string", 1, |it| or_none(text(it, &["status", "nodeInfo", "kernelVersion"]))),
    ("Container-Runtime", "string", 1, |it| or_none(text(it, &["status", "nodeInfo", "containerRuntimeVersion"]))),
];

fn node_status(node: &Value) -> Value {
    let ready = list(node, &["status", "conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|ready| text(ready, &["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_address(node: &Value, kind: &str) -> Value {
    let found = list(node, &["status", "addresses"]).iter().find(|address| address["type"] == kind);
    or_none(found.map_or("", |found| text(found, &["address"])))
}

pub(super) const POD: &[Column] = &[
    ("Ready", "string", 0, |it| {
        let ready = list(it, &["status", "containerStatuses"]).iter().filter(|status| status["ready"] == true).count();
        format!("{ready}/{}", list(it, &["spec", "containers"]).len()).into()
    }),
    ("Status", "string", 0, |it| pod_status(it).into()),
    ("Restarts", "string", 0, |it| {
        let statuses = list(it, &["status", "containerStatuses"]).iter();
        statuses.filter_map(|status| number(status, &["restartCount"])).sum::<i64>().to_string().into()
    }),
    ("IP", "string", 1, |it| or_none(text(it, &["status", "podIP"]))),
    ("Node", "string", 1, |it| or_none(text(it, &["spec", "nodeName"]))),
    ("Nominated Node", "string", 1, |it| or_none(text(it, &["status", "nominatedNodeName"]))),
    ("Readiness Gates", "string", 1, |_| NONE.into()),
];

/// The word that tells most about a pod: what its containers wait for or died of, before its phase.
fn pod_status(pod: &Value) -> String {
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating".to_owned();
    }
    let own = text(pod, &["status", "reason"]);
    let mut status = if own.is_empty() { text(pod, &["status", "phase"]) } else { own }.to_owned();
    let init = list(pod, &["status", "initContainerStatuses"]);
    let all = list(pod, &["spec", "initContainers"]).len();
    for (index, container) in init.iter().enumerate() {
        let state = &container["state"];
        if number(state, &["terminated", "exitCode"]) == Some(0) || container["started"] == true {
            continue;
        }
        let why = reason(state);
        return match why {
            Some(why) if why != "PodInitializing" => format!("Init:{why}"),
            _ => format!("Init:{index}/{all}"),
        };
    }
    let mut running = false;
    for container in list(pod, &["status", "containerStatuses"]).iter().rev() {
        let state = &container["state"];
        if let Some(why) = reason(state) {
            status = why;
        }
        running |= container["ready"] == true && state.get("running").is_some();
    }
    if status == "Completed" && running {
        status = "Running".to_owned();
    }
    status
}

fn reason(state: &Value) -> Option<String> {
    let waiting = text(state, &["waiting", "reason"]);
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let ended = state.get("terminated")?;
    Some(match (text(ended, &["reason"]), number(ended, &["signal"])) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{}", number(ended, &["exitCode"]).unwrap_or(0)),
        (why, _) => why.to_owned(),
    })
}

pub(super) const SERVICE: &[Column] = &[
    ("Type", "string", 0, |it| text(it, &["spec", "type"]).into()),
    ("Cluster-IP", "string", 0, |it| or_none(text(it, &["spec", "clusterIP"]))),
    ("External-IP", "string", 0, external_address),
    ("Port(s)", "string", 0, |it| {
        let port = |port: &Value| {
            let number = number(port, &["port"]).unwrap_or(0);
            let node =
                port["nodePort"].as_i64().filter(|node| *node != 0).map_or(String::new(), |node| format!(":{node}"));
            format!("{number}{node}/{}", text(port, &["protocol"]))
        };
        or_none(&list(it, &["spec", "ports"]).iter().map(port).collect::<Vec<_>>().join(","))
    }),
    ("Selector", "string", 1, |it| {
        let labels = it["spec"]["selector"].as_object().into_iter().flatten();
        let pairs: Vec<String> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        or_none(&pairs.join(","))
    }),
];

fn external_address(service: &Value) -> Value {
    match text(service, &["spec", "type"]) {
        "ExternalName" => text(service, &["spec", "externalName"]).into(),
        "LoadBalancer" => {
            let found = list(service, &["status", "loadBalancer", "ingress"]);
            let address = |it: &Value| match text(it, &["ip"]) {
                "" => text(it, &["hostname"]).to_owned(),
                ip => ip.to_owned(),
            };
            if found.is_empty() {
                "<pending>".into()
            } else {
                found.iter().map(address).collect::<Vec<_>>().join(",").into()
            }
        }
        _ => joined(list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str)),
    }
}

pub(super) const ENDPOINTS: &[Column] = &[("Endpoints", "string", 0, |it| {
    let mut all = Vec::new();
    for subset in list(it, &["subsets"]) {
        for address in list(subset, &["addresses"]) {
            let ports = list(subset, &["ports"]).iter().filter_map(|port| number(port, &["port"]));
            all.extend(ports.map(|port| format!("{}:{port}", text(address, &["ip"]))));
        }
    }
    or_none(&all.join(","))
})];

pub(super) const CONFIG_MAP: &[Column] =
    &[("Data", "string", 0, |it| (entries(it.get("data")) + entries(it.get("binaryData"))).to_string().into())];

pub(super) const SECRET: &[Column] = &[
    ("Type", "string", 0, |it| text(it, &["type"]).into()),
    ("Data", "string", 0, |it| entries(it.get("data")).to_string().into()),
];

fn modes(object: &Value) -> Value {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    list(object, &["spec", "accessModes"]).iter().map(short).collect::<Vec<_>>().join(",").into()
}

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    ("Capacity", "string", 0, |it| text(it, &["spec", "capacity", "storage"]).into()),
    ("Access Modes", "string", 0, modes),
    ("Reclaim Policy", "string", 0, |it| text(it, &["spec", "persistentVolumeReclaimPolicy"]).into()),
    ("Status", "string", 0, |it| text(it, &["status", "phase"]).into()),
    ("Claim", "string", 0, |it| match text(it, &["spec", "claimRef", "name"]) {
        "" => "".into(),
        name => format!("{}/{name}", text(it, &["spec", "claimRef", "namespace"])).into(),
    }),
    ("StorageClass", "string", 0, |it| text(it, &["spec", "storageClassName"]).into()),
    ("VolumeAttributesClass", "string", 0, |_| "<unset>".into()),
    ("Reason", "string", 0, |it| text(it, &["status", "reason"]).into()),
    ("VolumeMode", "string", 1, |it| text(it, &["spec", "volumeMode"]).into()),
];

pub(super) const CLAIM: &[Column] = &[
    ("Status", "string", 0, |it| match at(it, &["metadata", "deletionTimestamp"]) {
        Some(_) => "Terminating".into(),
        None => text(it, &["status", "phase"]).into(),
    }),
    ("Volume", "string", 0, |it| text(it, &["spec", "volumeName"]).into()),
    ("Capacity", "string", 0, |it| text(it, &["status", "capacity", "storage"]).into()),
    (
        "Access Modes",
        "string",
        0,
        |it| if text(it, &["spec", "volumeName"]).is_empty() { "".into() } else { modes(it) },
    ),
    ("StorageClass", "string", 0, |it| text(it, &["spec", "storageClassName"]).into()),
    ("VolumeAttributesClass", "string", 0, |_| "<unset>".into()),
    ("VolumeMode", "string", 1, |it| text(it, &["spec", "volumeMode"]).into()),
];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[("Secrets", "integer", 0, |it| list(it, &["secrets"]).len().into())];

pub(super) const DEPLOYMENT: &[Column] = &[
    ("Ready", "string", 0, |it| out_of(it, &["status", "readyReplicas"], &["spec", "replicas"])),
    ("Up-to-date", "string", 0, |it| count(it, &["status", "updatedReplicas"])),
    ("Available", "string", 0, |it| count(it, &["status", "availableReplicas"])),
    ("Containers", "string", 1, container_names),
    ("Images", "string", 1, images),
    ("Selector", "string", 1, selector),
];

pub(super) const REPLICA_SET: &[Column] = &[
    ("Desired", "integer", 0, |it| count(it, &["spec", "replicas"])),
    ("Current", "integer", 0, |it| count(it, &["status", "replicas"])),
    ("Ready", "integer", 0, |it| count(it, &["status", "readyReplicas"])),
    ("Containers", "string", 1, container_names),
    ("Images", "string", 1, images),
    ("Selector", "string", 1, selector),
];

pub(super) const STATEFUL_SET: &[Column] = &[
    ("Ready", "string", 0, |it| out_of(it, &["status", "readyReplicas"], &["spec", "replicas"])),
    ("Containers", "string", 1, container_names),
    ("Images", "string", 1, images),
];

fn owner(object: &Value) -> Value {
    let owner = list(object, &["metadata", "ownerReferences"]).iter().find(|owner| owner["controller"] == true);
    or_none(
        &owner.map_or(String::new(), |owner| {
            format!("{}/{}", text(owner, &["kind"]).to_lowercase(), text(owner, &["name"]))
        }),
    )
}

pub(super) const REVISION: &[Column] =
    &[("Controller", "string", 0, owner), ("Revision", "string", 0, |it| count(it, &["revision"]))];

pub(super) const LEASE: &[Column] = &[("Holder", "string", 0, |it| text(it, &["spec", "holderIdentity"]).into())];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    ("AddressType", "string", 0, |it| text(it, &["addressType"]).into()),
    ("Ports", "string", 0, |it| {
        let ports = list(it, &["ports"]).iter().filter_map(|port| number(port, &["port"])).map(|port| port.to_string());
        or_none(&ports.collect::<Vec<_>>().join(","))
    }),
    ("Endpoints", "string", 0, |it| {
        let endpoints = list(it, &["endpoints"]).iter();
        joined(endpoints.flat_map(|endpoint| list(endpoint, &["addresses"])).filter_map(Value::as_str))
    }),
];

pub(super) const INGRESS: &[Column] = &[
    ("Class", "string", 0, |it| or_none(text(it, &["spec", "ingressClassName"]))),
    ("Hosts", "string", 0, |it| {
        let hosts: Vec<&str> =
            list(it, &["spec", "rules"]).iter().map(|rule| text(rule, &["host"])).filter(|it| !it.is_empty()).collect();
        if hosts.is_empty() { "*".into() } else { hosts.join(",").into() }
    }),
    ("Address", "string", 0, |it| {
        let addresses = list(it, &["status", "loadBalancer", "ingress"]).iter();
        let address = |it| match text(it, &["ip"]) {
            "" => text(it, &["hostname"]),
            ip => ip,
        };
        addresses.map(address).collect::<Vec<_>>().join(",").into()
    }),
    ("Ports", "string", 0, |it| if list(it, &["spec", "tls"]).is_empty() { "80".into() } else { "80, 443".into() }),
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    ("Controller", "string", 0, |it| text(it, &["spec", "controller"]).into()),
    ("Parameters", "string", 0, |it| or_none(text(it, &["spec", "parameters", "name"]))),
];

pub(super) const NETWORK_POLICY: &[Column] =
    &[("Pod-Selector", "string", 0, |it| or_none(&LabelSelector::of(&it["spec"]["podSelector"]).to_string()))];

pub(super) const POD_ENDPOINT: &[Column] = &[
    ("Node", "string", 0, |it| or_none(text(it, &["spec", "nodeName"]))),
    ("Addresses", "string", 0, |it| joined(list(it, &["spec", "podIPs"]).iter().filter_map(Value::as_str))),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    ("Provisioner", "string", 0, |it| text(it, &["provisioner"]).into()),
    ("ReclaimPolicy", "string", 0, |it| text(it, &["reclaimPolicy"]).into()),
    ("VolumeBindingMode", "string", 0, |it| text(it, &["volumeBindingMode"]).into()),
    ("AllowVolumeExpansion", "boolean", 0, |it| it["allowVolumeExpansion"].as_bool().unwrap_or(false).into()),
];

pub(super) const BINDING: &[Column] = &[("Role", "string", 0, |it| {
    format!("{}/{}", text(it, &["roleRef", "kind"]), text(it, &["roleRef", "name"])).into()
})];

/// Events are told by when, what and whom; they have neither name nor age.
pub(super) const EVENT: &[Column] = &[
    ("Last Seen", "string", 0, |it| {
        let times = ["lastTimestamp", "deprecatedLastTimestamp", "eventTime"].map(|field| text(it, &[field]));
        let seen =
            times.into_iter().chain([text(it, &["metadata", "creationTimestamp"])]).find(|time| !time.is_empty());
        age(seen.unwrap_or_default()).into()
    }),
    ("Type", "string", 0, |it| text(it, &["type"]).into()),
    ("Reason", "string", 0, |it| text(it, &["reason"]).into()),
    ("Object", "string", 0, |it| {
        let of = if it.get("involvedObject").is_some() { "involvedObject" } else { "regarding" };
        format!("{}/{}", text(it, &[of, "kind"]).to_lowercase(), text(it, &[of, "name"])).into()
    }),
    ("Message", "string", 0, |it| {
        let message = if it.get("message").is_some() { text(it, &["message"]) } else { text(it, &["note"]) };
        message.trim().into()
    }),
    ("Name", "string", 1, |it| text(it, &["metadata", "name"]).into()),
];
