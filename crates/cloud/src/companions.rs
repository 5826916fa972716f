//! What runs beside an API server: the controllers and the scheduler, as clients of it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use atoll_controllers::{Config, Provisioner};
use futures_util::FutureExt as _;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A node that says nothing for this long is gone. Kubernetes' 40 s are for thousands of nodes; here a look costs little and people wait.
const NODE_GRACE: Duration = Duration::from_secs(15);

/// Pods of a gone node are deleted after this, unless they say otherwise.
const EVICT_AFTER: Duration = Duration::from_secs(5);

/// Pods of a gone node start elsewhere this long after their deletion, without its word. Their volumes are fenced.
const FORCE_DELETE_AFTER: Duration = Duration::from_secs(5);

/// The StorageClass of file systems on zstor, which claims get that name none.
const STORAGE_CLASS: &str = "zstor";

/// The role of members.
const MEMBERS: &str = "atoll:members";

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
    while let Err(error) = furnish(&client).await {
        tracing::warn!(%error, "what an eVDC begins with cannot be made yet");
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
    if let Err(error) = atoll_controllers::run(client, config, provisioner, stop).await {
        tracing::error!(%error, "the controllers ended");
    }
}

/// The objects that an eVDC begins with: its StorageClass, and what members may do besides what Kubernetes lets nodes do: follow Ingresses, for the
/// gateway.
async fn furnish(client: &Client) -> kube::Result<()> {
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
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": MEMBERS},
        "rules": [
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": MEMBERS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": MEMBERS},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    });
    apply::<StorageClass>(&Api::all(client.clone()), STORAGE_CLASS, &class).await?;
    apply::<ClusterRole>(&Api::all(client.clone()), MEMBERS, &role).await?;
    apply::<ClusterRoleBinding>(&Api::all(client.clone()), MEMBERS, &binding).await
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> kube::Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply("atoll").force();
    api.patch(name, &params, &Patch::Apply(object)).boxed().await.map(drop)
}
