//! Nodes for tests, each with a proxy and a far side, on loopback; and programs that are reached.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_ids::{NodeId, OwnerId};
use atoll_keys::NodeKey;
use atoll_link::{Link, LinkConfig, LinkHandle, MemoryPeers};
use atoll_proxy::{DialServer, Front, Grants, Here, Limits, NameError, PROTOCOL, Reacher, Routes, Users};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Long for a busy machine; nothing waits that long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The name of the other node.
pub(crate) const OTHER: &str = "other.atoll";

/// What a node lets in.
pub(crate) struct Allowed {
    pub(crate) ports: Mutex<Vec<u16>>,
    pub(crate) own: Vec<u16>,
}

impl Grants for Allowed {
    fn owner(&self, _: &NodeId) -> Option<OwnerId> {
        None
    }

    fn allows(&self, _: NodeId, _: Option<OwnerId>, port: u16, named: bool) -> bool {
        assert!(named, "on loopback only rules that name TCP count");
        self.ports.lock().unwrap().contains(&port)
    }

    fn here(&self) -> Here {
        Here::Loopback { own: self.own.clone() }
    }
}

pub(crate) struct Node {
    pub(crate) handle: LinkHandle,
    pub(crate) allowed: Arc<Allowed>,
    pub(crate) server: DialServer,
    pub(crate) reacher: Reacher,
    pub(crate) proxy: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) stop: CancellationToken,
    _link: Link,
    _stop: DropGuard,
    _folder: TempDir,
}

/// What a node is made of that tests change.
pub(crate) struct Make {
    pub(crate) exit: &'static [&'static str],
    pub(crate) limits: Limits,
    pub(crate) users: Users,
    pub(crate) own: Vec<u16>,
    /// Whether it listens for lanes.
    pub(crate) lanes: bool,
}

impl Default for Make {
    fn default() -> Self {
        Self { exit: &[], limits: Limits::default(), users: Users::own_and([]), own: Vec::new(), lanes: true }
    }
}

impl Node {
    pub(crate) async fn start(make: Make) -> Self {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = LinkConfig {
            bind: vec![loopback],
            lane_bind: if make.lanes { vec![loopback] } else { Vec::new() },
            retry_least: Duration::from_millis(50),
            ..LinkConfig::default()
        };
        let stop = CancellationToken::new();
        let exit = make.exit.iter().map(|rule| rule.parse().unwrap()).collect();
        let server = DialServer::new(exit, make.limits, stop.clone());
        let (key, store) = (Arc::new(NodeKey::generate()), Arc::new(MemoryPeers::default()));
        let link = Link::builder(key, config, store).protocol(PROTOCOL, Arc::new(server.clone())).bind().await.unwrap();
        let handle = link.handle();
        let names = {
            let handle = handle.clone();
            move |name: &str| -> BoxFuture<'static, Result<NodeId, NameError>> {
                let other = handle.peers().first().map(|peer| peer.id).filter(|_| name == OTHER);
                let unknown = NameError::Unknown { name: name.to_owned() };
                Box::pin(async move { other.ok_or(unknown) })
            }
        };
        let here = || Here::Loopback { own: Vec::new() };
        let reacher = Reacher::new(handle.clone(), Arc::new(names), here, Routes::default());
        let tcp = TcpListener::bind(loopback).await.unwrap();
        let proxy = tcp.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("proxy.sock");
        let unix = UnixListener::bind(&socket).unwrap();
        tokio::spawn(Front::new(reacher.clone(), make.users, Some(tcp), Some(unix)).run(stop.clone()));
        let allowed = Arc::new(Allowed { ports: Mutex::default(), own: make.own });
        server.open(allowed.clone());
        let _stop = stop.clone().drop_guard();
        Self { handle, allowed, server, reacher, proxy, socket, stop, _link: link, _stop, _folder: folder }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.handle.node_id()
    }

    pub(crate) fn allow(&self, port: u16) {
        self.allowed.ports.lock().unwrap().push(port);
    }

    pub(crate) async fn joins(&self, other: &Self) {
        let ticket = other.handle.invite(Duration::from_secs(60), 1).unwrap();
        self.handle.join(&ticket).await.unwrap();
    }

    /// A connection through this node's proxy, or the code of SOCKS.
    pub(crate) async fn socks(&self, host: &str, port: u16) -> Result<TcpStream, u8> {
        let within = tokio::time::timeout(PATIENCE, socks(self.proxy, host, port));
        within.await.expect("the proxy answers")
    }
}

/// Two nodes that know each other; the second is the far side.
pub(crate) async fn pair() -> (Node, Node) {
    pair_of(Make::default(), Make::default()).await
}

pub(crate) async fn pair_of(one: Make, other: Make) -> (Node, Node) {
    let (one, other) = (Node::start(one).await, Node::start(other).await);
    one.joins(&other).await;
    (one, other)
}

async fn socks(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, u8> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).await.unwrap();
    if method != [5, 0] {
        return Err(method[1]);
    }
    let name = host.as_bytes();
    let request = [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap()], name, &port.to_be_bytes()].concat();
    stream.write_all(&request).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    if reply[1] == 0 { Ok(stream) } else { Err(reply[1]) }
}

/// A program that does `serve` with each connection; gives its port. It ends with the test's runtime.
pub(crate) async fn program<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A program that sends back what it gets.
pub(crate) async fn echo() -> u16 {
    program(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
            let _: std::io::Result<()> = writer.shutdown().await;
        }
    })
    .await
}

/// Asks an echo something and checks the answer.
pub(crate) async fn asks(stream: &mut TcpStream) {
    stream.write_all(b"are you there?").await.unwrap();
    let mut answer = [0; 14];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"are you there?");
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}: never");
}
