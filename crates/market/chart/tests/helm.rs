//! What this crate makes of `tests/shop`, compared with the release record that real Helm wrote (`tests/helm.json`, made by
//! `reference/main.go`); and the life of a release in a cluster that is a map.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use atoll_chart::{
    Capabilities, Chart, Cluster, ClusterError, File, ObjectRef, Release, RenderOptions, Status, lifecycle,
    parse_values, render,
};
use atoll_template::Limits;
use serde_json::{Value as Json, json};

fn capabilities() -> Capabilities {
    Capabilities { kube_version: "v1.33.0".into(), api_versions: vec!["v1".into(), "networking.k8s.io/v1".into()] }
}

fn options(capabilities: &Capabilities) -> RenderOptions<'_> {
    RenderOptions {
        name: "demo",
        namespace: "market",
        revision: 1,
        upgrade: false,
        capabilities,
        lookup: None,
        random: None,
        limits: Limits::default(),
        strict: false,
    }
}

fn shop() -> Chart {
    Chart::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shop")).unwrap()
}

fn helms_secret() -> Json {
    serde_json::from_str(include_str!("helm.json")).unwrap()
}

#[test]
fn a_record_of_real_helm_is_read_and_written_without_loss() {
    let secret = helms_secret();
    let release = Release::from_secret(&secret).unwrap();
    assert_eq!((release.name.as_str(), release.version, release.info.status), ("demo", 1, Status::Deployed));
    let ours =
        release.to_secret(secret["metadata"]["labels"]["modifiedAt"].as_str().unwrap().parse().unwrap()).unwrap();
    assert_eq!(ours["metadata"]["labels"], secret["metadata"]["labels"]);
    assert_eq!((&ours["type"], &ours["metadata"]["name"]), (&secret["type"], &secret["metadata"]["name"]));
    assert_eq!(record(&ours), record(&secret));
}

/// The JSON within a record.
fn record(secret: &Json) -> Json {
    use std::io::Read;
    let decode = |text: &[u8]| data_encoding::BASE64.decode(text).unwrap();
    let packed = decode(&decode(secret["data"]["release"].as_str().unwrap().as_bytes()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn renders_as_real_helm() {
    let theirs = Release::from_secret(&helms_secret()).unwrap();
    let given = parse_values(include_str!("given.yaml")).unwrap();
    assert_eq!(theirs.config.map(Json::Object).unwrap().to_string(), given.to_string());
    let ours = render(&shop(), &given, &options(&capabilities())).unwrap();
    assert_eq!(ours.manifest(), theirs.manifest);
    assert_eq!(ours.notes, theirs.info.notes);
    let strip = |hooks: Vec<atoll_chart::Hook>| -> Vec<_> {
        hooks.into_iter().map(|it| (it.name, it.kind, it.path, it.manifest, it.events, it.weight)).collect()
    };
    assert_eq!(strip(ours.hooks), strip(theirs.hooks.unwrap()));
    assert_eq!(ours.crds.len(), 1);
}

#[test]
fn the_same_from_an_archive() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shop");
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    tar.append_dir_all("shop", &root).unwrap();
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let (mut packed, mut plain) = (Chart::from_tgz(&archive).unwrap(), shop());
    for chart in [&mut packed, &mut plain] {
        chart.files.sort_by(|a, b| a.name.cmp(&b.name));
        chart.templates.sort_by(|a, b| a.name.cmp(&b.name));
    }
    assert_eq!(packed, plain);
    assert!(Chart::from_tgz(&archive[..archive.len() / 2]).is_err());
}

fn chart_of(files: &[(&str, &str)]) -> Result<Chart, atoll_chart::ChartError> {
    let file = |(name, text): &(&str, &str)| File { name: (*name).into(), data: text.as_bytes().to_vec() };
    Chart::from_files(files.iter().map(file).collect())
}

const HEAD: (&str, &str) = ("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");

#[test]
fn what_is_refused_says_why() {
    let check = |files: &[(&str, &str)], expect: &str| {
        let capabilities = capabilities();
        let got = chart_of(files).map_err(|it| it.to_string());
        let got = got.and_then(|it| render(&it, &Json::Null, &options(&capabilities)).map_err(|it| it.to_string()));
        let got = got.unwrap_err();
        assert!(got.contains(expect), "{got}");
    };
    check(&[], "Chart.yaml is missing");
    check(&[("Chart.yaml", "apiVersion: v1\nname: c\nversion: 1.0.0\n")], "only v2 is read");
    check(&[("Chart.yaml", "apiVersion: v2\nname: a/b\nversion: 1.0.0\n")], "name is missing or has");
    check(&[("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ntype: library\n")], "is a library");
    check(&[("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\nkubeVersion: '>=2'\n")], "wants Kubernetes >=2");
    check(
        &[("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\ndependencies: [{name: d, repository: x}]\n")],
        "not in charts/",
    );
    check(&[HEAD, ("templates/a.yaml", "{{ .Values.a.b }}")], "c/templates/a.yaml:1:10");
    check(
        &[HEAD, ("templates/a.yaml", "{{ required \"set a\" .Values.a }}")],
        "execution error at (c/templates/a.yaml:1:3): set a",
    );
    check(&[HEAD, ("templates/a.yaml", "x: [")], "c/templates/a.yaml rendered to something that is no object");
    check(&[HEAD, ("templates/a.yaml", "kind: A")], "no apiVersion");
    check(&[HEAD, ("values.yaml", "- a")], "must be a table");
}

/// A cluster that is a map; refuses to apply what `refuse` names.
#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Json>>,
    log: Mutex<Vec<String>>,
    refuse: Mutex<Option<String>>,
}

impl Memory {
    fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().filter(|it| !it.contains("sh.helm")).cloned().collect()
    }

    fn status(&self, version: u64) -> String {
        let key = format!("Secret {}", Release::secret_name("demo", version));
        let objects = self.objects.lock().unwrap();
        objects.get(&key).map_or("none".into(), |it| it["metadata"]["labels"]["status"].as_str().unwrap().to_owned())
    }
}

fn key(object: &ObjectRef) -> String {
    format!("{} {}", object.kind, object.name)
}

impl Cluster for Memory {
    async fn get(&self, object: &ObjectRef, _: &str) -> Result<Option<Json>, ClusterError> {
        Ok(self.objects.lock().unwrap().get(&key(object)).cloned())
    }

    async fn apply(&self, object: &Json, _: &str) -> Result<(), ClusterError> {
        let key = key(&ObjectRef::of(object));
        if self.refuse.lock().unwrap().as_ref() == Some(&key) {
            return Err(ClusterError::Refused("full".into()));
        }
        self.log.lock().unwrap().push(format!("+{key}"));
        self.objects.lock().unwrap().insert(key, object.clone());
        Ok(())
    }

    async fn create(&self, object: &Json, namespace: &str) -> Result<(), ClusterError> {
        if self.get(&ObjectRef::of(object), namespace).await?.is_some() {
            return Err(ClusterError::Conflict("exists".into()));
        }
        self.apply(object, namespace).await
    }

    async fn delete(&self, object: &ObjectRef, _: &str) -> Result<bool, ClusterError> {
        self.log.lock().unwrap().push(format!("-{}", key(object)));
        Ok(self.objects.lock().unwrap().remove(&key(object)).is_some())
    }

    async fn secrets(&self, _: Option<&str>, selector: &str) -> Result<Vec<Json>, ClusterError> {
        let wanted = |it: &Json| {
            it["kind"] == "Secret"
                && selector.split(',').all(|pair| {
                    let (key, value) = pair.split_once('=').unwrap();
                    it["metadata"]["labels"][key] == value
                })
        };
        Ok(self.objects.lock().unwrap().values().filter(|it| wanted(it)).cloned().collect())
    }

    async fn wait_done(&self, object: &ObjectRef, _: &str) -> Result<(), ClusterError> {
        self.log.lock().unwrap().push(format!("?{}", key(object)));
        Ok(())
    }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn small(tag: &str, extra: bool) -> Chart {
    let web = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, labels: {{tag: {tag}}}}}\n");
    let hook = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: job, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}\n";
    let kept = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, annotations: {helm.sh/resource-policy: keep}}\n";
    let more = if extra { "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n" } else { "" };
    chart_of(&[
        HEAD,
        ("templates/web.yaml", &web),
        ("templates/hook.yaml", hook),
        ("templates/data.yaml", kept),
        ("templates/more.yaml", more),
    ])
    .unwrap()
}

async fn go(cluster: &Memory, chart: &Chart, upgrade: bool) -> Result<Release, lifecycle::LifecycleError> {
    let capabilities = capabilities();
    let options = RenderOptions { upgrade, ..options(&capabilities) };
    lifecycle::plan(cluster, chart, &json!({ "a": 1 }), options).await?.execute(cluster, now()).await
}

#[tokio::test]
async fn a_release_lives_and_dies() {
    let cluster = Memory::default();
    let first = go(&cluster, &small("one", true), false).await.unwrap();
    assert_eq!((first.version, first.info.status), (1, Status::Deployed));
    let expect = ["+Secret sh.helm.release.v1.demo.v1", "-Job job", "+Job job", "?Job job"];
    assert_eq!(cluster.log.lock().unwrap()[..4], expect);
    assert!(go(&cluster, &small("one", true), false).await.unwrap_err().to_string().contains("exists already"));

    let second = go(&cluster, &small("two", false), true).await.unwrap();
    assert_eq!((second.version, cluster.status(1).as_str()), (2, "superseded"));
    assert_eq!(cluster.names(), ["Deployment web", "Job job", "PersistentVolumeClaim data"]);

    // A failure is recorded, and the next attempt goes on.
    *cluster.refuse.lock().unwrap() = Some("ConfigMap more".into());
    let failed = go(&cluster, &small("three", true), true).await.unwrap_err();
    assert!(failed.to_string().contains("applying ConfigMap more"), "{failed}");
    assert_eq!((cluster.status(3).as_str(), cluster.status(2).as_str()), ("failed", "deployed"));
    *cluster.refuse.lock().unwrap() = None;

    let back = lifecycle::plan_rollback(&cluster, "market", "demo", Some(1)).await.unwrap();
    let back = back.execute(&cluster, now()).await.unwrap();
    assert_eq!((back.version, back.info.description.as_str()), (4, "Rollback to 1"));
    assert_eq!(cluster.objects.lock().unwrap()["Deployment web"]["metadata"]["labels"]["tag"], "one");
    let listed = lifecycle::list(&cluster, None).await.unwrap();
    assert_eq!(listed.iter().map(|it| (it.name.as_str(), it.version)).collect::<Vec<_>>(), [("demo", 4)]);

    let gone = lifecycle::plan_uninstall(&cluster, "market", "demo").await.unwrap();
    gone.execute(&cluster, now()).await.unwrap();
    assert_eq!(cluster.names(), ["Job job", "PersistentVolumeClaim data"], "a hook and what is to be kept stay");
    assert!(lifecycle::list(&cluster, None).await.unwrap().is_empty());
    assert!(go(&cluster, &small("one", true), true).await.unwrap_err().to_string().contains("does not exist"));
}
