//! Measures the shard protocol over TCP on loopback, client and server in one process: how fast large shards are stored
//! and fetched, and how many small ones a second.
//!
//! `cargo run --release -p atoll-shard --example throughput [DIR]`: the shards are kept in DIR (default: the temporary
//! directory), so a directory on tmpfs measures the protocol and one on a disk the two together. No encryption: that is
//! the lane's.
#![expect(clippy::print_stdout, reason = "the figures are the point")]

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use atoll_ids::{NodeId, OwnerId, ShardId};
use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_segments::{Segments, SegmentsConfig};
use atoll_shard::{
    Admission, BoxStream, Dial, DialError, HomeError, ShardClient, ShardHome, ShardServer, StorageGrant,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const LARGE_BYTES: usize = 256 << 10;
const LARGE_COUNT: u64 = 4096;
const SMALL_BYTES: usize = 256;
const SMALL_COUNT: u64 = 200_000;

struct TcpDial(std::net::SocketAddr);

impl Dial for TcpDial {
    fn open(&self, _node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        async move {
            let failed = |error: std::io::Error| DialError::Unreachable(error.to_string());
            let stream = TcpStream::connect(self.0).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

fn id(n: u64) -> ShardId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    ShardId::from_bytes(bytes)
}

async fn start(dir: &std::path::Path) -> Result<ShardClient, Box<dyn std::error::Error>> {
    let segments = Segments::open(dir, SegmentsConfig::new(3 << 30))?;
    let policy = |_: OwnerId, _: NodeId| Admission::Admit { quota: None };
    let server = ShardServer::new(segments, Arc::new(policy));
    let (owner, node) = (OwnerKey::generate(), NodeKey::generate().id());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let grant = StorageGrant { owner: owner.id(), node, not_before: now, not_after: now + 3600 };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let dial = Arc::new(TcpDial(listener.local_addr()?));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move { server.serve(stream, node, CancellationToken::new()).await });
        }
    });
    Ok(ShardClient::new(NodeKey::generate().id(), dial, Signed::sign(&grant, &owner)))
}

/// Runs `count` calls, `at_once` at a time, and prints how it went.
async fn run<F: Future<Output = Result<(), HomeError>>>(
    what: &str,
    count: u64,
    bytes: usize,
    at_once: usize,
    call: impl Fn(u64) -> F,
) -> Result<(), HomeError> {
    let start = Instant::now();
    stream::iter(0..count).map(call).buffer_unordered(at_once).try_collect::<()>().await?;
    let seconds = start.elapsed().as_secs_f64();
    let (count, bytes) =
        (f64::from(u32::try_from(count).unwrap_or(u32::MAX)), f64::from(u32::try_from(bytes).unwrap_or(0)));
    let (rate, gigabytes) = (count / seconds, count * bytes / 1e9);
    println!("{what:<12} {rate:>9.0} /s {:>7.2} GB/s", gigabytes / seconds);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    let client = start(dir.path()).await?;
    let client = &client;
    run("ping", SMALL_COUNT, 0, 512, |_| client.ping()).await?;
    let large = &Bytes::from(vec![7; LARGE_BYTES]);
    run("put 256 KiB", LARGE_COUNT, LARGE_BYTES, 64, |n| client.put(id(n), large.clone()).map(|r| r.map(drop))).await?;
    run("get 256 KiB", LARGE_COUNT, LARGE_BYTES, 64, |n| client.get(id(n)).map(|r| r.map(drop))).await?;
    let small = &Bytes::from(vec![7; SMALL_BYTES]);
    let from = LARGE_COUNT;
    run("put 256 B", SMALL_COUNT, SMALL_BYTES, 512, |n| client.put(id(from + n), small.clone()).map(|r| r.map(drop)))
        .await?;
    run("get 256 B", SMALL_COUNT, SMALL_BYTES, 512, |n| client.get(id(from + n)).map(|r| r.map(drop))).await?;
    println!("{:?}", client.health());
    Ok(())
}
