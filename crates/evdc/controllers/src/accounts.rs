//! What every namespace has: the ServiceAccount `default`, and the certificates that pods need to trust the API server.

use k8s_openapi::{
    api::core::v1::{ConfigMap, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PostParams},
};
use serde_json::json;

use crate::{
    driver::Again,
    objects::{Key, MANAGER, is_leaving},
    world::{Failure, World, writer},
};

const ROOT_CA: &str = "kube-root-ca.crt";

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    if world.namespaces.get(key).is_none_or(|namespace| is_leaving(&namespace.metadata)) {
        return Ok(None);
    }
    let metadata = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(key.name.clone()),
        ..ObjectMeta::default()
    };
    if world.accounts.get(&Key::new(&key.name, "default")).is_none() {
        let account = ServiceAccount { metadata: metadata("default"), ..ServiceAccount::default() };
        match world.create(&account).await {
            Err(failure) if failure.is_race() => {}
            made => made?,
        }
    }
    let Some(certificates) = &world.config.root_ca else { return Ok(None) };
    let data = [("ca.crt".to_owned(), certificates.clone())].into();
    let api = Api::<ConfigMap>::namespaced(world.client.clone(), &key.name);
    match api.get_opt(ROOT_CA).await? {
        Some(map) if map.data.as_ref() == Some(&data) => {}
        Some(_) => drop(api.patch(ROOT_CA, &writer(), &Patch::Merge(json!({ "data": data }))).await?),
        None => {
            let map = ConfigMap { metadata: metadata(ROOT_CA), data: Some(data), ..ConfigMap::default() };
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            api.create(&params, &map).await?;
        }
    }
    Ok(None)
}
