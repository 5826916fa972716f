//! The server with real clients: `kube` in this process and over TLS, and `kubectl` as a process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_apiserver::{ApiServer, Config, MASTERS, User};
use atoll_kv::{Embedded, EmbeddedConfig};
use futures_util::{StreamExt as _, TryStreamExt as _, future::join_all};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Fixture {
    server: ApiServer,
    dir: tempfile::TempDir,
}

async fn open_in(dir: &tempfile::TempDir) -> ApiServer {
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::watched() };
    let deadline = Instant::now() + Duration::from_secs(10);
    let kv = loop {
        match Embedded::open(dir.path().join("kv"), config.clone()) {
            Ok(kv) => break Arc::new(kv),
            // The task of a dropped client still holds the server before; let it run.
            Err(atoll_kv::OpenError::Locked { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    ApiServer::open(kv, Config::new(dir.path().join("keys"))).await.unwrap()
}

async fn open() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture { server: open_in(&dir).await, dir }
}

impl Fixture {
    fn client(&self) -> Client {
        Client::new(self.server.local_service(User::system("test")), "default")
    }

    /// Listens on a loopback port; returns the path of a kubeconfig for it.
    async fn listen(&self) -> PathBuf {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let client = self.server.issue_client("admin", &[MASTERS], Duration::from_secs(3600)).unwrap();
        let path = self.dir.path().join("kubeconfig");
        std::fs::write(&path, self.server.kubeconfig("test", &url, &client)).unwrap();
        let server = self.server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream, CancellationToken::new()).await });
            }
        });
        path
    }
}

fn object<T: for<'de> serde::Deserialize<'de>>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": {"x": value}}))
}

fn deployment(image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn objects_are_written_read_and_refused() {
    let fixture = open().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let made = maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert_eq!(code(maps.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err()), 409);
    let mut second = made.clone();
    second.data = config_map("a", "2").data;
    let written = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_ne!(written.metadata.resource_version, made.metadata.resource_version);
    assert_eq!(code(maps.replace("a", &PostParams::default(), &second).await.unwrap_err()), 409, "it was read before");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(maps.get("a").await.unwrap_err()), 404);
    let elsewhere: Api<ConfigMap> = Api::namespaced(fixture.client(), "nowhere");
    assert_eq!(code(elsewhere.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err()), 404);
    let pods: Api<Pod> = Api::default_namespaced(fixture.client());
    let bad: Pod = object(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
    assert_eq!(code(pods.create(&PostParams::default(), &bad).await.unwrap_err()), 422);
    let services: Api<Service> = Api::default_namespaced(fixture.client());
    let service: Service = object(json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let service = services.create(&PostParams::default(), &service).await.unwrap();
    assert!(service.spec.unwrap().cluster_ip.unwrap().starts_with("fd00::"), "an address of the range");
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_moment() {
    let fixture = open().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    for name in ["a", "b", "c", "d"] {
        maps.create(&PostParams::default(), &config_map(name, "1")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(3)).await.unwrap();
    maps.delete("d", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = maps.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
    let names: Vec<_> = first.items.iter().chain(&second.items).map(|it| it.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    assert!(second.metadata.continue_.is_none_or(|token| token.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_have_no_gap_under_concurrent_writes() {
    const WRITERS: usize = 6;
    const WRITES: usize = 15;
    let fixture = open().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    let since = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let watching = {
        let maps = maps.clone();
        tokio::spawn(async move {
            let events = maps.watch(&WatchParams::default(), &since).await.unwrap();
            let events: Vec<_> = events.take(WRITERS * WRITES).try_collect().await.unwrap();
            events
        })
    };
    join_all((0..WRITERS).map(|writer| {
        let maps = maps.clone();
        async move {
            let name = format!("m{writer}");
            maps.create(&PostParams::default(), &config_map(&name, "0")).await.unwrap();
            for number in 1..WRITES {
                let patch = json!({"data": {"x": number.to_string()}});
                maps.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
            }
        }
    }))
    .await;
    let events = tokio::time::timeout(Duration::from_secs(30), watching).await.unwrap().unwrap();
    let mut seen = vec![0; WRITERS];
    let mut last = 0;
    for event in events {
        let (WatchEvent::Added(map) | WatchEvent::Modified(map)) = event else { panic!("{event:?}") };
        let revision: u64 = map.metadata.resource_version.unwrap().parse().unwrap();
        assert!(revision > last, "in order");
        last = revision;
        let writer: usize = map.metadata.name.unwrap()[1..].parse().unwrap();
        assert_eq!(map.data.unwrap()["x"], seen[writer].to_string(), "each write once");
        seen[writer] += 1;
    }
    assert_eq!(seen, vec![WRITES; WRITERS]);
}

#[tokio::test]
async fn streaming_lists_and_server_side_apply() {
    let fixture = open().await;
    let deployments: Api<Deployment> = Api::default_namespaced(fixture.client());
    let apply = async |manager: &str, image: &str, force: bool| {
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        deployments.patch("web", &params, &Patch::Apply(deployment(image))).await
    };
    let first = apply("one", "x:1", false).await.unwrap();
    let again = apply("one", "x:1", false).await.unwrap();
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version, "nothing changed");
    assert_eq!(code(apply("two", "x:2", false).await.unwrap_err()), 409);
    let forced = apply("two", "x:2", true).await.unwrap();
    assert_eq!(forced.metadata.generation, Some(2));
    let events = watcher(deployments, watcher::Config::default().streaming_lists());
    let events: Vec<_> = events.take(3).try_collect().await.unwrap();
    assert!(
        matches!(events[..], [watcher::Event::Init, watcher::Event::InitApply(_), watcher::Event::InitDone]),
        "{events:?}"
    );
}

#[tokio::test]
async fn rights_hold_and_state_survives_a_restart() {
    let fixture = open().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    maps.create(&PostParams::default(), &config_map("kept", "1")).await.unwrap();
    let nobody = Client::new(fixture.server.local_service(User::anonymous()), "default");
    let error = Api::<ConfigMap>::default_namespaced(nobody.clone()).get("kept").await.unwrap_err();
    assert_eq!(code(error), 403);
    assert_eq!(nobody.apiserver_version().await.unwrap().major, "1");
    let authority = fixture.server.authority_pem().to_owned();
    let Fixture { server, dir } = fixture;
    drop((maps, nobody));
    assert!(server.shutdown(Duration::from_secs(5)).await);
    drop(server);
    let started = Instant::now();
    let fixture = Fixture { server: open_in(&dir).await, dir };
    eprintln!("reopened in {:?}", started.elapsed());
    assert_eq!(fixture.server.authority_pem(), authority);
    let maps: Api<ConfigMap> = Api::default_namespaced(fixture.client());
    assert_eq!(maps.get("kept").await.unwrap().data, config_map("kept", "1").data);
}

/// Runs kubectl with this input; returns what it says and whether it succeeded.
async fn kubectl(config: PathBuf, arguments: &str, input: String) -> (bool, String) {
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    tokio::task::spawn_blocking(move || {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let cache = config.with_file_name("cache");
        let child = Command::new(program)
            .args(["--kubeconfig".as_ref(), config.as_os_str(), "--cache-dir".as_ref(), cache.as_os_str()])
            .arg("--request-timeout=20s")
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("kubectl must be on the PATH: apt-get install kubernetes-client");
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_does_its_everyday_work() {
    let fixture = open().await;
    let config = fixture.listen().await;
    let manifest = |image: &str| {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        json!({"apiVersion": "v1", "kind": "List", "items": [deployment(image), service]}).to_string()
    };
    let bad = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "dota": {}}).to_string();
    let policy = |port: u16| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "db"},
            "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"port": port, "protocol": "TCP"}],
                "from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}})
        .to_string()
    };
    let ipv4 = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "old"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}})
    .to_string();
    let none = String::new;
    let steps: Vec<(&str, String, bool, &str)> = vec![
        ("api-resources", none(), true, "deployments"),
        ("get namespaces", none(), true, "kube-system       Active"),
        ("create configmap a --from-literal=x=y", none(), true, "configmap/a created"),
        ("create -f -", bad, false, "unknown field"),
        ("apply -f -", manifest("x:1"), true, "deployment.apps/web created"),
        ("apply -f -", manifest("x:1"), true, "deployment.apps/web unchanged"),
        ("apply -f -", manifest("x:2"), true, "deployment.apps/web configured"),
        ("get deployments -o wide", none(), true, "x:2"),
        ("get services", none(), true, "80/TCP"),
        ("label deployment web tier=front", none(), true, "labeled"),
        ("annotate deployment web note=x", none(), true, "annotated"),
        ("scale deployment web --replicas=3", none(), true, "scaled"),
        ("set image deployment/web c=x:3", none(), true, "updated"),
        ("describe deployment web", none(), true, "x:3"),
        ("get deployments -l tier=front", none(), true, "0/3"),
        ("explain deployment.spec.strategy", none(), true, "rollingUpdate"),
        ("auth can-i create pods", none(), true, "yes"),
        ("apply -f -", policy(80), true, "networkpolicy.networking.k8s.io/db created"),
        ("apply -f -", policy(80), true, "networkpolicy.networking.k8s.io/db unchanged"),
        ("apply -f -", policy(81), true, "networkpolicy.networking.k8s.io/db configured"),
        ("apply --server-side --force-conflicts -f -", policy(82), true, "serverside-applied"),
        ("apply -f -", policy(0), false, "must be between 1 and 65535"),
        ("get netpol", none(), true, "NAME   POD-SELECTOR   AGE\ndb     app=db "),
        ("describe netpol db", none(), true, "PodSelector: app=web"),
        ("explain netpol.spec.ingress.ports", none(), true, "endPort"),
        ("patch netpol db --type=merge -p {\"spec\":{\"podSelector\":null}}", none(), true, "patched"),
        ("get networkpolicies", none(), true, "db     <none> "),
        ("apply -f -", ipv4, true, "an ipBlock of IPv4 addresses selects nobody"),
        ("delete netpol db old", none(), true, "deleted"),
        ("get podendpoints -A", none(), true, "No resources found"),
        ("delete configmap a", none(), true, "deleted"),
        ("get configmap a", none(), false, "configmaps \"a\" not found"),
        ("create deployment other --image=x:1", none(), true, "created"),
        ("apply --server-side --force-conflicts -f -", manifest("x:4"), true, "serverside-applied"),
        ("delete deployment web other", none(), true, "deleted"),
    ];
    for (arguments, input, succeeds, says) in steps {
        let (succeeded, text) = kubectl(config.clone(), arguments, input).await;
        assert!(succeeded == succeeds && text.contains(says), "kubectl {arguments}: expected {says:?}, got\n{text}");
    }
}

/// Nodes enforce a thousand, so one more is refused where somebody hears of it.
#[tokio::test]
async fn policies_have_an_end() {
    let fixture = open().await;
    let policies: Api<NetworkPolicy> = Api::default_namespaced(fixture.client());
    let policy = |n: usize| object(json!({"metadata": {"name": format!("np{n}")}, "spec": {"podSelector": {}}}));
    let started = Instant::now();
    for n in 0..1_000 {
        policies.create(&PostParams::default(), &policy(n)).await.unwrap();
    }
    eprintln!("a thousand policies in {:?}", started.elapsed());
    let Err(kube::Error::Api(refused)) = policies.create(&PostParams::default(), &policy(1_000)).await else {
        panic!("one too many was taken");
    };
    assert_eq!((refused.code, refused.message.contains("1000 NetworkPolicies")), (403, true), "{refused}");
    policies.delete("np7", &DeleteParams::default()).await.unwrap();
    policies.create(&PostParams::default(), &policy(1_000)).await.unwrap();
}
