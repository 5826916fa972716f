//! What the tests share: a storage node on a temporary directory, a way to dial it, and a peer to be played by hand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_ids::{ByteCount, NodeId, OwnerId, ShardId};
use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_segments::{Segments, SegmentsConfig};
use atoll_shard::limits::HELLO_BYTES_MAX;
use atoll_shard::protocol::{Answer, Greeting, HEADER_BYTES, Header, Hello, Request, ServerLimits, Welcome};
use atoll_shard::{Admission, BoxStream, Dial, DialError, ServeError, ShardClient, ShardServer, StorageGrant};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes a test stream holds in each direction: like a socket, less than a few large shards.
pub(crate) const PIPE_BYTES: usize = 64 << 10;

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn id(n: u64) -> ShardId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    ShardId::from_bytes(bytes)
}

/// A grant that is good for an hour.
pub(crate) fn grant(owner: &OwnerKey, node: NodeId) -> Signed<StorageGrant> {
    let (not_before, not_after) = (now() - 60, now() + 3600);
    Signed::sign(&StorageGrant { owner: owner.id(), node, not_before, not_after }, owner)
}

/// A storage node.
pub(crate) struct World {
    pub(crate) segments: Segments,
    pub(crate) server: ShardServer,
    /// The storage node's id.
    pub(crate) host: NodeId,
    /// The node that clients run on.
    pub(crate) node: NodeId,
    pub(crate) owner: OwnerKey,
    _dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_policy(|_, _| Admission::Admit { quota: Some(ByteCount(GIB)) })
    }

    pub(crate) fn with_policy(policy: impl Fn(OwnerId, NodeId) -> Admission + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path(), SegmentsConfig::new(128 << 20)).unwrap();
        Self {
            server: ShardServer::new(segments.clone(), Arc::new(policy)),
            segments,
            host: NodeKey::generate().id(),
            node: NodeKey::generate().id(),
            owner: OwnerKey::generate(),
            _dir: dir,
        }
    }

    pub(crate) fn grant(&self) -> Signed<StorageGrant> {
        grant(&self.owner, self.node)
    }

    pub(crate) fn dial(&self) -> Arc<ServerDial> {
        Arc::new(ServerDial {
            server: self.server.clone(),
            peer: self.node,
            shutdown: CancellationToken::new(),
            tasks: Mutex::default(),
            dialled: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        })
    }

    pub(crate) fn client(&self) -> ShardClient {
        ShardClient::new(self.host, self.dial(), self.grant())
    }

    /// A served stream whose client is the test; already welcomed.
    pub(crate) async fn welcomed(&self) -> Raw {
        self.welcomed_over(PIPE_BYTES).await
    }

    /// The same over a pipe that holds less or more.
    pub(crate) async fn welcomed_over(&self, pipe_bytes: usize) -> Raw {
        let mut raw = self.raw_over(pipe_bytes);
        raw.send_hello(self.grant()).await;
        assert!(matches!(raw.greeting().await, Greeting::Welcome(_)));
        raw
    }

    /// A served stream whose client is the test.
    pub(crate) fn raw(&self) -> Raw {
        self.raw_over(PIPE_BYTES)
    }

    fn raw_over(&self, pipe_bytes: usize) -> Raw {
        let (stream, other) = duplex(pipe_bytes);
        let (server, peer) = (self.server.clone(), self.node);
        let serving = tokio::spawn(async move { server.serve(other, peer, CancellationToken::new()).await });
        Raw { stream, serving: Some(serving) }
    }
}

/// Dials a [`World`]'s server over pipes; can be down, and can cut what is open.
pub(crate) struct ServerDial {
    server: ShardServer,
    peer: NodeId,
    pub(crate) shutdown: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<Result<(), ServeError>>>>,
    pub(crate) dialled: AtomicUsize,
    pub(crate) down: AtomicBool,
}

impl ServerDial {
    /// The serving tasks so far.
    pub(crate) fn take_tasks(&self) -> Vec<JoinHandle<Result<(), ServeError>>> {
        std::mem::take(&mut self.tasks.lock().unwrap())
    }

    /// Kills the server's end of every stream, as a crash would.
    pub(crate) fn cut(&self) {
        self.take_tasks().iter().for_each(JoinHandle::abort);
    }
}

impl Dial for ServerDial {
    fn open(&self, _node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        async move {
            self.dialled.fetch_add(1, Ordering::SeqCst);
            if self.down.load(Ordering::SeqCst) {
                return Err(DialError::Unreachable("switched off".to_owned()));
            }
            let (stream, other) = duplex(PIPE_BYTES);
            let (server, peer, shutdown) = (self.server.clone(), self.peer, self.shutdown.clone());
            let task = tokio::spawn(async move { server.serve(other, peer, shutdown).await });
            self.tasks.lock().unwrap().push(task);
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

/// Hands the other end of every stream to the test, which plays the server.
pub(crate) struct Stage {
    streams: mpsc::UnboundedSender<DuplexStream>,
    pub(crate) dialled: AtomicUsize,
}

impl Stage {
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (streams, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { streams, dialled: AtomicUsize::new(0) }), receiver)
    }

    /// A client of a server played by the test.
    pub(crate) fn client() -> (ShardClient, Arc<Self>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (stage, streams) = Self::new();
        let (owner, node) = (OwnerKey::generate(), NodeKey::generate().id());
        let client = ShardClient::new(NodeId::from_bytes([9; 32]), stage.clone(), grant(&owner, node));
        (client, stage, streams)
    }
}

impl Dial for Stage {
    fn open(&self, _node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        async move {
            self.dialled.fetch_add(1, Ordering::SeqCst);
            let (stream, other) = duplex(PIPE_BYTES);
            let gone = |_| DialError::Unreachable("the test does not play any more".to_owned());
            self.streams.send(other).map_err(gone)?;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

/// One end of a stream in the hands of the test.
pub(crate) struct Raw {
    pub(crate) stream: DuplexStream,
    pub(crate) serving: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Raw {
    /// Accepts the next stream of a [`Stage`] and welcomes its client.
    pub(crate) async fn accept(streams: &mut mpsc::UnboundedReceiver<DuplexStream>, in_flight_max: u32) -> Self {
        let mut raw = Self { stream: streams.recv().await.unwrap(), serving: None };
        let hello = atoll_wire::read_frame(&mut raw.stream, HELLO_BYTES_MAX).await.unwrap().unwrap();
        atoll_wire::decode::<Hello>(&hello).unwrap();
        let limits = ServerLimits { in_flight_max, ..ServerLimits::default() };
        let greeting = Greeting::Welcome(Welcome { limits, quota: None, used: ByteCount(0) });
        raw.send_frame(&atoll_wire::encode(&greeting)).await;
        raw
    }

    pub(crate) async fn send_hello(&mut self, grant: Signed<StorageGrant>) {
        self.send_frame(&atoll_wire::encode(&Hello { grant })).await;
    }

    async fn send_frame(&mut self, body: &[u8]) {
        atoll_wire::write_frame(&mut self.stream, body, HELLO_BYTES_MAX).await.unwrap();
    }

    pub(crate) async fn greeting(&mut self) -> Greeting {
        let frame = atoll_wire::read_frame(&mut self.stream, HELLO_BYTES_MAX).await.unwrap().unwrap();
        atoll_wire::decode(&frame).unwrap()
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn frame(&mut self) -> Option<(Header, bytes::Bytes)> {
        let mut header = [0; HEADER_BYTES];
        if self.stream.read(&mut header[..1]).await.unwrap() == 0 {
            return None;
        }
        self.stream.read_exact(&mut header[1..]).await.unwrap();
        let header = Header::decode(&header).unwrap();
        let mut body = vec![0; header.length as usize];
        self.stream.read_exact(&mut body).await.unwrap();
        Some((header, body.into()))
    }

    /// The next request, when the test is the server; `None` at the end of the stream.
    pub(crate) async fn request(&mut self) -> Option<(u64, Request)> {
        let (header, body) = self.frame().await?;
        Some((header.request, Request::decode(header, body).unwrap()))
    }

    /// The next answer, when the test is the client; `None` at the end of the stream.
    pub(crate) async fn answer(&mut self) -> Option<(u64, Answer)> {
        let (header, body) = self.frame().await?;
        Some((header.request, Answer::decode(header, body).unwrap()))
    }

    /// Reads all answers up to the end of the stream, and how the server says it ended.
    pub(crate) async fn end(mut self) -> (Vec<Answer>, Result<(), ServeError>) {
        let mut answers = Vec::new();
        while let Some((_, answer)) = self.answer().await {
            answers.push(answer);
        }
        (answers, self.serving.unwrap().await.unwrap())
    }
}
