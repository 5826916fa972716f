//! Whether a user may do something, by the RBAC objects (pure).
//!
//! Rights only add up: what no rule allows is refused. Members of `system:masters` may do everything, so that a broken set of rules can be mended.

use serde_json::Value;

use crate::{
    auth::{MASTERS, User},
    object::{list, name, namespace, text},
    selector::LabelSelector,
};

/// What a request wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set for paths that name no resource.
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// What is refused, in Kubernetes' words.
    pub(crate) fn refusal(&self, user: &User) -> String {
        if let Some(path) = &self.path {
            return format!("User \"{}\" cannot {} path \"{path}\"", user.name, self.verb);
        }
        let slash = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        let scope = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{}\" cannot {} resource \"{}{slash}\" in API group \"{}\" {scope}",
            user.name, self.verb, self.resource, self.group
        )
    }
}

/// All RBAC objects at a moment.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) cluster_roles: Vec<Value>,
    pub(crate) cluster_role_bindings: Vec<Value>,
    pub(crate) roles: Vec<Value>,
    pub(crate) role_bindings: Vec<Value>,
}

impl Rules {
    pub(crate) fn allow(&self, user: &User, wanted: &Attributes) -> bool {
        user.is_in(MASTERS) || self.rules_of(user, &wanted.namespace).into_iter().any(|rule| allows(rule, wanted))
    }

    /// The rules that hold for a user in a namespace (empty: at the cluster scope).
    pub(crate) fn rules_of(&self, user: &User, in_namespace: &str) -> Vec<&Value> {
        let mut rules = Vec::new();
        for binding in self.cluster_role_bindings.iter().filter(|binding| names(binding, user, "")) {
            rules.extend(self.rules_of_role(&binding["roleRef"], ""));
        }
        let bindings = self.role_bindings.iter().filter(|binding| namespace(binding) == in_namespace);
        for binding in bindings.filter(|binding| names(binding, user, in_namespace)) {
            rules.extend(self.rules_of_role(&binding["roleRef"], in_namespace));
        }
        rules
    }

    pub(crate) fn rules_of_role(&self, reference: &Value, in_namespace: &str) -> Vec<&Value> {
        let wanted = text(reference, &["name"]);
        let found = match text(reference, &["kind"]) {
            "ClusterRole" => self.cluster_roles.iter().find(|role| name(role) == wanted),
            _ => self.roles.iter().find(|role| name(role) == wanted && namespace(role) == in_namespace),
        };
        let Some(role) = found else { return Vec::new() };
        let mut rules: Vec<&Value> = list(role, &["rules"]).iter().collect();
        for selector in list(role, &["aggregationRule", "clusterRoleSelectors"]) {
            let selector = LabelSelector::of(selector);
            let parts = self.cluster_roles.iter().filter(|part| name(part) != wanted && selector.matches(part));
            rules.extend(parts.flat_map(|part| list(part, &["rules"])));
        }
        rules
    }

    /// The first rule of `rules` that `user` does not hold: nobody may give what they do not have.
    pub(crate) fn escalation<'a>(&self, user: &User, in_namespace: &str, rules: &[&'a Value]) -> Option<&'a Value> {
        if user.is_in(MASTERS) {
            return None;
        }
        let held = self.rules_of(user, in_namespace);
        rules
            .iter()
            .copied()
            .find(|rule| !single_rights(rule).iter().all(|right| held.iter().any(|held| allows(held, right))))
    }
}

/// Every single right that a rule gives; `*` stays `*`, which only a rule with `*` covers.
fn single_rights(rule: &Value) -> Vec<Attributes> {
    let strings = |field: &str| -> Vec<String> {
        list(rule, &[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = Vec::new();
    let mut names = strings("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    for verb in strings("verbs") {
        for path in strings("nonResourceURLs") {
            rights.push(Attributes { verb: verb.clone(), path: Some(path), ..Attributes::default() });
        }
        for group in strings("apiGroups") {
            for resource in strings("resources") {
                let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                rights.extend(names.iter().map(|name| Attributes {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    name: name.clone(),
                    ..Attributes::default()
                }));
            }
        }
    }
    rights
}

/// Whether a binding names this user.
fn names(binding: &Value, user: &User, binding_namespace: &str) -> bool {
    list(binding, &["subjects"]).iter().any(|subject| match text(subject, &["kind"]) {
        "User" => text(subject, &["name"]) == user.name,
        "Group" => user.is_in(text(subject, &["name"])),
        "ServiceAccount" => {
            let namespace = match text(subject, &["namespace"]) {
                "" => binding_namespace,
                namespace => namespace,
            };
            user.name == format!("system:serviceaccount:{namespace}:{}", text(subject, &["name"]))
        }
        _ => false,
    })
}

fn allows(rule: &Value, wanted: &Attributes) -> bool {
    let has = |field: &str, matches: &dyn Fn(&str) -> bool| {
        list(rule, &[field]).iter().filter_map(Value::as_str).any(|text| text == "*" || matches(text))
    };
    if !has("verbs", &|verb| verb == wanted.verb) {
        return false;
    }
    if let Some(path) = &wanted.path {
        return has("nonResourceURLs", &|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => pattern == path,
        });
    }
    let resource = has("resources", &|pattern| match pattern.split_once('/') {
        Some((resource, subresource)) => {
            subresource == wanted.subresource && (resource == wanted.resource || resource == "*")
        }
        None => pattern == wanted.resource && wanted.subresource.is_empty(),
    });
    let names = list(rule, &["resourceNames"]);
    resource
        && has("apiGroups", &|group| group == wanted.group)
        && (names.is_empty() || names.iter().any(|name| *name == *wanted.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::bootstrap::bootstrap;

    fn rules() -> Rules {
        let mut rules = Rules::default();
        for object in bootstrap() {
            if object["kind"] == "ClusterRole" { &mut rules.cluster_roles } else { &mut rules.cluster_role_bindings }
                .push(object);
        }
        rules.roles.push(json!({"metadata": {"name": "r", "namespace": "a"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]}]}));
        rules
            .role_bindings
            .push(json!({"metadata": {"name": "r", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "web"}]}));
        rules.role_bindings.push(
            json!({"metadata": {"name": "e", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "User", "name": "jane"}]}),
        );
        rules
    }

    fn wanted(verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
        Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: None,
        }
    }

    #[test]
    fn only_what_is_given_is_allowed() {
        let rules = rules();
        let check = |user: &User, verb: &str, resource: &str, namespace: &str, name: &str, allowed: bool| {
            let found = rules.allow(user, &wanted(verb, resource, namespace, name));
            assert_eq!(found, allowed, "{}: {verb} {resource} {namespace}/{name}", user.name);
        };
        let web = User::new("system:serviceaccount:a:web", ["system:serviceaccounts"]);
        check(&web, "get", "configmaps", "a", "one", true);
        check(&web, "get", "configmaps", "a", "two", false);
        check(&web, "list", "configmaps", "a", "", false);
        check(&web, "get", "configmaps", "b", "one", false);
        let jane = User::new("jane", ["dev"]);
        check(&jane, "create", "apps:deployments", "a", "", true);
        check(&jane, "create", "apps:deployments", "b", "", false);
        check(&jane, "create", "pods/exec", "a", "p", true);
        check(&jane, "create", "rbac.authorization.k8s.io:roles", "a", "", false);
        check(&User::system("root"), "delete", "nodes", "", "n", true);
        // What nodes may is not said by rules (`node.rs`).
        check(&User::new("system:node:n", ["system:nodes"]), "get", "secrets", "kube-system", "s", false);
        check(&User::anonymous(), "get", "pods", "a", "p", false);
        let path =
            |path: &str| Attributes { verb: "get".to_owned(), path: Some(path.to_owned()), ..Attributes::default() };
        assert!(rules.allow(&User::anonymous(), &path("/healthz")) && !rules.allow(&User::anonymous(), &path("/api")));
        assert!(rules.allow(&jane, &path("/apis/apps/v1")));
    }

    #[test]
    fn nobody_gives_what_they_do_not_have() {
        let rules = rules();
        let jane = User::new("jane", ["dev"]);
        let own = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]});
        let more = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        assert_eq!(rules.escalation(&jane, "a", &[&own]), None);
        assert_eq!(rules.escalation(&jane, "a", &[&own, &more]), Some(&more));
        assert_eq!(rules.escalation(&jane, "b", &[&own]), Some(&own));
        assert_eq!(rules.escalation(&User::system("x"), "b", &[&more]), None);
    }
}
