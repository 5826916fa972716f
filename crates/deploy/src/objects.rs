//! Objects of any kind on one Kubernetes API: which plural and scope a kind has is asked of the API and remembered.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_chart::{Capabilities, ClusterError, ObjectRef};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value as Json;

/// Who writes: the field manager of every server-side apply.
const MANAGER: &str = "atoll";

/// Objects read at once.
const PAGE: u32 = 500;

/// Objects of one listing at most: far above what an eVDC of a tenant holds, small enough to keep in memory.
const LISTED_MAX: usize = 50_000;

/// One Kubernetes API, as far as deploying needs it.
pub struct Objects {
    client: Client,
    kinds: Mutex<BTreeMap<String, Arc<Vec<Served>>>>,
}

/// A kind that the API serves.
struct Served {
    kind: String,
    plural: String,
    namespaced: bool,
}

impl Objects {
    /// On this API.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, kinds: Mutex::default() }
    }

    /// What the API can do, as charts ask for it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn capabilities(&self) -> Result<Capabilities, ClusterError> {
        let version = self.client.apiserver_version().boxed().await.map_err(|it| said(&it))?;
        let groups = self.client.list_api_groups().boxed().await.map_err(|it| said(&it))?;
        let versions = groups.groups.iter().flat_map(|group| &group.versions).map(|it| it.group_version.clone());
        let all: Vec<String> = ["v1".to_owned()].into_iter().chain(versions).collect();
        let served = join_all(all.iter().map(|it| self.served(it))).await;
        let mut api_versions = all.clone();
        for (api_version, served) in all.iter().zip(served) {
            api_versions.extend(served?.iter().map(|it| format!("{api_version}/{}", it.kind)));
        }
        Ok(Capabilities { kube_version: version.git_version, api_versions })
    }

    /// The kinds of a group's version; none if it is not served.
    async fn served(&self, api_version: &str) -> Result<Arc<Vec<Served>>, ClusterError> {
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(api_version).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let asked = match api_version.contains('/') {
            true => self.client.list_api_group_resources(api_version).boxed().await,
            false => self.client.list_core_api_resources(api_version).boxed().await,
        };
        let list: APIResourceList = match asked {
            Ok(list) => list,
            Err(error) if status(&error) == Some(404) => return Ok(Arc::default()),
            Err(error) => return Err(said(&error)),
        };
        // What has a slash is a part of a kind, such as its status.
        let kinds = list.resources.into_iter().filter(|it| !it.name.contains('/'));
        let kinds = kinds.map(|it| Served { kind: it.kind, plural: it.name, namespaced: it.namespaced });
        let kinds = Arc::new(kinds.collect::<Vec<_>>());
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(api_version.to_owned(), kinds.clone());
        Ok(kinds)
    }

    fn forget(&self, api_version: &str) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).remove(api_version);
    }

    /// How the API calls a kind, and whether it has namespaces; `None` if it does not know it.
    async fn kind(&self, api_version: &str, kind: &str) -> Result<Option<(ApiResource, bool)>, ClusterError> {
        for _ in 0..2 {
            let served = self.served(api_version).await?;
            if let Some(found) = served.iter().find(|it| it.kind == kind) {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let resource = ApiResource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    api_version: api_version.to_owned(),
                    kind: kind.to_owned(),
                    plural: found.plural.clone(),
                };
                return Ok(Some((resource, found.namespaced)));
            }
            // A definition may have come in since.
            self.forget(api_version);
        }
        Ok(None)
    }

    async fn api(&self, of: &ObjectRef, namespace: &str) -> Result<Option<Api<DynamicObject>>, ClusterError> {
        let Some((resource, namespaced)) = self.kind(&of.api_version, &of.kind).await? else { return Ok(None) };
        Ok(Some(match namespaced {
            true => {
                let namespace = of.namespace.as_deref().unwrap_or(namespace);
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
            false => Api::all_with(self.client.clone(), &resource),
        }))
    }

    async fn api_needed(&self, of: &ObjectRef, namespace: &str) -> Result<Api<DynamicObject>, ClusterError> {
        let found = self.api(of, namespace).await?;
        found.ok_or_else(|| ClusterError::Refused(format!("it has no kind {} in {}", of.kind, of.api_version)))
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn get(&self, of: &ObjectRef, namespace: &str) -> Result<Option<Json>, ClusterError> {
        let Some(api) = self.api(of, namespace).await? else { return Ok(None) };
        let found = api.get_opt(&of.name).boxed().await.map_err(|it| said(&it))?;
        found.map(|it| json(&it)).transpose()
    }

    /// Server-side apply, taking fields over from others; answers with the object as it is then. A dry run stores nothing.
    ///
    /// # Errors
    /// The API refuses or does not answer.
    pub async fn apply(&self, object: &Json, namespace: &str, dry_run: bool) -> Result<Json, ClusterError> {
        let of = ObjectRef::of(object);
        let api = self.api_needed(&of, namespace).await?;
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let applied = api.patch(&of.name, &params, &Patch::Apply(object)).boxed().await;
        json(&applied.map_err(|it| said(&it))?)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] if it is there already.
    pub async fn create(&self, object: &Json, namespace: &str) -> Result<(), ClusterError> {
        let api = self.api_needed(&ObjectRef::of(object), namespace).await?;
        let object: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|it| ClusterError::Refused(it.to_string()))?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        api.create(&params, &object).boxed().await.map(drop).map_err(|it| said(&it))
    }

    /// Deletes an object, what depends on it in the background; `false` if it was not there.
    ///
    /// # Errors
    /// The API refuses or does not answer.
    pub async fn delete(&self, of: &ObjectRef, namespace: &str) -> Result<bool, ClusterError> {
        let Some(api) = self.api(of, namespace).await? else { return Ok(false) };
        match api.delete(&of.name, &DeleteParams::background()).boxed().await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(said(&error)),
        }
    }

    /// All objects of a kind that match a selector, in one namespace or in all; none if the kind is not known.
    ///
    /// # Errors
    /// The API does not answer, or there are more than anybody looks at.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Json>, ClusterError> {
        let Some((resource, namespaced)) = self.kind(api_version, kind).await? else { return Ok(Vec::new()) };
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) if namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        };
        let (mut params, mut found) = (ListParams::default().labels(selector).limit(PAGE), Vec::new());
        loop {
            let page = api.list(&params).boxed().await.map_err(|it| said(&it))?;
            for object in page.items {
                let mut object = json(&object)?;
                // Items of a list do not say what they are.
                object["apiVersion"] = api_version.into();
                object["kind"] = kind.into();
                found.push(object);
            }
            match page.metadata.continue_.filter(|it| !it.is_empty()) {
                Some(next) if found.len() < LISTED_MAX => params = params.continue_token(&next),
                Some(_) => return Err(ClusterError::Refused(format!("more than {LISTED_MAX} objects of {kind}"))),
                None => return Ok(found),
            }
        }
    }
}

fn json(object: &DynamicObject) -> Result<Json, ClusterError> {
    let mut json = serde_json::to_value(object).map_err(|it| ClusterError::Refused(it.to_string()))?;
    // Says who wrote which field; nobody here asks, and it is most of the object.
    if let Some(metadata) = json["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(json)
}

fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// What the API said, or why it said nothing.
pub(crate) fn said(error: &kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => {
            let message = status.message.clone();
            match status.code {
                409 => ClusterError::Conflict(message),
                429 | 500.. => ClusterError::Unavailable(message),
                _ => ClusterError::Refused(message),
            }
        }
        other => {
            let mut text = other.to_string();
            let mut cause = other.source();
            // The innermost says why: the others say that there was an error.
            while let Some(inner) = cause {
                text = inner.to_string();
                cause = inner.source();
            }
            ClusterError::Unavailable(text)
        }
    }
}
