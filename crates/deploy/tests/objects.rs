//! Charts on a real API server without anything behind it: objects of any kind, releases as Helm keeps them, removal without a trace.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use atoll_apiserver::{ApiServer, Config, User};
use atoll_chart::lifecycle::{self, LifecycleError};
use atoll_chart::{ClusterError, ObjectRef, RenderOptions, parse_values};
use atoll_deploy::Objects;
use atoll_kv::{Embedded, EmbeddedConfig};
use serde_json::{Value as Json, json};

async fn objects(folder: &tempfile::TempDir) -> Objects {
    let kv = Arc::new(Embedded::open(folder.path().join("kv"), EmbeddedConfig::watched()).unwrap());
    let mut config = Config::new(folder.path().join("pki"));
    config.service_range = ("fd00::".parse().unwrap(), 112);
    let api = ApiServer::open(kv, config).await.unwrap();
    let client = kube::Client::new(api.local_service(User::new("admin", ["system:masters"])), "default");
    Objects::new(client)
}

fn named(kind: &str, api_version: &str, name: &str) -> ObjectRef {
    ObjectRef { api_version: api_version.into(), kind: kind.into(), namespace: None, name: name.into() }
}

#[tokio::test]
async fn objects_of_any_kind_are_written_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects(&folder).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}});
    assert_eq!(objects.apply(&map, "default", true).await.unwrap()["data"]["a"], "1");
    let of = named("ConfigMap", "v1", "c");
    assert_eq!(objects.get(&of, "default").await.unwrap(), None, "a dry run stores nothing");
    objects.apply(&map, "default", false).await.unwrap();
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    objects.apply(&other, "default", false).await.unwrap();
    let found = objects.get(&of, "default").await.unwrap().unwrap();
    assert_eq!(found["data"], json!({"a": "1"}), "what is not written any more goes");
    assert!(matches!(objects.create(&map, "default").await, Err(ClusterError::Conflict(_))));
    // A kind without namespaces, and one that nobody knows.
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"}, "provisioner": "p"});
    objects.apply(&class, "default", false).await.unwrap();
    assert!(objects.get(&named("StorageClass", "storage.k8s.io/v1", "s"), "default").await.unwrap().is_some());
    let odd = named("Odd", "example.org/v1", "o");
    assert_eq!(objects.get(&odd, "default").await.unwrap(), None);
    assert!(!objects.delete(&odd, "default").await.unwrap());
    let odd = json!({"apiVersion": "example.org/v1", "kind": "Odd", "metadata": {"name": "o"}});
    let refused = objects.apply(&odd, "default", false);
    assert!(matches!(refused.await, Err(ClusterError::Refused(_))));
    assert_eq!(
        objects
            .list("v1", "ConfigMap", Some("default"), "")
            .await
            .unwrap()
            .iter()
            .filter(|it| it["metadata"]["name"] == "c")
            .count(),
        1
    );
    assert!(objects.delete(&of, "default").await.unwrap());
    assert!(!objects.delete(&of, "default").await.unwrap());
    let capabilities = objects.capabilities().await.unwrap();
    assert!(capabilities.kube_version.starts_with("v1."));
    assert!(capabilities.api_versions.contains(&"apps/v1/Deployment".to_owned()));
}

#[tokio::test]
async fn a_release_is_kept_as_helm_keeps_it_and_goes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects(&folder).await;
    let chart = atoll_apps::find("guestbook").unwrap().chart().unwrap();
    let capabilities = objects.capabilities().await.unwrap();
    let options = |upgrade: bool| RenderOptions {
        name: "book",
        namespace: "default",
        revision: 1,
        upgrade,
        capabilities: &capabilities,
        lookup: None,
        random: None,
        limits: Default::default(),
        strict: false,
    };
    let values = parse_values("host: a.example.org").unwrap();
    let now = jiff::Timestamp::now();
    lifecycle::plan(&objects, &chart, &values, options(false)).await.unwrap().execute(&objects, now).await.unwrap();
    let secret = objects.get(&named("Secret", "v1", "sh.helm.release.v1.book.v1"), "default").await.unwrap().unwrap();
    assert_eq!(
        (&secret["type"], &secret["metadata"]["labels"]["status"]),
        (&json!("helm.sh/release.v1"), &json!("deployed"))
    );
    let again = lifecycle::plan(&objects, &chart, &values, options(false)).await;
    assert!(matches!(again, Err(LifecycleError::Exists(_))));

    let tagged = parse_values("image: {tag: '2'}").unwrap();
    lifecycle::plan(&objects, &chart, &tagged, options(true)).await.unwrap().execute(&objects, now).await.unwrap();
    let web = objects.get(&named("Deployment", "apps/v1", "book-guestbook-web"), "default").await.unwrap().unwrap();
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "atoll-sample:2");
    let ingress = named("Ingress", "networking.k8s.io/v1", "book-guestbook");
    assert_eq!(objects.get(&ingress, "default").await.unwrap(), None, "without a host there is none any more");
    let all = lifecycle::list(&objects, None).await.unwrap();
    assert_eq!((all.len(), all[0].version), (1, 2));

    let plan = lifecycle::plan_uninstall(&objects, "default", "book").await.unwrap();
    plan.execute(&objects, now).await.unwrap();
    let left = async |kind: &str, version: &str| -> Vec<Json> {
        objects.list(version, kind, Some("default"), "").await.unwrap()
    };
    assert_eq!(left("Secret", "v1").await.iter().filter(|it| it["type"] == "helm.sh/release.v1").count(), 0);
    assert!(left("Deployment", "apps/v1").await.is_empty() && left("StatefulSet", "apps/v1").await.is_empty());
}
