//! How fast a loopback transfer is through the proxy, beside plain TCP and beside the bare stream that carries it, in the same rounds.
//!
//! Two nodes in this process: program → proxy → link → far side → program, by SOCKS5, over a lane and over QUIC; all of it shares the machine's processors, so a byte is
//! copied through the kernel three times and sealed and opened once. Then how long one small connection takes.
//!
//! `cargo bench -p atoll-proxy --bench proxy`

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first failure")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_ids::{NodeId, OwnerId};
use atoll_keys::NodeKey;
use atoll_link::{BoxStream, Link, LinkConfig, MemoryPeers, Traffic};
use atoll_proxy::{DialServer, Front, Grants, Here, Limits, NameError, PROTOCOL, Reacher, Routes, Users};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;
const CONNECTIONS: usize = 200;

/// A protocol that reads all there is and answers with one byte.
const SINK: &str = "atoll/bench/1";

struct Everything;

impl Grants for Everything {
    fn owner(&self, _: &NodeId) -> Option<OwnerId> {
        None
    }

    fn allows(&self, _: NodeId, _: Option<OwnerId>, _: u16, _: bool) -> bool {
        true
    }

    fn here(&self) -> Here {
        Here::Loopback { own: Vec::new() }
    }
}

async fn swallow(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).await.unwrap() > 0 {}
    stream.write_all(b".").await.unwrap();
    stream.shutdown().await.unwrap();
}

/// Bytes a second until the other end has had all of them.
async fn pour(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: usize) -> f64 {
    let block = vec![7; 256 << 10];
    let began = Instant::now();
    for _ in 0..bytes / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    stream.read_u8().await.unwrap();
    bytes as f64 / began.elapsed().as_secs_f64()
}

async fn node(lanes: bool) -> (Link, DialServer) {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let lane_bind = if lanes { vec![loopback] } else { Vec::new() };
    let config = LinkConfig { bind: vec![loopback], lane_bind, ..LinkConfig::default() };
    let server = DialServer::new(Vec::new(), Limits::default(), CancellationToken::new());
    server.open(Arc::new(Everything));
    let sink = |_: NodeId, stream: BoxStream| -> BoxFuture<'static, ()> { Box::pin(swallow(stream)) };
    let builder = Link::builder(Arc::new(NodeKey::generate()), config, Arc::new(MemoryPeers::default()));
    let link =
        builder.protocol(PROTOCOL, Arc::new(server.clone())).protocol(SINK, Arc::new(sink)).bind().await.unwrap();
    (link, server)
}

async fn socks(proxy: SocketAddr, host: NodeId, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let name = host.to_string();
    let length = [u8::try_from(name.len()).unwrap()];
    let request = [&[5, 1, 0, 5, 1, 0, 3][..], &length, name.as_bytes(), &port.to_be_bytes()].concat();
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[3], 0);
    stream
}

fn spread(figures: &mut [f64]) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}

#[tokio::main]
async fn main() {
    // `cargo test` runs benches with --test: then there is nothing to do. `cargo bench` passes --bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let bytes = std::env::var("BENCH_BYTES").ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(BYTES);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(swallow(stream));
        }
    });
    for lanes in [true, false] {
        over(lanes, sink, bytes).await;
    }
}

async fn over(lanes: bool, sink: SocketAddr, bytes: usize) {
    let carrier = if lanes { "a lane" } else { "QUIC" };
    let ((one, _), (other, _)) = (node(lanes).await, node(lanes).await);
    let ticket = other.handle().invite(Duration::from_secs(60), 1).unwrap();
    one.handle().join(&ticket).await.unwrap();
    let there = other.handle().node_id();
    let names = |name: &str| -> BoxFuture<'static, Result<NodeId, NameError>> {
        let unknown = NameError::Unknown { name: name.to_owned() };
        Box::pin(async move { Err(unknown) })
    };
    let here = || Here::Loopback { own: Vec::new() };
    let reacher = Reacher::new(one.handle(), Arc::new(names), here, Routes::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(Front::new(reacher, Users::own_and([]), Some(listener), None).run(stop.clone()));
    let mut figures: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let tcp = pour(TcpStream::connect(sink).await.unwrap(), bytes).await;
        let bare = pour(one.handle().open(there, SINK, Traffic::Bulk).await.unwrap(), bytes).await;
        let through = pour(socks(proxy, there, sink.port()).await, bytes).await;
        for (figure, value) in figures.iter_mut().zip([tcp, bare, through, through / tcp, through / bare]) {
            figure.push(value);
        }
    }
    let names = ["plain TCP", "the bare stream", "through the proxy"];
    for (name, figure) in names.iter().zip(&mut figures[..3]) {
        let (low, median, high) = spread(figure);
        println!("{carrier}: {name:<20} {:.2} GB/s ({:.2} to {:.2})", median / 1e9, low / 1e9, high / 1e9);
    }
    for (name, figure) in ["proxy / plain TCP", "proxy / bare stream"].iter().zip(&mut figures[3..]) {
        let (low, median, high) = spread(figure);
        println!("{carrier}: {name:<20} {median:.2} ({low:.2} to {high:.2})");
    }
    let mut small = Vec::new();
    for _ in 0..CONNECTIONS {
        let began = Instant::now();
        pour(socks(proxy, there, sink.port()).await, 0).await;
        small.push(began.elapsed().as_secs_f64());
    }
    let (low, median, high) = spread(&mut small);
    println!("{carrier}: a connection         {:.2} ms ({:.2} to {:.2})", median * 1e3, low * 1e3, high * 1e3);
    stop.cancel();
}
