//! What a request is about: its URL and method read as Kubernetes reads them.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use http::Method;

use crate::{
    error::ApiError,
    kinds::{Registry, Resource},
};

/// Longest path answered: a name has at most 253 characters, and there are at most four in a path.
const PATH_BYTES_MAX: usize = 2048;

/// Query parameters, decoded, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The value of a parameter; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "True")
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid value \"{text}\" for parameter {name}: not a whole number"))
            }),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Whether nothing is to be stored; `dryRun` must be `All`.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!("invalid dryRun \"{other}\": the only value is All"))),
        }
    }
}

/// Percent-decoding; bytes that are not UTF-8 become replacement characters.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        if *first == b'%'
            && let [high, low, more @ ..] = more
            && let Ok(byte) = HEXLOWER_PERMISSIVE.decode(&[*high, *low])
        {
            bytes.extend(byte);
            rest = more;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path below `/api` or `/apis`, taken apart; nothing is looked up yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The rest after a subresource, as `proxy` has.
    pub(crate) rest: String,
    /// The old form `/api/v1/watch/…`.
    pub(crate) is_watch_path: bool,
}

impl Target {
    /// Takes apart a path like `/apis/apps/v1/namespaces/default/deployments/web/status`; `None` for paths that name no resource.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, mut rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let mut target = Self { group: group.to_owned(), version: version.to_owned(), ..Self::default() };
        if let ["watch", more @ ..] = rest {
            target.is_watch_path = true;
            rest = more;
        }
        rest = match rest {
            // A namespace itself, or its own subresources, are no namespaced resources.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", namespace, more @ ..] => {
                target.namespace = (*namespace).to_owned();
                more
            }
            _ => rest,
        };
        let (plural, rest) = rest.split_first()?;
        target.plural = (*plural).to_owned();
        let mut rest = rest.iter();
        target.name = rest.next().map(|name| (*name).to_owned()).unwrap_or_default();
        target.subresource = rest.next().map(|name| (*name).to_owned()).unwrap_or_default();
        target.rest = rest.copied().collect::<Vec<_>>().join("/");
        Some(target)
    }

    /// Looks the resource up.
    pub(crate) fn resource(&self, registry: &Registry) -> Result<Arc<Resource>, ApiError> {
        let found = registry.get(&self.group, &self.version, &self.plural).ok_or_else(ApiError::no_route)?;
        let fits = found.namespaced || self.namespace.is_empty();
        if fits { Ok(found) } else { Err(ApiError::no_route()) }
    }

    /// Whether this is a namespace or one of its subresources.
    pub(crate) fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.plural == "namespaces" && self.namespace.is_empty()
    }

    /// Whether this is a stream to a pod on its node that changes the connection's protocol or has no end.
    pub(crate) fn is_stream(&self) -> bool {
        let streams = ["attach", "exec", "log", "portforward"];
        self.group.is_empty() && self.plural == "pods" && streams.contains(&self.subresource.as_str())
    }

    /// Kubernetes' verb for a method on this target.
    pub(crate) fn verb(&self, method: &Method, query: &Query) -> Result<&'static str, ApiError> {
        let named = !self.name.is_empty();
        Ok(match *method {
            _ if self.is_watch_path || (*method == Method::GET && !named && query.is_true("watch")) => "watch",
            Method::GET | Method::HEAD if named => "get",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            Method::DELETE => "deletecollection",
            _ => return Err(ApiError::method_not_allowed()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let check = |path: &str, expected: [&str; 6]| {
            let found = Target::parse(path).unwrap();
            let found =
                [&found.group, &found.version, &found.namespace, &found.plural, &found.name, &found.subresource];
            assert_eq!(found.map(String::as_str), expected, "{path}");
        };
        check("/api/v1/pods", ["", "v1", "", "pods", "", ""]);
        check("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]);
        check("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]);
        check("/api/v1/namespaces/a/status", ["", "v1", "", "namespaces", "a", "status"]);
        check("/api/v1/namespaces/a/pods/p/log", ["", "v1", "a", "pods", "p", "log"]);
        check("/apis/apps/v1/namespaces/a/deployments", ["apps", "v1", "a", "deployments", "", ""]);
        check(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            ["rbac.authorization.k8s.io", "v1", "", "clusterroles", "system:node", ""],
        );
        assert!(Target::parse("/apis/apps/v1").is_none());
        assert!(Target::parse("/healthz").is_none());
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&limit=5&bad=%zz");
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert_eq!((query.is_true("watch"), query.number("limit").unwrap(), query.text("bad")), (true, Some(5), "%zz"));
        assert!(query.number("labelSelector").is_err());
    }
}
