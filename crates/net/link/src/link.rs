//! The link as others use it: configure, bind, and a handle to open streams and look after peers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use atoll_lane::Acceptor;
use atoll_relay::Budget;
use iroh::{Endpoint, Watcher};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::accept::listen;
use crate::acquaint::Society;
use crate::address::AddressRecord;
use crate::book::Book;
use crate::dial::NONE;
use crate::error::{BindError, InviteError, JoinError, OpenError};
use crate::find::FIND;
use crate::join::JOIN;
use crate::lan::Neighbour;
use crate::meter::Carried;
use crate::node::{Node, Parts};
use crate::packets::{PACKET, Packets};
use crate::peers::{FixedPeer, Path, Peer, PeerStore, PeerStoreError};
use crate::presence::HELLO;
use crate::quic::code;
use crate::stream::{BoxStream, StreamHandler, Traffic};
use crate::ticket::Ticket;
use crate::via::reach::Reach;
use crate::via::transport::{Lookup, ViaTransport};
use crate::via::{Ends, RELAY, Via};

/// How long iroh may take to list the addresses of this machine's interfaces at start; a few milliseconds are usual.
const INTERFACES_TIMEOUT: Duration = Duration::from_secs(2);

/// How long closing connections may take at the end: one round trip to tell the peers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a node is reached, and how hard it tries to reach others.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where to listen for QUIC. Port 0 takes a free one. `0.0.0.0` and `[::]` are all interfaces; the first address of each family is also where packets
    /// leave that no other is nearer to.
    pub bind: Vec<SocketAddr>,
    /// Where to listen for lanes (TCP). None at all is possible: then everything goes over QUIC.
    pub lane_bind: Vec<SocketAddr>,
    /// Further addresses under which others reach this node's QUIC port, like that of a router which forwards it.
    pub external: Vec<SocketAddr>,
    /// Further addresses under which others reach its lanes.
    pub lane_external: Vec<SocketAddr>,
    /// URLs of relays to be reachable through. Without any, no server of anyone's is contacted, and relays that peers name are not used.
    pub relays: Vec<String>,
    /// Nodes that are known because the configuration names them.
    pub peers: Vec<FixedPeer>,
    /// Whether to tell the local network where this node is, and to listen for others there.
    pub lan: bool,
    /// Whether IP packets are carried to and from peers ([`LinkHandle::packets`]).
    pub packets: bool,
    /// The UDP port at which sealed packets are taken in beside the connections, on the first address of each family in `bind`; 0 takes a free one. `None` is no fast
    /// path: packets stay in connections.
    pub fast_port: Option<u16>,
    /// Whether to find nodes that are no peers, help others find, and exchange packets with nodes met in this way.
    pub find: bool,
    /// What this node shows of itself to such nodes besides its record, like whose it is; at most [`CREDENTIALS_BYTES_MAX`](crate::CREDENTIALS_BYTES_MAX) bytes.
    pub credentials: Vec<u8>,
    /// What this node carries between peers that cannot reach each other; `None` is nothing. It is reached through others either way.
    pub relay: Option<Budget>,
    /// How long a QUIC connection may take to be made.
    pub dial_timeout: Duration,
    /// How long the TCP connection of a lane may take to be made.
    pub lane_timeout: Duration,
    /// How long a connection is kept on which nothing is open. A new one takes some 8 kB for its post-quantum handshake, which is what the probes of an open one take in a
    /// minute or two.
    pub keep_idle: Duration,
    /// The first pause between two attempts to reach a peer.
    pub retry_least: Duration,
    /// The longest pause between two attempts to reach a peer.
    pub retry_most: Duration,
}

impl Default for LinkConfig {
    /// All interfaces, free ports, no relays, silent on the local network, no packets, nothing relayed for others.
    fn default() -> Self {
        let all = vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
        Self {
            bind: all.clone(),
            lane_bind: all,
            external: Vec::new(),
            lane_external: Vec::new(),
            relays: Vec::new(),
            peers: Vec::new(),
            lan: false,
            packets: false,
            fast_port: Some(0),
            find: false,
            credentials: Vec::new(),
            relay: None,
            dial_timeout: Duration::from_secs(5),
            lane_timeout: Duration::from_secs(1),
            keep_idle: Duration::from_secs(60),
            retry_least: Duration::from_millis(500),
            retry_most: Duration::from_secs(60),
        }
    }
}

/// A link that is being put together.
pub struct Builder {
    key: Arc<NodeKey>,
    config: LinkConfig,
    store: Arc<dyn PeerStore>,
    protocols: Vec<(&'static str, Arc<dyn StreamHandler>)>,
    society: Arc<dyn Society>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("node", &self.key.id()).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Builder {
    /// Serves a protocol, like `atoll/shard/1`, to peers.
    #[must_use]
    pub fn protocol(mut self, name: &'static str, handler: Arc<dyn StreamHandler>) -> Self {
        self.protocols.push((name, handler));
        self
    }

    /// Tells somebody who is met and parted with.
    #[must_use]
    pub fn society(mut self, society: Arc<dyn Society>) -> Self {
        self.society = society;
        self
    }

    /// Starts listening, and looking for the peers that the store knows.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn bind(self) -> Result<Link, BindError> {
        let protocols = check_protocols(self.protocols)?;
        let names: Vec<&str> = protocols.keys().copied().collect();
        // Servers choose by their own order: `NONE` comes last.
        let packet = self.config.packets.then_some(PACKET);
        let find = self.config.find.then_some(FIND);
        let known = names.iter().copied().chain(packet).chain(find).chain([JOIN, HELLO, RELAY, NONE]);
        let alpns = known.map(|name| name.as_bytes().to_vec()).collect();
        let book = Book::open(self.store).await.map_err(BindError::Store)?;
        let fixed: Vec<FixedPeer> =
            self.config.peers.iter().filter(|peer| peer.node != self.key.id()).copied().collect();
        book.fix(&fixed);
        // Joining and relaying get through as lanes where UDP does not.
        let on_lanes: Vec<&str> = names.iter().copied().chain([JOIN, RELAY]).collect();
        let acceptor = Acceptor::new(&self.key, &on_lanes)?;
        let listeners = listen(&self.config.lane_bind)?;
        let listening = listeners.iter().filter_map(|listener| listener.local_addr().ok());
        let lanes = listening.chain(self.config.lane_external.iter().copied()).collect();
        let book = Arc::new(book);
        let (transport, Ends { arrived, outgoing: (outgoing, leaving), unsent }) = ViaTransport::new();
        let reach = Arc::new(Reach::default());
        let via = (transport, Lookup(book.clone(), reach.clone()));
        let endpoint = crate::quic::bind(&self.key, &self.config, alpns, via).await?;
        wait_for_interfaces(&endpoint).await;
        let via = Via::new(self.key.id(), self.config.relay, arrived, outgoing, unsent, reach);
        let society = self.society;
        let parts = Parts { key: self.key, config: self.config, endpoint, lanes, book, via, protocols, society };
        let node = Node::new(parts);
        node.relay_on(leaving);
        node.spawn(node.clone().accept_connections());
        node.spawn(node.clone().watch_addresses());
        for listener in listeners {
            node.spawn(node.clone().accept_lanes(listener, acceptor.clone()));
        }
        for peer in node.book.nodes() {
            node.look_after(peer);
        }
        if node.config.find {
            node.spawn(node.clone().find_nodes());
        }
        if node.config.lan {
            node.spawn(node.clone().meet_neighbours());
        }
        Ok(Link { handle: LinkHandle { node } })
    }
}

fn check_protocols(
    given: Vec<(&'static str, Arc<dyn StreamHandler>)>,
) -> Result<BTreeMap<&'static str, Arc<dyn StreamHandler>>, BindError> {
    let mut protocols = BTreeMap::new();
    for (name, handler) in given {
        let refuse = |reason| Err(BindError::Protocol { name: name.to_owned(), reason });
        if !(1..=255).contains(&name.len()) {
            return refuse("a name has 1 to 255 bytes");
        }
        if [JOIN, HELLO, NONE, PACKET, RELAY, FIND].contains(&name) {
            return refuse("the link speaks it itself");
        }
        if protocols.insert(name, handler).is_some() {
            return refuse("it is served already");
        }
    }
    Ok(protocols)
}

/// Waits until iroh knows the addresses behind `0.0.0.0` and `[::]`, if it listens there.
async fn wait_for_interfaces(endpoint: &Endpoint) {
    if endpoint.bound_sockets().iter().any(|address| !address.ip().is_unspecified()) {
        return;
    }
    let mut watcher = endpoint.watch_addr();
    let known = async {
        let mut address = watcher.get();
        while address.ip_addrs().next().is_none() {
            match watcher.updated().await {
                Ok(updated) => address = updated,
                Err(_) => break,
            }
        }
    };
    // A machine without any interface is a lonely node, not an error: addresses are published when there are some.
    let _: Result<(), _> = timeout(INTERFACES_TIMEOUT, known).await;
}

/// A running link. Dropping it ends everything at once; [`shutdown`](Self::shutdown) does it in order.
pub struct Link {
    handle: LinkHandle,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("node", &self.handle.node_id()).finish_non_exhaustive()
    }
}

impl Link {
    /// Begins a link for the node that has `key`, whose peers `store` keeps.
    pub fn builder(key: Arc<NodeKey>, config: LinkConfig, store: Arc<dyn PeerStore>) -> Builder {
        Builder { key, config, store, protocols: Vec::new(), society: Arc::new(()) }
    }

    /// A handle to use the link with.
    pub fn handle(&self) -> LinkHandle {
        self.handle.clone()
    }

    /// Ends the link in order: nothing new is begun, streams being served have until `deadline` to end, peers are
    /// told. True if every stream ended by itself.
    ///
    /// What a handler wrote last may not have arrived: a protocol that must know waits for the peer's end of the stream.
    pub async fn shutdown(self, deadline: Duration) -> bool {
        let node = &self.handle.node;
        node.stop.cancel();
        node.streams.close();
        let orderly = timeout(deadline, node.streams.wait()).await.is_ok();
        let closing = async {
            node.endpoint.close().await;
            node.kill.cancel();
            node.tasks.close();
            node.tasks.wait().await;
            node.streams.wait().await;
        };
        let _: Result<(), _> = timeout(CLOSE_TIMEOUT, closing).await;
        orderly
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.handle.node.stop.cancel();
        self.handle.node.kill.cancel();
    }
}

/// Access to a running link. Cheap to clone. Once the link has ended, what it opens fails.
#[derive(Clone)]
pub struct LinkHandle {
    pub(crate) node: Arc<Node>,
}

impl std::fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkHandle").field("node", &self.node_id()).finish_non_exhaustive()
    }
}

impl LinkHandle {
    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.node.id
    }

    /// Where this node can be reached, with real ports.
    pub fn addresses(&self) -> AddressRecord {
        self.node.own.borrow().record.clone()
    }

    /// Opens a stream to a peer for a protocol. When it returns, the peer has accepted it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(&self, peer: NodeId, protocol: &'static str, traffic: Traffic) -> Result<BoxStream, OpenError> {
        let stream = self.node.open(peer, protocol, traffic).await?;
        Ok(self.node.meters.meter(peer, stream))
    }

    /// Every peer, as it stands now.
    pub fn peers(&self) -> Vec<Peer> {
        let mut peers = self.node.book.peers();
        peers.iter_mut().for_each(|peer| self.name_relay(peer));
        peers
    }

    /// One peer, as it stands now.
    pub fn peer(&self, node: &NodeId) -> Option<Peer> {
        let mut peer = self.node.book.peer(node)?;
        self.name_relay(&mut peer);
        Some(peer)
    }

    /// Who relays changes without the connection noticing, and packets go over to relays before it does.
    fn name_relay(&self, peer: &mut Peer) {
        let relayed = self.node.is_relayed(&peer.id);
        if let Some(connected) = peer.connected.as_mut().filter(|_| relayed) {
            connected.path = Path::Via(None);
        }
        if let Some(Path::Via(relay)) = peer.connected.as_mut().map(|connected| &mut connected.path) {
            *relay = self.node.via.relay_to(&peer.id);
        }
    }

    /// Counts up whenever a peer comes, goes, connects, disconnects or moves: wait for a change, then look at
    /// [`peers`](Self::peers).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.node.book.changes()
    }

    /// Makes a ticket with which `uses` nodes can join before `ttl` is over, or this node restarts.
    ///
    /// # Errors
    ///
    /// [`InviteError`].
    pub fn invite(&self, ttl: Duration, uses: u32) -> Result<Ticket, InviteError> {
        self.node.invite(ttl, uses)
    }

    /// Joins the node that made a ticket: afterwards both know each other, also after restarts.
    ///
    /// # Errors
    ///
    /// [`JoinError`].
    pub async fn join(&self, ticket: &Ticket) -> Result<Peer, JoinError> {
        self.node.join(ticket).await
    }

    /// Forgets a peer and closes what is open with it. The peer still knows this node, and is refused from now on. True
    /// if it was known.
    ///
    /// # Errors
    ///
    /// When the store fails; then the peer stays known.
    pub async fn forget(&self, peer: &NodeId) -> Result<bool, PeerStoreError> {
        let known = self.node.book.remove(peer).await?;
        self.node.connections.close(peer, code::UNKNOWN, "forgotten");
        self.node.packets.close(peer, code::UNKNOWN, "forgotten");
        self.node.meters.forget(peer);
        self.node.via.close(peer, code::UNKNOWN, "forgotten");
        Ok(known)
    }

    /// The way for IP packets to and from peers. What arrives goes to whichever handle asks first: there is one receiver per node. Without
    /// [`LinkConfig::packets`] nothing arrives and nothing is sent.
    pub fn packets(&self) -> Packets {
        Packets::new(self.node.clone())
    }

    /// What was carried to and from a peer since the start.
    pub fn carried(&self, peer: &NodeId) -> Carried {
        self.node.meters.read(peer)
    }

    /// Nodes heard on the local network lately that are not known, by id.
    pub fn neighbours(&self) -> Vec<Neighbour> {
        self.node.neighbours()
    }
}
