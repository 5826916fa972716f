//! Pulling from a registry that asks for a token, offers several platforms, and sometimes lies.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use atoll_images::{
    Auth, Builder, Compression, Content, Digest, ErrorKind, Limits, Platform, PullOptions, Reference, Store,
    StoreConfig,
};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};

/// What the registry has, by the end of the path, and how often it was asked for blobs.
#[derive(Default)]
struct Shelf {
    things: Mutex<HashMap<String, Vec<u8>>>,
    blobs: AtomicUsize,
    host: Mutex<String>,
}

async fn serve(State(shelf): State<Arc<Shelf>>, request: Request) -> Response<Body> {
    let answer = |status: StatusCode| Response::builder().status(status);
    let path = request.uri().path().to_owned();
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()).unwrap_or("");
    if path == "/token" {
        // user:secret
        if authorization != "Basic dXNlcjpzZWNyZXQ=" {
            return answer(StatusCode::UNAUTHORIZED).body("who are you?".into()).unwrap();
        }
        assert!(request.uri().query().unwrap().contains("scope=repository%3Ateam%2Fapp%3Apull"));
        return answer(StatusCode::OK).body(r#"{"token":"abc"}"#.into()).unwrap();
    }
    if authorization != "Bearer abc" {
        let host = shelf.host.lock().unwrap().clone();
        let challenge =
            format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:team/app:pull""#);
        return answer(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, challenge)
            .body(Body::empty())
            .unwrap();
    }
    if path.contains("/blobs/") {
        shelf.blobs.fetch_add(1, Ordering::Relaxed);
    }
    match shelf.things.lock().unwrap().get(path.rsplit('/').next().unwrap()) {
        Some(bytes) => answer(StatusCode::OK).body(bytes.clone().into()).unwrap(),
        None => answer(StatusCode::NOT_FOUND).body("MANIFEST_UNKNOWN".into()).unwrap(),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), limits: Limits::default() }).unwrap()
}

/// A registry with `team/app:1` for this machine and others, and its address.
async fn registry(dir: &Path) -> (Arc<Shelf>, String) {
    let source = open(&dir.join("source"));
    let reference: Reference = "example.org/team/app:1".parse().unwrap();
    let builder = Builder::new().file("/hello", Content::Bytes(b"hello".to_vec()), 0o644);
    let image = builder.compression(Compression::Gzip).build(&source, &reference).unwrap();
    let shelf = Arc::new(Shelf::default());
    let mut things = HashMap::new();
    for entry in std::fs::read_dir(dir.join("source/blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        things.insert(format!("sha256:{}", entry.file_name().display()), std::fs::read(entry.path()).unwrap());
    }
    let own = Platform::current();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"digest":"{}","size":2,"platform":{{"os":"plan9","architecture":"mips"}}}},
            {{"digest":"{}","size":{},"platform":{{"os":"{}","architecture":"{}"}}}}]}}"#,
        Digest::of(b"{}"),
        image.manifest,
        things[&image.manifest.to_string()].len(),
        own.os,
        own.architecture,
    );
    let foreign = index.replace(&format!("\"{}\"", own.architecture), "\"vax\"");
    things.insert("1".to_owned(), index.into_bytes());
    things.insert("vax".to_owned(), foreign.into_bytes());
    things.insert("huge".to_owned(), vec![b' '; 5 << 20]);
    *shelf.things.lock().unwrap() = things;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    shelf.host.lock().unwrap().clone_from(&host);
    let app = Router::new().fallback(serve).with_state(Arc::clone(&shelf));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (shelf, host)
}

fn options(password: &str) -> PullOptions {
    let auth = Auth::Basic { user: "user".to_owned(), password: password.to_owned() };
    PullOptions { auth, plain_http: true, extra_roots_pem: None }
}

#[tokio::test]
async fn an_image_is_fetched_once_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (shelf, host) = registry(dir.path()).await;
    let store = open(&dir.path().join("store"));
    let reference: Reference = format!("{host}/team/app:1").parse().unwrap();
    let image = store.pull(&reference, &options("secret")).await.unwrap();
    assert_eq!((image.reference.clone(), image.layers.len()), (reference.clone(), 1));
    assert_eq!(store.get(&reference).unwrap().unwrap(), image);
    assert_eq!(shelf.blobs.swap(0, Ordering::Relaxed), 2);
    store.pull(&reference, &options("secret")).await.unwrap();
    assert_eq!(shelf.blobs.load(Ordering::Relaxed), 0, "what is here is not fetched again");
    let pinned: Reference = format!("{host}/team/app@{}", image.manifest).parse().unwrap();
    assert_eq!(store.pull(&pinned, &options("secret")).await.unwrap().id, image.id);

    let check = async |name: &str, options: &PullOptions, kind: ErrorKind, words: &str| {
        let error = store.pull(&format!("{host}/{name}").parse().unwrap(), options).await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(words), "{name}: {error}");
    };
    let (good, bad) = (options("secret"), options("wrong"));
    let anonymous = PullOptions { auth: Auth::Anonymous, ..options("") };
    check("team/app:1", &bad, ErrorKind::Denied, "who are you?").await;
    check("team/app:1", &anonymous, ErrorKind::Denied, "401").await;
    check("team/app:2", &good, ErrorKind::NotFound, "MANIFEST_UNKNOWN").await;
    check("team/app:vax", &good, ErrorKind::Invalid, "linux/vax").await;
    check("team/app:huge", &good, ErrorKind::Invalid, "over 4194304 bytes").await;
    let tls = PullOptions { plain_http: false, ..options("secret") };
    check("team/app:1", &tls, ErrorKind::Retry, "cannot reach").await;

    let layer = image.layers[0].digest.to_string();
    let mut other = shelf.things.lock().unwrap()[&layer].clone();
    *other.last_mut().unwrap() ^= 1;
    shelf.things.lock().unwrap().insert(layer.clone(), other.clone());
    store.remove(&reference).unwrap();
    store.remove(&pinned).unwrap();
    store.gc().unwrap();
    check("team/app:1", &good, ErrorKind::Invalid, "should have digest").await;
    other.push(0);
    shelf.things.lock().unwrap().insert(layer, other);
    check("team/app:1", &good, ErrorKind::Broken, "longer than").await;
    assert!(store.list().unwrap().is_empty());
    // What was given up is removed by the thread that wrote it, in its own time.
    let unfinished = dir.path().join("store/tmp");
    let empty = async {
        while std::fs::read_dir(&unfinished).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), empty).await.expect("nothing unfinished stays");
}
