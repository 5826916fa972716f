//! The catalogue's charts render, and its servers do what they promise: nothing acknowledged is lost, and they end well.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use atoll_apps::sample::store::{Entry, Store, StoreError, read};
use atoll_apps::sample::{Ready, guestbook_db, guestbook_web, serve};
use atoll_apps::{catalogue, find};
use atoll_chart::{Capabilities, RenderOptions, parse_values, render};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

fn rendered(app: &str, name: &str, values: &str) -> Vec<Json> {
    let capabilities = Capabilities { kube_version: "v1.33.0".into(), api_versions: Vec::new() };
    let options = RenderOptions {
        name,
        namespace: "default",
        revision: 1,
        upgrade: false,
        capabilities: &capabilities,
        lookup: None,
        random: None,
        limits: Default::default(),
        strict: false,
    };
    let chart = find(app).unwrap().chart().unwrap();
    let rendered = render(&chart, &parse_values(values).unwrap(), &options).unwrap();
    assert!(rendered.warnings.is_empty());
    rendered.manifests.into_iter().map(|it| it.object).collect()
}

fn named<'a>(objects: &'a [Json], kind: &str, name: &str) -> &'a Json {
    objects.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name).unwrap()
}

#[test]
fn the_guestbook_renders() {
    let objects = rendered("guestbook", "guestbook", "host: guestbook.example.org\nimage: {tag: '2.0'}");
    let web = named(&objects, "Deployment", "guestbook-web");
    let pod = &web["spec"]["template"]["spec"];
    assert_eq!(web["spec"]["replicas"], 2);
    assert_eq!(pod["containers"][0]["image"], "atoll-sample:2.0");
    let affinity = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(affinity["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(affinity["labelSelector"]["matchLabels"], web["spec"]["selector"]["matchLabels"]);
    let db = named(&objects, "StatefulSet", "guestbook-db");
    assert_eq!(db["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"], "zstor");
    assert_eq!(named(&objects, "Service", "guestbook-db")["spec"]["ports"][0]["port"], 8080);
    assert_eq!(named(&objects, "Ingress", "guestbook")["spec"]["rules"][0]["host"], "guestbook.example.org");
    // Under another name, the web server is told which variables are those of its database.
    let other = rendered("guestbook", "team", "");
    let env = &named(&other, "Deployment", "team-guestbook-web")["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env[1], json!({ "name": "GUESTBOOK_DB_PREFIX", "value": "TEAM_GUESTBOOK_DB" }));
    assert!(other.iter().all(|it| it["kind"] != "Ingress"));
}

#[test]
fn every_application_renders_and_its_asks_are_values() {
    for app in catalogue() {
        let chart = app.chart().unwrap();
        assert_eq!(chart.metadata.name, app.name);
        for ask in app.asks {
            let found = ask.path.split('.').try_fold(&chart.values, |it, key| it.get(key));
            assert!(found.is_some(), "{}: {}", app.name, ask.path);
        }
        let objects = rendered(app.name, app.name, "host: a.example.org");
        assert!(objects.iter().any(|it| it["kind"] == "Ingress"), "{}", app.name);
    }
    let site = rendered("website", "site", "files: {index.html: 'a: b', x.css: z}");
    assert_eq!(named(&site, "ConfigMap", "site-website-files")["data"]["x.css"], "z");
}

fn entry(id: &str, text: &str) -> Entry {
    Entry { id: id.into(), name: "n".into(), text: text.into() }
}

#[tokio::test]
async fn the_store_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked(_))));
    for it in ["a", "b", "c"] {
        store.add(entry(it, "line\nbreak")).await.unwrap();
    }
    store.add(entry("b", "again")).await.unwrap();
    assert!(matches!(store.add(entry("", "x")).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.add(entry("d", &"x".repeat(3000))).await, Err(StoreError::Refused(_))));
    let before = store.last(10);
    assert_eq!(before.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    drop(store);

    let path = folder.path().join("entries.log");
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(read(&whole, "f").unwrap(), (before.clone(), whole.len()));
    // Cut at every byte: what is left is a prefix of the entries.
    for end in 0..whole.len() {
        let (entries, good) = read(&whole[..end], "f").unwrap();
        assert!(before.starts_with(&entries) && good <= end);
        assert_eq!(whole[..good].iter().filter(|it| **it == b'\n').count(), entries.len() + usize::from(good > 0));
    }
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    assert!(matches!(read(&damaged, "f"), Err(StoreError::Damaged { .. })));
    assert!(matches!(read(b"something else\n", "f"), Err(StoreError::Foreign(_))));

    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let store = retry_open(folder.path());
    assert_eq!(store.count(), 2);
    store.add(entry("e", "after")).await.unwrap();
    let entries = read(&std::fs::read(&path).unwrap(), "f").unwrap().0;
    assert_eq!(entries.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["a", "b", "e"]);
}

/// The writer of a store that was dropped lets go of the file when its thread ends.
fn retry_open(folder: &std::path::Path) -> Store {
    loop {
        match Store::open(folder) {
            Err(StoreError::Locked(_)) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, "f");
        let _ = read(&[b"atoll guestbook 1\n".as_slice(), &bytes].concat(), "f");
    }
}

async fn request(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(port: u16, path: &str) -> String {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

async fn sign(port: u16, form: &str) -> String {
    let head = "POST /sign HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded";
    request(port, &format!("{head}\r\nContent-Length: {}\r\n\r\n{form}", form.len())).await
}

type Running = (u16, oneshot::Sender<()>, tokio::task::JoinHandle<()>);

async fn start(router: axum::Router, ready: Ready, drain: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async move { stopped.await.unwrap_or_default() };
    let task = tokio::spawn(async move { serve(listener, router, ready, until, drain).await.unwrap() });
    (port, stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_sign_and_the_servers_end_well() {
    let folder = tempfile::tempdir().unwrap();
    let ready = Ready::default();
    let router = guestbook_db::router(folder.path().to_str().unwrap(), ready.clone()).unwrap();
    let (db_port, stop_db, db) = start(router, ready, Duration::ZERO).await;
    let config =
        guestbook_web::Config { db: format!("127.0.0.1:{db_port}"), title: "Ours".into(), version: "7.1".into() };
    let ready = Ready::default();
    let (port, stop_web, web) =
        start(guestbook_web::router(config, ready.clone()), ready, Duration::from_millis(300)).await;

    let signed = sign(port, "id=one&name=Ada+L&text=%3Chello%3E").await;
    assert!(signed.starts_with("HTTP/1.1 303"), "{signed}");
    assert!(sign(port, "id=one&name=Ada+L&text=%3Chello%3E").await.starts_with("HTTP/1.1 303"));
    assert!(sign(port, "id=two&name=&text=x").await.starts_with("HTTP/1.1 400"));
    let page = get(port, "/").await;
    assert!(
        page.contains("Ada L</b> <span>&lt;hello&gt;") && page.contains("1 entries") && page.contains("version 7.1"),
        "{page}"
    );

    assert!(get(port, "/readyz").await.starts_with("HTTP/1.1 200"));
    stop_web.send(()).unwrap();
    // Not ready is said while requests are still served.
    while get(port, "/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
    assert!(get(port, "/healthz").await.starts_with("HTTP/1.1 200"));
    web.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    stop_db.send(()).unwrap();
    db.await.unwrap();
}
