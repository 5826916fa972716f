//! What a pod takes from other objects: its `ConfigMaps` and Secrets, fetched when needed. Secrets live in memory only here.
//! A named object that is absent holds the pod up (`CreateContainerConfigError`, `FailedMount`) unless it is optional, as with kubelet.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret};
use kube::{Api, Client};

/// Of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Those that exist.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// Those that exist.
    pub secrets: BTreeMap<String, Secret>,
}

/// Names to fetch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Names of `ConfigMaps`.
    pub config_maps: BTreeSet<String>,
    /// Names of Secrets.
    pub secrets: BTreeSet<String>,
}

impl Wanted {
    /// What this container's environment names.
    pub fn environment(&mut self, container: &Container) {
        for from in container.env_from.iter().flatten() {
            self.config_maps.extend(from.config_map_ref.iter().map(|it| it.name.clone()));
            self.secrets.extend(from.secret_ref.iter().map(|it| it.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|it| it.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.iter().map(|it| it.name.clone()));
            self.secrets.extend(source.secret_key_ref.iter().map(|it| it.name.clone()));
        }
    }

    /// What the pod's volumes name.
    pub fn volumes(&mut self, spec: &PodSpec) {
        for volume in spec.volumes.iter().flatten() {
            self.config_maps.extend(volume.config_map.iter().map(|it| it.name.clone()));
            self.secrets.extend(volume.secret.iter().filter_map(|it| it.secret_name.clone()));
            let sources = volume.projected.iter().filter_map(|it| it.sources.as_ref()).flatten();
            for source in sources {
                self.config_maps.extend(source.config_map.iter().map(|it| it.name.clone()));
                self.secrets.extend(source.secret.iter().map(|it| it.name.clone()));
            }
        }
    }
}

/// Gets them from the API server; what does not exist is left out.
///
/// # Errors
///
/// Anything but "not found".
pub async fn fetch(client: &Client, namespace: &str, wanted: &Wanted) -> Result<Inputs, kube::Error> {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut inputs = Inputs::default();
    for name in &wanted.config_maps {
        if let Some(found) = config_maps.get_opt(name).await? {
            inputs.config_maps.insert(name.clone(), found);
        }
    }
    for name in &wanted.secrets {
        if let Some(found) = secrets.get_opt(name).await? {
            inputs.secrets.insert(name.clone(), found);
        }
    }
    Ok(inputs)
}
