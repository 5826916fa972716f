//! The little that releases need of a Kubernetes API. The caller implements it over its client; tests, over a map.

use std::future::Future;

use serde_json::Value as Json;

/// Which object: what is needed to find it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `v1`, `apps/v1`, …
    pub api_version: String,
    /// `Deployment`, …
    pub kind: String,
    /// The namespace its text names, if any.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Of an object's JSON; what is missing is empty.
    #[must_use]
    pub fn of(object: &Json) -> Self {
        let text = |it: &Json| it.as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: object["metadata"]["namespace"].as_str().map(ToOwned::to_owned),
            name: text(&object["metadata"]["name"]),
        }
    }

    /// Without the version of the API, which may change while the object stays the same.
    pub(crate) fn identity(&self) -> (String, &str, Option<&str>, &str) {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        (group.to_owned(), &self.kind, self.namespace.as_deref(), &self.name)
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let namespace = self.namespace.as_deref().map(|it| format!("{it}/")).unwrap_or_default();
        write!(f, "{} {namespace}{}", self.kind, self.name)
    }
}

/// What the API answered instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// It exists already, or was changed by someone else meanwhile: look again.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The API cannot be reached now: try again.
    #[error("the Kubernetes API does not answer: {0}")]
    Unavailable(String),
    /// The API refused.
    #[error("the Kubernetes API refused: {0}")]
    Refused(String),
}

/// The Kubernetes API as far as releases need it. `namespace` is where an object goes that names none; an implementation leaves it out
/// for kinds without namespaces, which it knows from discovery.
pub trait Cluster: Sync {
    /// Reads an object.
    fn get(
        &self,
        object: &ObjectRef,
        namespace: &str,
    ) -> impl Future<Output = Result<Option<Json>, ClusterError>> + Send;

    /// Server-side apply as field manager `atoll`, taking fields over from others.
    fn apply(&self, object: &Json, namespace: &str) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Creates an object; one that exists is a [`ClusterError::Conflict`].
    fn create(&self, object: &Json, namespace: &str) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Deletes an object (dependents in the background); `false` if there was none.
    fn delete(&self, object: &ObjectRef, namespace: &str) -> impl Future<Output = Result<bool, ClusterError>> + Send;

    /// Secrets that match a label selector, in one namespace or in all.
    fn secrets(
        &self,
        namespace: Option<&str>,
        selector: &str,
    ) -> impl Future<Output = Result<Vec<Json>, ClusterError>> + Send;

    /// Waits until a Job or a Pod is done; an error says how it failed. Other kinds are done at once.
    fn wait_done(&self, object: &ObjectRef, namespace: &str) -> impl Future<Output = Result<(), ClusterError>> + Send;
}
