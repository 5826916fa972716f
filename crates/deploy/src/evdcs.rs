//! eVDCs from the outside: reaching their API, waiting for their nodes, giving them back with what lies in their volumes.

use std::time::Duration;

use atoll_chart::ObjectRef;
use atoll_cloud::{ApiAddress, Evdc, TenantError};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::Deploy;
use crate::error::{DeployError, doing};
use crate::objects::Objects;
use crate::tell::{Note, Tell};

/// How long nodes may take until they are ready: the API server starts, agents sign in, networks are made.
const NODES_WITHIN: Duration = Duration::from_secs(180);

/// How long pods and volumes may take to go: pods get 30 s to end, and shards are deleted on every node.
const VOLUMES_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What makes pods, the makers of makers first.
const WORKLOADS: [(&str, &str); 5] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Pod"),
];

impl Deploy {
    /// The objects of an eVDC.
    pub(crate) async fn objects(&self, evdc: &str) -> Result<Objects, DeployError> {
        let known = self.tenant.get(evdc).await?;
        let control = known.control().ok_or_else(|| TenantError::NotFound(evdc.to_owned()))?;
        let credentials = self.tenant.credentials(evdc).await?;
        let address = ApiAddress { link: self.link.clone(), control, evdc: known.id };
        Ok(Objects::new(address.client(&credentials)?))
    }

    /// Waits until the API of an eVDC answers and all its nodes are ready.
    pub(crate) async fn wait_ready(&self, evdc: &Evdc, tell: &Tell) -> Result<(), DeployError> {
        let deadline = Instant::now() + NODES_WITHIN;
        let mut told = String::new();
        let mut objects = None;
        loop {
            if objects.is_none() {
                objects = self.objects(&evdc.wish.name).await.ok();
            }
            let ready = match &objects {
                Some(objects) => objects.list("v1", "Node", None, "").await.map(|nodes| ready(&nodes)).ok(),
                None => None,
            };
            if ready == Some(evdc.wish.nodes) {
                return Ok(());
            }
            let missing = match ready {
                Some(ready) => format!("{ready} of {} nodes are ready", evdc.wish.nodes),
                None => "its Kubernetes API does not answer".to_owned(),
            };
            if Instant::now() >= deadline {
                let (what, seconds) = (format!("the eVDC {}", evdc.wish.name), NODES_WITHIN.as_secs());
                return Err(DeployError::NotReady { what, seconds, missing });
            }
            if missing != told {
                tell(Note::Waiting(missing.clone()));
                told = missing;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Gives an eVDC back: its volumes are deleted, then its leases end. Nodes that do not answer are told later.
    ///
    /// # Errors
    /// [`DeployError`], if there is none or this node cannot remember what it does.
    pub async fn give_back(&self, evdc: &str, tell: &Tell) -> Result<(), DeployError> {
        let known = self.tenant.get(evdc).await?;
        // One on its way out has no API any more, one that was never opened none yet.
        if !known.removing
            && !known.reserved
            && let Err(error) = self.clear_volumes(evdc, tell).await
        {
            tell(Note::Warning(format!(
                "what is in the volumes of {evdc} stays on their nodes until they are told otherwise: {error}"
            )));
        }
        match self.tenant.remove(evdc).await {
            Ok(()) => Ok(()),
            Err(error @ TenantError::Node { .. }) => {
                tell(Note::Warning(format!("{error}; it is told when it answers again, and its lease ends by itself")));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes workloads and claims, so that the nodes give back the room of the volumes.
    async fn clear_volumes(&self, evdc: &str, tell: &Tell) -> Result<(), DeployError> {
        let objects = self.objects(evdc).await?;
        let volumes = async || objects.list("v1", "PersistentVolume", None, "").await.map_err(doing("reading volumes"));
        if volumes().await?.is_empty() {
            return Ok(());
        }
        tell(Note::Waiting("what is in the volumes to be deleted".to_owned()));
        for (api_version, kind) in WORKLOADS {
            delete_all(&objects, api_version, kind).await?;
        }
        delete_all(&objects, "v1", "PersistentVolumeClaim").await?;
        let deadline = Instant::now() + VOLUMES_WITHIN;
        loop {
            let left = volumes().await?.iter().filter(|it| is_deleted_with_its_claim(it)).count();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let (what, seconds) = ("the deletion of volumes".to_owned(), VOLUMES_WITHIN.as_secs());
                return Err(DeployError::NotReady { what, seconds, missing: format!("{left} are left") });
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

async fn delete_all(objects: &Objects, api_version: &str, kind: &str) -> Result<(), DeployError> {
    for object in objects.list(api_version, kind, None, "").await.map_err(doing(format!("reading every {kind}")))? {
        let of = ObjectRef::of(&object);
        objects.delete(&of, "default").await.map_err(doing(format!("deleting {of}")))?;
    }
    Ok(())
}

fn is_deleted_with_its_claim(volume: &Json) -> bool {
    volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" && volume["spec"]["claimRef"].is_object()
}

/// How many nodes say that they are ready.
fn ready(nodes: &[Json]) -> usize {
    let is_ready = |node: &&Json| {
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    nodes.iter().filter(is_ready).count()
}
