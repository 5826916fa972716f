//! Who asks, and whether they may.
//!
//! Identity comes from a client certificate of the server's own authority (`ca.rs`) or from a signed token of a ServiceAccount (`token.rs`); permission from
//! the RBAC objects (`rbac.rs`), and for nodes from what runs on them (`node.rs`). Whoever shows neither is `system:anonymous`, who may ask for health and version.

use std::collections::BTreeMap;

pub(crate) mod bootstrap;
pub(crate) mod ca;
pub(crate) mod node;
pub(crate) mod rbac;
pub(crate) mod token;

/// Members of this group may do everything; it is not looked up in any object.
pub const MASTERS: &str = "system:masters";

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name, such as `system:serviceaccount:default:web`.
    pub name: String,
    /// The uid of a ServiceAccount; empty for others.
    pub uid: String,
    /// The groups, with `system:authenticated` or `system:unauthenticated`.
    pub groups: Vec<String>,
    /// More about it, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A signed-in user in these groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        groups.push("system:authenticated".to_owned());
        Self { name: name.into(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    /// The server itself and what runs beside it in this process: may do everything.
    pub fn system(name: &str) -> Self {
        Self::new(name, [MASTERS])
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), uid: String::new(), groups, extra: BTreeMap::new() }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|it| it == group)
    }
}
