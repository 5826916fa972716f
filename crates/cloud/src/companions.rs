//! What runs beside an API server: the controllers and the scheduler, as clients of it.

use std::sync::Arc;
use std::time::Duration;

use atoll_controllers::{Config, Provisioner};
use futures_util::FutureExt as _;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A node that says nothing for this long is gone. Kubernetes' 40 s are for thousands of nodes; here a look costs little and people wait.
const NODE_GRACE: Duration = Duration::from_secs(15);

/// Pods of a gone node are deleted after this, unless they say otherwise.
const EVICT_AFTER: Duration = Duration::from_secs(5);

/// Pods of a gone node start elsewhere this long after their deletion, without its word. Their volumes are fenced.
const FORCE_DELETE_AFTER: Duration = Duration::from_secs(5);

/// The StorageClass of file systems on zstor, which claims get that name none.
const STORAGE_CLASS: &str = "zstor";

/// How long to wait before the API server is asked again for what it should have answered at once.
const RETRY: Duration = Duration::from_secs(1);

/// Controllers and scheduler on `client`, until told to stop.
pub(crate) async fn run(client: Client, provisioner: Arc<dyn Provisioner>, authority: String, stop: CancellationToken) {
    let config = Config {
        node_grace: NODE_GRACE,
        evict_after: EVICT_AFTER,
        force_delete_after: FORCE_DELETE_AFTER,
        root_ca: Some(authority),
        ..Config::default()
    };
    while let Err(error) = storage_class(&client).await {
        tracing::warn!(%error, "the StorageClass cannot be made yet");
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
    if let Err(error) = atoll_controllers::run(client, config, provisioner, stop).await {
        tracing::error!(%error, "the controllers ended");
    }
}

async fn storage_class(client: &Client) -> kube::Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": atoll_controllers::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    });
    let api: Api<StorageClass> = Api::all(client.clone());
    let params = PatchParams::apply("atoll").force();
    api.patch(STORAGE_CLASS, &params, &Patch::Apply(&class)).boxed().await.map(drop)
}

