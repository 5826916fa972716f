//! The packet filter between the TUN and other nodes: pure, stateful, closed.
//!
//! It says for each packet whether it passes, and where to. The clock is handed in; there is no I/O.
//!
//! # What comes in
//!
//! - The source address is that of the node which sent it, or in a prefix that is at that node. Addresses are hashes of keys and the connection
//!   is authenticated, so nobody speaks for another.
//! - The destination is this node, or in a prefix that is here.
//! - To this node: answers to what this node began, ICMPv6 errors about that, and what a [`Rule`] allows. Nothing else. No neighbour
//!   discovery, router advertisement, redirect or multicast passes at all: there is no shared link behind the interface.
//! - To a pod network: what comes from the same network; what its members may do among themselves is for the network's own policy.
//!
//! # What goes out
//!
//! Everything that has our own address, or one of a prefix that is here, as its source, and whose destination is known. Never the link's own packets: a
//! connection must not run through itself.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use atoll_ids::{NodeId, OwnerId, PlanetaryAddress};

use crate::flow::{Flows, Key, Protocol};
use crate::packet::{Fragment, Malformed, Packet, Payload, parse, parse_quoted};
use crate::routes::{Place, Table, same_network};
use crate::rule::{From, Rule, What};

/// Packets in fragments that are on their way in at once. Fragments are rare: whoever can, sends what fits.
const FRAGMENTED_MAX: usize = 1024;

/// How long the fragments of one packet may take (RFC 8200 gives a minute; ours come from one sender over one path).
const FRAGMENTS_WITHIN: Duration = Duration::from_secs(15);

/// A node that this one knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerEntry {
    /// Who.
    pub node: NodeId,
    /// Whose it is, as far as that was proven.
    pub owner: Option<OwnerId>,
}

/// Why a packet does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It is not a packet.
    Malformed,
    /// The sender is not a peer.
    Stranger,
    /// The source is not the sender's.
    Spoofed,
    /// The destination is not here.
    NotHere,
    /// Nothing was begun that it answers, and no rule allows it.
    Unsolicited,
    /// It was on its way out with a source that is not ours.
    ForeignSource,
    /// It was on its way out to nobody that is known.
    Nowhere,
    /// It was on its way out to many.
    Multicast,
    /// It belongs to the connections that carry packets.
    Underlay,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Stranger,
        Self::Spoofed,
        Self::NotHere,
        Self::Unsolicited,
        Self::ForeignSource,
        Self::Nowhere,
        Self::Multicast,
        Self::Underlay,
    ];

    /// A word for it, for figures.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Stranger => "stranger",
            Self::Spoofed => "spoofed",
            Self::NotHere => "not_here",
            Self::Unsolicited => "unsolicited",
            Self::ForeignSource => "foreign_source",
            Self::Nowhere => "nowhere",
            Self::Multicast => "multicast",
            Self::Underlay => "underlay",
        }
    }
}

impl std::convert::From<Malformed> for Reason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The filter of one node.
#[derive(Debug)]
pub struct Filter {
    own: Ipv6Addr,
    rules: Vec<Rule>,
    by_node: HashMap<NodeId, (Ipv6Addr, Option<OwnerId>)>,
    by_address: HashMap<Ipv6Addr, NodeId>,
    pub(crate) routes: Table,
    underlay_ports: Vec<u16>,
    flows: Flows,
    /// Packets whose first fragment passed, and until when.
    fragments: HashMap<(Ipv6Addr, Ipv6Addr, u32), Instant>,
}

impl Filter {
    /// A filter for the node with this address, that knows nobody.
    #[must_use]
    pub fn new(own: PlanetaryAddress, rules: Vec<Rule>) -> Self {
        Self {
            own: own.ip(),
            rules,
            by_node: HashMap::new(),
            by_address: HashMap::new(),
            routes: Table::default(),
            underlay_ports: Vec::new(),
            flows: Flows::default(),
            fragments: HashMap::new(),
        }
    }

    /// Replaces the rules. What is under way goes on.
    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        self.rules = rules;
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Replaces the peers.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = PeerEntry>) {
        // An address is a hash: not made anew for those that stay.
        let before = std::mem::take(&mut self.by_node);
        for PeerEntry { node, owner } in peers {
            let address = before.get(&node).map_or_else(|| node.planetary_address().ip(), |(address, _)| *address);
            self.by_node.insert(node, (address, owner));
        }
        self.by_address = self.by_node.iter().map(|(node, (address, _))| (*address, *node)).collect();
    }

    /// Names the UDP ports of the connections that carry packets.
    pub fn set_underlay_ports(&mut self, ports: Vec<u16>) {
        self.underlay_ports = ports;
    }

    /// Conversations being followed.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Forgets what is over; to be called now and then.
    pub fn sweep(&mut self, now: Instant) {
        self.flows.sweep(now);
        self.fragments.retain(|_, until| now < *until);
    }

    /// Says where a packet goes that this node sends.
    ///
    /// # Errors
    ///
    /// [`Reason`].
    pub fn outbound(&mut self, now: Instant, bytes: &[u8]) -> Result<NodeId, Reason> {
        let packet = parse(bytes)?;
        if packet.destination.is_multicast() || packet.destination.is_unicast_link_local() {
            return Err(Reason::Multicast);
        }
        if PlanetaryAddress::from_ip(packet.destination).is_err() {
            return self.outbound_to_pods(&packet);
        }
        if packet.source != self.own {
            return Err(Reason::ForeignSource);
        }
        if matches!(packet.payload, Payload::Udp { from, .. } if self.underlay_ports.contains(&from)) {
            return Err(Reason::Underlay);
        }
        let node = *self.by_address.get(&packet.destination).ok_or(Reason::Nowhere)?;
        if let Some((key, flags)) = sent_key(&packet) {
            self.flows.sent(now, key, flags);
        }
        Ok(node)
    }

    fn outbound_to_pods(&self, packet: &Packet) -> Result<NodeId, Reason> {
        let Some(Place::At(node)) = self.routes.find(packet.destination) else { return Err(Reason::Nowhere) };
        let is_ours = self.routes.find(packet.source) == Some(Place::Here);
        if !is_ours || !same_network(packet.source, packet.destination) {
            return Err(Reason::ForeignSource);
        }
        Ok(node)
    }

    /// Says whether a packet passes that `from` sent to this node.
    ///
    /// # Errors
    ///
    /// [`Reason`].
    pub fn inbound(&mut self, now: Instant, from: NodeId, bytes: &[u8]) -> Result<(), Reason> {
        let (address, owner) = *self.by_node.get(&from).ok_or(Reason::Stranger)?;
        let packet = parse(bytes)?;
        if packet.destination != self.own {
            return self.inbound_to_pods(from, &packet);
        }
        if packet.source != address {
            return Err(Reason::Spoofed);
        }
        if let Some(fragment) = packet.fragment {
            return self.inbound_fragment(now, from, owner, &packet, fragment, bytes);
        }
        self.judge(now, from, owner, &packet, bytes)
    }

    fn inbound_to_pods(&self, from: NodeId, packet: &Packet) -> Result<(), Reason> {
        if self.routes.find(packet.destination) != Some(Place::Here) {
            return Err(Reason::NotHere);
        }
        let is_theirs = self.routes.find(packet.source) == Some(Place::At(from));
        if !is_theirs || !same_network(packet.source, packet.destination) {
            return Err(Reason::Spoofed);
        }
        Ok(())
    }

    /// The first fragment is judged, the others follow it. One that overtakes the first is lost, and sent again by who cares.
    fn inbound_fragment(
        &mut self,
        now: Instant,
        from: NodeId,
        owner: Option<OwnerId>,
        packet: &Packet,
        fragment: Fragment,
        bytes: &[u8],
    ) -> Result<(), Reason> {
        let key = (packet.source, packet.destination, fragment.id);
        if !fragment.first {
            let passed = self.fragments.get(&key).is_some_and(|until| now < *until);
            return if passed { Ok(()) } else { Err(Reason::Unsolicited) };
        }
        self.judge(now, from, owner, packet, bytes)?;
        if self.fragments.len() >= FRAGMENTED_MAX {
            self.fragments.retain(|_, until| now < *until);
        }
        if self.fragments.len() < FRAGMENTED_MAX {
            self.fragments.insert(key, now + FRAGMENTS_WITHIN);
        }
        Ok(())
    }

    fn judge(
        &mut self,
        now: Instant,
        from: NodeId,
        owner: Option<OwnerId>,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<(), Reason> {
        if matches!(packet.payload, Payload::Udp { to, .. } if self.underlay_ports.contains(&to)) {
            return Err(Reason::Underlay);
        }
        if let Payload::Error { about } = packet.payload {
            let quoted = parse_quoted(bytes.get(about..).unwrap_or_default())?;
            let is_ours = quoted.source == self.own && quoted.destination == packet.source;
            let known = sent_key(&quoted).is_some_and(|(key, _)| self.flows.has(now, key));
            return if is_ours && known { Ok(()) } else { Err(Reason::Unsolicited) };
        }
        let answers = received_key(packet).is_some_and(|(key, flags)| self.flows.answers(now, key, flags));
        let allowed = |rule: &Rule| names(rule, from, owner) && lets_in(rule, &packet.payload);
        if answers || self.rules.iter().any(allowed) { Ok(()) } else { Err(Reason::Unsolicited) }
    }
}

/// The conversation of a packet that leaves this node.
fn sent_key(packet: &Packet) -> Option<(Key, Option<crate::packet::TcpFlags>)> {
    let key = |protocol, ours, theirs| Key { protocol, remote: packet.destination, ours, theirs };
    match packet.payload {
        Payload::Tcp { from, to, flags } => Some((key(Protocol::Tcp, from, to), Some(flags))),
        Payload::Udp { from, to } => Some((key(Protocol::Udp, from, to), None)),
        Payload::EchoRequest { id } => Some((key(Protocol::Echo, id, 0), None)),
        _ => None,
    }
}

/// The conversation that a packet would be an answer in.
fn received_key(packet: &Packet) -> Option<(Key, Option<crate::packet::TcpFlags>)> {
    let key = |protocol, ours, theirs| Key { protocol, remote: packet.source, ours, theirs };
    match packet.payload {
        Payload::Tcp { from, to, flags } => Some((key(Protocol::Tcp, to, from), Some(flags))),
        Payload::Udp { from, to } => Some((key(Protocol::Udp, to, from), None)),
        Payload::EchoReply { id } => Some((key(Protocol::Echo, id, 0), None)),
        _ => None,
    }
}

pub(crate) fn names(rule: &Rule, node: NodeId, owner: Option<OwnerId>) -> bool {
    match rule.from {
        From::Peers => true,
        From::Owner(named) => owner == Some(named),
        From::Node(named) => node == named,
    }
}

pub(crate) fn lets_in(rule: &Rule, payload: &Payload) -> bool {
    match (rule.what, payload) {
        (
            What::Everything,
            Payload::Tcp { .. } | Payload::Udp { .. } | Payload::EchoRequest { .. } | Payload::Other { .. },
        )
        | (What::Icmp, Payload::EchoRequest { .. }) => true,
        (What::Tcp(ports), Payload::Tcp { to, .. }) | (What::Udp(ports), Payload::Udp { to, .. }) => {
            ports.contains(*to)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
