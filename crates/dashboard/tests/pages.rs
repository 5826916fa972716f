//! The pages over a real connection: whole, escaped, guarded, and kept up to date.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_control::{
    AwayNode, FsMounted, HealingStatus, NodeStatus, PeerStatus, PodStatus, RoleStatus, StorageStatus, VolumeStatus,
};
use atoll_dashboard::{Page, Snapshot, Source, Workloads, serve};
use atoll_ids::{ByteCount, NodeId, OwnerId};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A node whose one peer falls silent for longer with every look.
struct Node(AtomicU64);

impl Source for Node {
    fn snapshot(&self, _: Page) -> BoxFuture<'_, Snapshot> {
        let silent = self.0.fetch_add(1, Ordering::Relaxed);
        let peer = PeerStatus {
            node: NodeId::from_bytes([2; 32]),
            name: Some("<script>alert(1)</script>".into()),
            owner: None,
            reachable: false,
            rtt_ms: None,
            last_seen_seconds: Some(silent),
            storage: Some(StorageStatus { capacity: ByteCount(100), used: ByteCount(25), shards: 3 }),
            gateway: None,
            addresses: vec!["192.0.2.1:5".into()],
        };
        let away = AwayNode { node: NodeId::from_bytes([2; 32]), name: Some("<i>".into()), seconds: silent };
        let healing = HealingStatus {
            after_seconds: 600,
            running: true,
            away: vec![away],
            stripes: 50,
            degraded: 12,
            mended: 5,
            beyond_repair: 1,
            ..HealingStatus::default()
        };
        let mounted = FsMounted {
            inodes: 2,
            used: ByteCount(5),
            dirty: ByteCount(0),
            stored: true,
            degraded: 3,
            rebuilt: 77,
            beyond_repair: 0,
            failing: None,
        };
        let node = NodeStatus {
            node: NodeId::from_bytes([1; 32]),
            name: Some("attic".into()),
            owner: OwnerId::from_bytes([3; 32]),
            planetary_address: "600::1".into(),
            version: "0".into(),
            pid: 1,
            uptime_seconds: 1,
            data_dir: "/x".into(),
            addresses: Vec::new(),
            metrics: None,
            dashboard: None,
            roles: vec![RoleStatus { role: "storage".into(), active: true, note: None }],
            storage: None,
            peers: vec![peer],
            healing: Some(healing),
            volumes: vec![VolumeStatus { name: "pvc-1".into(), mounted }],
        };
        let pod = PodStatus {
            namespace: "default".into(),
            name: "guestbook-<b>db</b>-0".into(),
            node: Some("node-3".into()),
            state: "ImagePullBackOff".into(),
            ready: false,
            restarts: 41,
        };
        let silent =
            Workloads { evdc: "far".into(), problem: Some("does <not> answer".into()), ..Workloads::default() };
        let workloads = vec![Workloads { evdc: "near".into(), pods: vec![pod], ..Workloads::default() }, silent];
        let (buckets, offers, evdcs) = (Vec::new(), Vec::new(), Vec::new());
        async { Snapshot { node, buckets, offers, evdcs, workloads, gateway: None } }.boxed()
    }
}

async fn dashboard() -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve(listener, Arc::new(Node(AtomicU64::new(0))), stop.clone()));
    (address, stop)
}

async fn ask(at: SocketAddr, path: &str, host: &str) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(at).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(path).header("host", host).body(Empty::<Bytes>::new()).unwrap();
    send.send_request(request).await.unwrap()
}

#[tokio::test]
async fn every_page_is_whole_and_escaped() {
    let (at, _stop) = dashboard().await;
    for page in Page::ALL {
        let response = ask(at, &format!("/{}", page.name()), "localhost").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(text.contains("attic") && text.ends_with("</html>"), "{text}");
        assert!(!text.contains("<script>alert"), "a peer's name is not markup");
        // Nothing is loaded from elsewhere.
        assert!(!text.contains("http://") && !text.contains("src="), "{text}");
    }
    assert_eq!(ask(at, "/", "127.0.0.1").await.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(ask(at, "/nothing", "localhost").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(at, "/overview", "evil.example").await.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn the_page_of_applications_says_where_they_run_and_how_they_fare() {
    let (at, _stop) = dashboard().await;
    let body = ask(at, "/apps", "localhost").await.into_body();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    for part in
        ["near", "guestbook-&lt;b&gt;db", "node-3", "bad\">ImagePullBackOff", "41", "far", "does &lt;not&gt; answer"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn the_storage_page_says_how_whole_everything_is() {
    let (at, _stop) = dashboard().await;
    let body = ask(at, "/storage", "localhost").await.into_body();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    for part in [
        "healing now",
        "7 of 50 stripes",
        "1</span> beyond repair",
        "&lt;i&gt;",
        "made again elsewhere in 10 min",
        "pvc-1",
        "77",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn an_open_page_is_told_what_changed() {
    let (at, stop) = dashboard().await;
    let mut body = ask(at, "/live/network", "localhost").await.into_body();
    let mut seen = String::new();
    while seen.matches("silent for").count() < 2 {
        let frame = body.frame().await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
    }
    stop.cancel();
    // An open page does not keep the node from stopping.
    while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
}
