//! The roles and bindings that a new server begins with, as a table. Those that are there already are left as their owner made them.

use serde_json::{Value, json};

use crate::auth::MASTERS;

/// Groups, resources, verbs; each a list with commas. The core group is the empty word.
type Rule = (&'static str, &'static str, &'static str);

const ANY: &str = "create,delete,deletecollection,get,list,patch,update,watch";
const READ: &str = "get,list,watch";

const CORE: &str = "configmaps,endpoints,events,persistentvolumeclaims,pods,pods/log,pods/status,serviceaccounts,services,services/status";
const APPS: &str = "controllerrevisions,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,statefulsets,statefulsets/scale,statefulsets/status";
const RBAC: &str = "rbac.authorization.k8s.io";

const EVERYTHING: &[Rule] = &[("*", "*", "*")];

const VIEW: &[Rule] = &[
    ("", CORE, READ),
    ("apps", APPS, READ),
    ("networking.k8s.io", "ingresses,networkpolicies", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    ("events.k8s.io", "events", READ),
    ("", "namespaces", READ),
];

const EDIT: &[Rule] = &[
    ("", CORE, ANY),
    ("apps", APPS, ANY),
    ("networking.k8s.io", "ingresses,networkpolicies", ANY),
    ("discovery.k8s.io", "endpointslices", ANY),
    ("events.k8s.io", "events", ANY),
    ("", "namespaces", READ),
    ("", "secrets", ANY),
    ("", "pods/attach,pods/eviction,pods/exec,pods/portforward", "create,get"),
    ("coordination.k8s.io", "leases", ANY),
];

/// What an administrator of a namespace has besides [`EDIT`].
const ADMIN: &[Rule] = &[(RBAC, "rolebindings,roles", ANY), ("", "serviceaccounts/token", "create")];

/// What the scheduler has besides [`VIEW`].
const SCHEDULER: &[Rule] = &[
    ("", "nodes,persistentvolumes", READ),
    ("", "pods/binding", "create"),
    ("", "pods/status", "patch,update"),
    ("storage.k8s.io", "storageclasses", READ),
    (",events.k8s.io", "events", "create,patch,update"),
    ("coordination.k8s.io", "leases", ANY),
];

const OWN: &[Rule] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews", "create"),
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
];

const INFO_PATHS: &str = "/healthz,/livez,/readyz,/version,/version/";
const DISCOVERY_PATHS: &str =
    "/api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/";

/// Name, rules, paths that may be read (`*`: everything, with every verb), and whom the role is bound to.
type Role = (&'static str, &'static [&'static [Rule]], &'static str, &'static [(&'static str, &'static str)]);

const ROLES: &[Role] = &[
    ("cluster-admin", &[EVERYTHING], "*", &[("Group", MASTERS)]),
    ("admin", &[EDIT, ADMIN], "", &[]),
    ("edit", &[EDIT], "", &[]),
    ("view", &[VIEW], "", &[]),
    ("system:discovery", &[], DISCOVERY_PATHS, &[("Group", "system:authenticated")]),
    ("system:basic-user", &[OWN], "", &[("Group", "system:authenticated")]),
    (
        "system:public-info-viewer",
        &[],
        INFO_PATHS,
        &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    ),
    ("system:kube-scheduler", &[VIEW, SCHEDULER], "", &[("User", "system:kube-scheduler")]),
    // The controllers act for every kind, also for custom ones: they collect garbage.
    ("system:kube-controller-manager", &[EVERYTHING], "*", &[("User", "system:kube-controller-manager")]),
];

fn words(list: &str) -> Value {
    list.split(',').collect()
}

/// The objects of rbac.authorization.k8s.io/v1.
pub(crate) fn bootstrap() -> Vec<Value> {
    ROLES.iter().flat_map(objects).collect()
}

fn objects((name, rules, paths, subjects): &Role) -> Vec<Value> {
    let meta = json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    let rule = |(groups, resources, verbs): &Rule| json!({"apiGroups": words(groups), "resources": words(resources), "verbs": words(verbs)});
    let mut rules: Vec<Value> = rules.iter().copied().flatten().map(rule).collect();
    if !paths.is_empty() {
        let verbs = if *paths == "*" { "*" } else { "get" };
        rules.push(json!({"nonResourceURLs": words(paths), "verbs": [verbs]}));
    }
    let subject = |(kind, name): &(&str, &str)| json!({"kind": kind, "apiGroup": RBAC, "name": name});
    let mut objects = vec![json!({"kind": "ClusterRole", "metadata": meta, "rules": rules})];
    if !subjects.is_empty() {
        objects.push(json!({"kind": "ClusterRoleBinding", "metadata": meta,
            "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}}));
    }
    objects
}
