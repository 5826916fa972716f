//! What a node may: see what its pods need, speak for itself, and no more.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use atoll_apiserver::{ApiServer, Config, User};
use atoll_kv::{Embedded, EmbeddedConfig};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{DynamicObject, NamespaceResourceScope},
};
use serde_json::{Value, json};

struct Fixture {
    server: ApiServer,
    _dir: tempfile::TempDir,
}

async fn open() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::watched() };
    let kv = Arc::new(Embedded::open(dir.path().join("kv"), config).unwrap());
    let server = ApiServer::open(kv, Config::new(dir.path().join("keys"))).await.unwrap();
    Fixture { server, _dir: dir }
}

fn object<T: for<'de> serde::Deserialize<'de>>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn code<T: std::fmt::Debug>(answer: kube::Result<T>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
    }
}

impl Fixture {
    fn admin(&self) -> Client {
        Client::new(self.server.local_service(User::system("test")), "default")
    }

    fn node(&self, name: &str) -> Client {
        let user = User::new(format!("system:node:{name}"), ["system:nodes"]);
        Client::new(self.server.local_service(user), "default")
    }

    async fn make<K>(&self, namespace: &str, value: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + for<'de> serde::Deserialize<'de>
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.admin(), namespace);
        api.create(&PostParams::default(), &object(value)).await.unwrap();
    }

    async fn pod(&self, name: &str, node: &str, mut spec: Value) {
        spec["nodeName"] = node.into();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "i"}]);
        }
        self.make::<Pod>("default", json!({"metadata": {"name": name}, "spec": spec})).await;
    }
}

#[tokio::test]
async fn a_node_reads_what_its_pods_name() {
    let fixture = open().await;
    for name in ["mine", "theirs", "pull"] {
        fixture.make::<Secret>("default", json!({"metadata": {"name": name}})).await;
        fixture.make::<ConfigMap>("default", json!({"metadata": {"name": name}})).await;
    }
    fixture.make::<Secret>("kube-system", json!({"metadata": {"name": "mine"}})).await;
    let account = json!({"metadata": {"name": "runner"}, "imagePullSecrets": [{"name": "pull"}]});
    fixture.make::<ServiceAccount>("default", account).await;
    let spec = |name: &str| {
        json!({"volumes": [{"name": "v", "secret": {"secretName": name}}], "serviceAccountName": "runner",
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": name}}]}]})
    };
    let (one, two) = (fixture.node("n1"), fixture.node("n2"));
    let secrets: Api<Secret> = Api::default_namespaced(one.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(one.clone());
    assert_eq!(code(secrets.get("mine").await), 403, "no pod, no Secret");
    fixture.pod("p1", "n1", spec("mine")).await;
    fixture.pod("p2", "n2", spec("theirs")).await;
    let reads = async |name: &str| (code(secrets.get(name).await), code(maps.get(name).await));
    assert_eq!(reads("mine").await, (200, 200));
    assert_eq!(reads("theirs").await, (403, 403));
    assert_eq!(reads("pull").await, (200, 403), "the account of its pods names it for images");
    assert_eq!(reads("nothing").await, (403, 403), "whether there is such a Secret is no business of a node");
    let elsewhere: Api<Secret> = Api::namespaced(one.clone(), "kube-system");
    assert_eq!(code(elsewhere.get("mine").await), 403, "the same name in another namespace");
    assert_eq!(code(secrets.list(&ListParams::default()).await), 403);
    let change = Patch::Merge(json!({"data": {"a": "Yg=="}}));
    assert_eq!(code(secrets.patch("mine", &PatchParams::default(), &change).await), 403);
    assert_eq!(code(Api::<Secret>::default_namespaced(two).get("theirs").await), 200);

    let admin: Api<Pod> = Api::default_namespaced(fixture.admin());
    admin.delete("p1", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(reads("mine").await, (403, 403), "a pod takes its rights with it");
}

#[tokio::test]
async fn a_node_keeps_the_heads_of_its_pods_volumes() {
    let fixture = open().await;
    for name in ["head-1", "head-2"] {
        fixture.make::<Secret>("kube-system", json!({"metadata": {"name": name}})).await;
    }
    let volumes: Api<PersistentVolume> = Api::all(fixture.admin());
    for number in [1, 2] {
        let volume = json!({"metadata": {"name": format!("pv-{number}")}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": format!("claim-{number}")},
            "csi": {"driver": "d", "volumeHandle": "h",
                "nodeStageSecretRef": {"namespace": "kube-system", "name": format!("head-{number}")}}}});
        volumes.create(&PostParams::default(), &object(volume)).await.unwrap();
        let claim = json!({"metadata": {"name": format!("claim-{number}")}, "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeName": "pv-1", "resources": {"requests": {"storage": "1Gi"}}}});
        fixture.make::<PersistentVolumeClaim>("default", claim).await;
    }
    let spec = |claim: &str| json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]});
    fixture.pod("p1", "n1", spec("claim-1")).await;
    // Its volume names it, but the claim is bound to another one.
    fixture.pod("p2", "n1", spec("claim-2")).await;
    let heads: Api<Secret> = Api::namespaced(fixture.node("n1"), "kube-system");
    let mut head = heads.get("head-1").await.unwrap();
    head.data = Some([("head".to_owned(), k8s_openapi::ByteString(b"moved".to_vec()))].into());
    assert_eq!(code(heads.replace("head-1", &PostParams::default(), &head).await), 200);
    assert_eq!(code(heads.get("head-2").await), 403);
    let others: Api<Secret> = Api::namespaced(fixture.node("n2"), "kube-system");
    assert_eq!(
        (code(others.get("head-1").await), code(others.replace("head-1", &PostParams::default(), &head).await)),
        (403, 403)
    );
    let read: Api<PersistentVolume> = Api::all(fixture.node("n1"));
    assert_eq!((code(read.get("pv-1").await), code(read.get("pv-2").await)), (200, 403));
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(fixture.node("n2"));
    assert_eq!(code(claims.get("claim-1").await), 403);
}

#[tokio::test]
async fn a_node_speaks_for_itself_alone() {
    let fixture = open().await;
    let one = fixture.node("n1");
    let nodes: Api<Node> = Api::all(one.clone());
    let named = |name: &str, labels: Value| object::<Node>(json!({"metadata": {"name": name, "labels": labels}}));
    assert_eq!(code(nodes.create(&PostParams::default(), &named("n1", json!({"a": "b"}))).await), 200);
    assert_eq!(code(nodes.create(&PostParams::default(), &named("n2", json!({}))).await), 403);
    Api::<Node>::all(fixture.node("n2")).create(&PostParams::default(), &named("n2", json!({}))).await.unwrap();
    let labels = |label: &str| Patch::Merge(json!({"metadata": {"labels": {label: "x"}}}));
    let patched =
        async |name: &str, patch: &Patch<Value>| code(nodes.patch(name, &PatchParams::default(), patch).await);
    assert_eq!(patched("n1", &labels("a")).await, 200);
    assert_eq!(patched("n1", &labels("node-restriction.kubernetes.io/a")).await, 403);
    assert_eq!(patched("n2", &labels("a")).await, 403);
    let taints = Patch::Merge(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
    assert_eq!(patched("n1", &taints).await, 403);
    assert_eq!(code(nodes.list(&ListParams::default()).await), 403);
    assert_eq!(code(nodes.list(&ListParams::default().fields("metadata.name=n1")).await), 200);

    let leases: Api<Lease> = Api::namespaced(one.clone(), "kube-node-lease");
    let lease = |name: &str| object::<Lease>(json!({"metadata": {"name": name}}));
    assert_eq!(code(leases.create(&PostParams::default(), &lease("n1")).await), 200);
    assert_eq!(code(leases.create(&PostParams::default(), &lease("n2")).await), 403);

    fixture.pod("p1", "n1", json!({})).await;
    fixture.pod("p2", "n2", json!({})).await;
    let pods: Api<Pod> = Api::default_namespaced(one.clone());
    assert_eq!(code(pods.list(&ListParams::default()).await), 403);
    let mine = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
    assert_eq!(mine.items.len(), 1);
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    assert_eq!(code(pods.patch_status("p1", &PatchParams::default(), &status).await), 200);
    assert_eq!(code(pods.patch_status("p2", &PatchParams::default(), &status).await), 403);
    assert_eq!(code(pods.delete("p2", &DeleteParams::default()).await), 403);

    fixture.make::<ServiceAccount>("default", json!({"metadata": {"name": "default"}})).await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(one);
    let bound = |pod: &str| json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}});
    let token = async |request: Value| {
        let request: TokenRequest = object(request);
        code(accounts.create_token_request("default", &PostParams::default(), &request).await)
    };
    assert_eq!(token(bound("p1")).await, 200);
    assert_eq!(token(bound("p2")).await, 403, "a pod of another node");
    assert_eq!(token(json!({"spec": {"audiences": []}})).await, 403, "bound to no pod");
    // Its name alone makes nobody a node.
    let stranger = Client::new(fixture.server.local_service(User::new("system:node:n1", ["others"])), "default");
    assert_eq!(code(Api::<Pod>::default_namespaced(stranger).get("p1").await), 403);
}

/// A node enforces policies about pods that are not its own; of those it learns where they are and how their ports are called.
#[tokio::test]
async fn a_node_learns_of_other_pods_where_they_are() {
    let fixture = open().await;
    let spec = json!({"containers": [{"name": "c", "image": "hidden", "env": [{"name": "PASSWORD", "value": "hidden"}],
        "ports": [{"name": "http", "containerPort": 8080}]}]});
    fixture.pod("theirs", "n2", spec).await;
    let policy = json!({"metadata": {"name": "np"}, "spec": {"podSelector": {}}});
    fixture.make::<NetworkPolicy>("default", policy.clone()).await;
    let pods: Api<Pod> = Api::all(fixture.admin());
    let addresses = json!({"status": {"podIPs": [{"ip": "fd00::5"}], "podIP": "fd00::5", "phase": "Running"}});
    let own: Api<Pod> = Api::default_namespaced(fixture.node("n2"));
    own.patch_status("theirs", &PatchParams::default(), &Patch::Merge(addresses)).await.unwrap();

    let one = fixture.node("n1");
    assert_eq!(code(Api::<Pod>::all(one.clone()).list(&ListParams::default()).await), 403);
    let kind = kube::discovery::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "networking.atoll.cloud",
        "v1",
        "PodEndpoint",
    ));
    let endpoints: Api<DynamicObject> = Api::all_with(one.clone(), &kind);
    let found = endpoints.list(&ListParams::default()).await.unwrap();
    let expected = json!({"nodeName": "n2", "podIPs": ["fd00::5"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]});
    assert_eq!(found.items[0].data["spec"], expected);
    let whole = serde_json::to_string(&found).unwrap();
    assert!(!whole.contains("hidden"), "{whole}");
    let policies: Api<NetworkPolicy> = Api::default_namespaced(one.clone());
    assert_eq!(policies.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert_eq!(code(policies.delete("np", &DeleteParams::default()).await), 403);
    assert_eq!(code(Api::<Namespace>::all(one).list(&ListParams::default()).await), 200);

    // It is a view: nobody writes it, and deleting one would be deleting the pod.
    let as_admin: Api<DynamicObject> = Api::default_namespaced_with(fixture.admin(), &kind);
    assert_eq!(code(as_admin.delete("theirs", &DeleteParams::default()).await), 405);
    let change = Patch::Merge(json!({"spec": {"podIPs": []}}));
    assert_eq!(code(as_admin.patch("theirs", &PatchParams::default(), &change).await), 405);
    assert_eq!(code(pods.list(&ListParams::default()).await), 200);
}
