//! The table of built-in kinds.

use super::{Resource, ScalePaths};
use crate::schema::message_of;

/// Namespaced, with a status subresource, with scale, only for questions.
const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const SCALE: u8 = 4;
const REVIEW: u8 = 8;
/// Only read: shows objects of another kind.
const VIEW: u8 = 16;

/// Group, version, kind, plural, short names, categories, flags.
type Row =
    (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str], u8);

const ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];
const RBAC: &str = "rbac.authorization.k8s.io";

/// What nodes may know of pods that are not theirs; see `convert::endpoint`.
pub(crate) const POD_ENDPOINTS: &str = "networking.atoll.cloud";

const ROWS: &[Row] = &[
    ("", "v1", "Namespace", "namespaces", &["ns"], &[], STATUS),
    ("", "v1", "Node", "nodes", &["no"], &[], STATUS),
    ("", "v1", "Pod", "pods", &["po"], ALL, NAMESPACED | STATUS),
    ("", "v1", "Service", "services", &["svc"], ALL, NAMESPACED | STATUS),
    ("", "v1", "Endpoints", "endpoints", &["ep"], &[], NAMESPACED),
    ("", "v1", "ConfigMap", "configmaps", &["cm"], &[], NAMESPACED),
    ("", "v1", "Secret", "secrets", &[], &[], NAMESPACED),
    ("", "v1", "PersistentVolume", "persistentvolumes", &["pv"], &[], STATUS),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], &[], NAMESPACED | STATUS),
    ("", "v1", "Event", "events", &["ev"], &[], NAMESPACED),
    ("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], &[], NAMESPACED),
    ("apps", "v1", "Deployment", "deployments", &["deploy"], ALL, NAMESPACED | STATUS | SCALE),
    ("apps", "v1", "ReplicaSet", "replicasets", &["rs"], ALL, NAMESPACED | STATUS | SCALE),
    ("apps", "v1", "StatefulSet", "statefulsets", &["sts"], ALL, NAMESPACED | STATUS | SCALE),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", &[], &[], NAMESPACED),
    ("events.k8s.io", "v1", "Event", "events", &["ev"], &[], NAMESPACED),
    ("coordination.k8s.io", "v1", "Lease", "leases", &[], &[], NAMESPACED),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], &[], NAMESPACED),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", &["ing"], &[], NAMESPACED | STATUS),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", &[], &[], 0),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", &["netpol"], &[], NAMESPACED),
    (POD_ENDPOINTS, "v1", "PodEndpoint", "podendpoints", &[], &[], NAMESPACED | VIEW),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", &["sc"], &[], 0),
    (RBAC, "v1", "Role", "roles", &[], &[], NAMESPACED),
    (RBAC, "v1", "RoleBinding", "rolebindings", &[], &[], NAMESPACED),
    (RBAC, "v1", "ClusterRole", "clusterroles", &[], &[], 0),
    (RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", &[], &[], 0),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        EXTENSIONS,
        STATUS,
    ),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", &[], &[], REVIEW),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", &[], &[], REVIEW),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], &[], REVIEW),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], &[], REVIEW),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", &[], &[], REVIEW),
    (
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        &[],
        &[],
        REVIEW | NAMESPACED,
    ),
];

/// Order of the groups in discovery; custom ones come after, by name.
const GROUPS: &[&str] = &[
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "networking.k8s.io",
    RBAC,
    "storage.k8s.io",
    "apiextensions.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];

pub(super) fn group_rank(group: &str) -> (usize, String) {
    (GROUPS.iter().position(|it| *it == group).unwrap_or(GROUPS.len()), group.to_owned())
}

pub(super) fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(resource)
}

fn resource((group, version, kind, plural, short_names, categories, flags): &Row) -> Resource {
    let path = |path: &[&str]| path.iter().map(|&name| name.to_owned()).collect();
    let scale = || ScalePaths {
        spec_replicas: path(&["spec", "replicas"]),
        status_replicas: path(&["status", "replicas"]),
        selector: None,
    };
    let strings = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    // Both groups show the same events; they lie as the core kind.
    let storage_group = if *group == "events.k8s.io" { "" } else { group };
    let storage = if *group == POD_ENDPOINTS {
        "core/pods".to_owned()
    } else {
        format!("{}/{plural}", if storage_group.is_empty() { "core" } else { storage_group })
    };
    Resource {
        group: (*group).to_owned(),
        version: (*version).to_owned(),
        kind: (*kind).to_owned(),
        list_kind: format!("{kind}List"),
        plural: (*plural).to_owned(),
        singular: kind.to_lowercase(),
        short_names: strings(short_names),
        categories: strings(categories),
        namespaced: flags & NAMESPACED != 0,
        status: flags & STATUS != 0,
        scale: (flags & SCALE != 0).then(scale),
        is_review: flags & REVIEW != 0,
        message: message_of(group, version, kind),
        custom: None,
        is_view: flags & VIEW != 0,
        storage,
    }
}
