//! The end of namespaces: everything in one is deleted, and when nothing is left, the namespace may go.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, PartialObjectMeta, PostParams},
    core::ApiResource,
    discovery::{Discovery, Scope, verbs},
};

use crate::{
    driver::Again,
    objects::{Key, is_leaving, name},
    world::{Failure, World},
};

/// How often to see whether what was deleted is gone.
const AGAIN: Duration = Duration::from_millis(500);

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(namespace) = world.namespaces.get(key).filter(|it| is_leaving(&it.metadata)) else { return Ok(None) };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if finalizers.is_empty() {
        return Ok(None);
    }
    let discovery = Discovery::new(world.client.clone()).run().await?;
    let mut is_empty = true;
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let deletable =
                capabilities.supports_operation(verbs::LIST) && capabilities.supports_operation(verbs::DELETE);
            if capabilities.scope == Scope::Namespaced && deletable {
                is_empty &= clear(world, &key.name, &resource).await?;
            }
        }
    }
    if !is_empty {
        return Ok(Some(AGAIN));
    }
    let mut done = Namespace::clone(&namespace);
    if let Some(spec) = done.spec.as_mut() {
        spec.finalizers = Some(Vec::new());
    }
    let api = Api::<Namespace>::all(world.client.clone());
    api.replace_subresource("finalize", &key.name, &PostParams::default(), &done).await?;
    Ok(None)
}

/// Deletes all objects of a kind; answers whether there were none.
async fn clear(world: &World, namespace: &str, resource: &ApiResource) -> Result<bool, Failure> {
    let api = Api::<PartialObjectMeta<DynamicObject>>::namespaced_with(world.client.clone(), namespace, resource);
    let listed = api.list(&ListParams::default()).await?;
    for object in listed.items.iter().filter(|object| !is_leaving(&object.metadata)) {
        match api.delete(name(&object.metadata), &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }
    Ok(listed.items.is_empty())
}
