//! Resources: what a stack is made of, each with a name of its own and what it depends on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::source::Place;

/// Which resource. The text form (`lease/home/1`, `evdc/home`, `app/default/guestbook`, `object/apps/v1/Deployment/default/web`) is
/// stored in inventories; an object without a namespace has `-` in its place, and the core group is `v1` alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ResourceId {
    /// A lease for an eVDC, counted from 1.
    Lease {
        /// The eVDC.
        evdc: String,
        /// Which of its leases.
        index: u64,
    },
    /// An eVDC.
    Evdc(String),
    /// A release of an application.
    App {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A Kubernetes object.
    Object {
        /// `v1`, `apps/v1`, …
        api_version: String,
        /// `Deployment`, …
        kind: String,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease { evdc, index } => write!(f, "lease/{evdc}/{index}"),
            Self::Evdc(name) => write!(f, "evdc/{name}"),
            Self::App { namespace, name } => write!(f, "app/{namespace}/{name}"),
            Self::Object { api_version, kind, namespace, name } => {
                write!(f, "object/{api_version}/{kind}/{}/{name}", namespace.as_deref().unwrap_or("-"))
            }
        }
    }
}

impl FromStr for ResourceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let own = |it: &str| it.to_owned();
        let object = |api_version: String, kind: &str, namespace: &str, name: &str| Self::Object {
            api_version,
            kind: own(kind),
            namespace: (namespace != "-").then(|| own(namespace)),
            name: own(name),
        };
        Ok(match parts[..] {
            ["lease", evdc, index] => {
                Self::Lease { evdc: own(evdc), index: index.parse().map_err(|_| format!("{text:?} is no resource"))? }
            }
            ["evdc", name] => Self::Evdc(own(name)),
            ["app", namespace, name] => Self::App { namespace: own(namespace), name: own(name) },
            ["object", version, kind, namespace, name] => object(own(version), kind, namespace, name),
            ["object", group, version, kind, namespace, name] => {
                object(format!("{group}/{version}"), kind, namespace, name)
            }
            _ => return Err(format!("{text:?} is no resource")),
        })
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ResourceId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A resource as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Which.
    pub id: ResourceId,
    /// What it should be. For a lease: `cpuMillis`, `memoryBytes`, `storageBytes`; for an eVDC: `leases`, `gateway`; for an application:
    /// `app`, `version`, `values`; for an object: itself.
    pub spec: Json,
    /// What must be there before it.
    pub needs: BTreeSet<ResourceId>,
    /// Where it is written.
    pub place: Place,
}
