//! The packet filter between the TUN and other nodes: pure, stateful, closed.
//!
//! It says for each packet whether it passes, and where to. The clock is handed in; there is no I/O.
//!
//! # What comes in
//!
//! - The source address is that of the node which sent it, or in a prefix that is at that node. Addresses are hashes of keys and the connection
//!   is authenticated, so nobody speaks for another.
//! - The destination is this node, or in a prefix that is here.
//! - To this node: answers to what this node began, ICMPv6 errors about what was said, and what a [`Rule`](crate::Rule) allows. Nothing else. No neighbour
//!   discovery, router advertisement, redirect or multicast passes at all: there is no shared link behind the interface.
//! - To a pod network: what comes from the same network; what its members may do among themselves is for the network's own policy.
//!
//! # What goes out
//!
//! Everything that has our own address, or one of a prefix that is here, as its source, and whose destination is known; where the policy says that only what
//! is listed goes out, that and answers. Never the link's own packets: a connection must not run through itself.
//!
//! # What ends
//!
//! A conversation lives by what it was begun under, looked at anew for each packet: when the rule is taken away or runs out, it stops in both directions. What our
//! side goes on saying in it opens nothing.
//!
//! Decisions (`judge`) change nothing; what they bring about is carried out afterwards. That is why an explanation is the decision itself.

mod judge;

pub(crate) use judge::EPHEMERAL_FIRST;

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::Instant;

use atoll_ids::{NodeId, OwnerId, PlanetaryAddress};
use jiff::Timestamp;

use crate::explain::{Cause, Explanation, Miss, Probe};
use crate::flow::{Flows, Opener, PEERS_MAX, PeerIndex};
use crate::fragments::Fragments;
use crate::packet::Malformed;
use crate::routes::Table;
use crate::rule::{Direction, Policy, RULES_MAX, Rule};
use crate::spans::{Line, Spans, Topic};
use crate::standing::Standing;
use judge::{Decision, Effect};

/// A clock that was set by this much or more changes when rules end. Less is what clocks differ by anyway.
const CLOCK_MOVED_SECONDS: u64 = 1;

/// A node with which packets are exchanged.
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
    /// It belongs to a conversation whose rule was taken away or ran out.
    Revoked,
    /// It was on its way out, only what is listed goes out, and no rule lists it.
    NotListed,
    /// It is a piece of a packet that lies over the one that was judged.
    Overlapping,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Stranger,
        Self::Spoofed,
        Self::NotHere,
        Self::Unsolicited,
        Self::ForeignSource,
        Self::Nowhere,
        Self::Multicast,
        Self::Underlay,
        Self::Revoked,
        Self::NotListed,
        Self::Overlapping,
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
            Self::Revoked => "revoked",
            Self::NotListed => "not_listed",
            Self::Overlapping => "overlapping",
        }
    }
}

impl From<Malformed> for Reason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What time it is by both clocks: rules end by the one on the wall, packets are judged by the one that is never set.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// By the one that is never set.
    pub instant: Instant,
    /// By the one on the wall.
    pub wall: Timestamp,
}

impl Clock {
    /// Reads both.
    #[must_use]
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: Timestamp::now() }
    }
}

/// A peer and what the rules come to for it.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    address: Ipv6Addr,
    owner: Option<OwnerId>,
    /// Whether it is more than an acquaintance.
    is_peer: bool,
    /// The [`Filter::epoch`] that the spans are of.
    epoch: u64,
    inward: Spans,
    outward: Spans,
    arriving: Fragments,
    leaving: Fragments,
}

/// The filter of one node.
#[derive(Debug)]
pub struct Filter {
    own: Ipv6Addr,
    policy: Policy,
    /// Rules with an end hold only once the clock is known.
    clock: Option<Clock>,
    /// Counts up when the rules, or when they end, change.
    epoch: u64,
    peers: Vec<Option<Peer>>,
    by_node: HashMap<NodeId, PeerIndex>,
    by_address: HashMap<Ipv6Addr, PeerIndex>,
    /// Packets come in runs: who sent, and who was sent to, last.
    last_sender: Option<(NodeId, PeerIndex)>,
    last_receiver: Option<(Ipv6Addr, PeerIndex)>,
    pub(crate) routes: Table,
    underlay_ports: Vec<u16>,
    flows: Flows,
    standing: Standing,
}

impl Filter {
    /// A filter for the node with this address, that knows nobody. Rules that have an end do not hold until the [clock](Self::set_clock) is set.
    #[must_use]
    pub fn new(own: PlanetaryAddress, policy: impl Into<Policy>) -> Self {
        Self {
            own: own.ip(),
            policy: policy.into(),
            clock: None,
            epoch: 1,
            peers: Vec::new(),
            by_node: HashMap::new(),
            by_address: HashMap::new(),
            last_sender: None,
            last_receiver: None,
            routes: Table::default(),
            underlay_ports: Vec::new(),
            flows: Flows::default(),
            standing: Standing::default(),
        }
    }

    /// Replaces the rules. What is under way goes on as far as the new ones allow it.
    pub fn set_policy(&mut self, policy: impl Into<Policy>) {
        self.policy = policy.into();
        self.epoch += 1;
    }

    /// Replaces the rules and leaves what else the policy says. See [`Self::set_policy`].
    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        self.policy.rules = rules;
        self.epoch += 1;
    }

    /// Says what time it is; to be called now and then, as clocks are set and machines sleep.
    pub fn set_clock(&mut self, clock: Clock) {
        let moved = self.clock.is_none_or(|before| {
            let passed = clock.instant.saturating_duration_since(before.instant);
            let by_wall = clock.wall.duration_since(before.wall);
            (by_wall - jiff::SignedDuration::try_from(passed).unwrap_or_default()).unsigned_abs().as_secs()
                >= CLOCK_MOVED_SECONDS
        });
        if moved {
            self.clock = Some(clock);
            self.epoch += 1;
        }
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.policy.rules
    }

    /// Replaces the peers; there are no acquaintances then. See [`Self::set_society`].
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = PeerEntry>) {
        self.set_society(peers, []);
    }

    /// Replaces everybody with whom packets are exchanged: peers, and acquaintances, whom a rule for `peers` does not concern. Who is both is a peer. Conversations with those that are
    /// none of it any more end.
    pub fn set_society(
        &mut self,
        peers: impl IntoIterator<Item = PeerEntry>,
        acquaintances: impl IntoIterator<Item = PeerEntry>,
    ) {
        (self.last_sender, self.last_receiver) = (None, None);
        let mut gone = std::mem::take(&mut self.by_node);
        let mut new = Vec::new();
        let peers = peers.into_iter().map(|entry| (entry, true));
        let all = peers.chain(acquaintances.into_iter().map(|entry| (entry, false)));
        for (entry, is_peer) in all.take(PEERS_MAX) {
            match gone.remove(&entry.node) {
                // An address is a hash: not made anew for those that stay.
                Some(index) => {
                    self.by_node.insert(entry.node, index);
                    let changed = |peer: &&mut Peer| (peer.owner, peer.is_peer) != (entry.owner, is_peer);
                    if let Some(peer) = self.peers[index as usize].as_mut().filter(changed) {
                        (peer.owner, peer.is_peer, peer.epoch) = (entry.owner, is_peer, 0);
                    }
                }
                None => new.push((entry, is_peer)),
            }
        }
        let mut free: Vec<PeerIndex> = Vec::new();
        for index in gone.into_values() {
            self.flows.forget(index);
            if let Some(peer) = self.peers[index as usize].take() {
                self.by_address.remove(&peer.address);
            }
        }
        if !new.is_empty() {
            let empty = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_none());
            free.extend(empty.map(|(index, _)| index as PeerIndex));
        }
        for (entry, is_peer) in new {
            if !self.by_node.contains_key(&entry.node) {
                self.add_peer(entry, is_peer, free.pop());
            }
        }
    }

    fn add_peer(&mut self, PeerEntry { node, owner }: PeerEntry, is_peer: bool, index: Option<PeerIndex>) {
        let index = index.unwrap_or_else(|| {
            self.peers.push(None);
            (self.peers.len() - 1) as PeerIndex
        });
        let address = node.planetary_address().ip();
        self.by_node.insert(node, index);
        self.by_address.insert(address, index);
        self.peers[index as usize] = Some(Peer {
            node,
            address,
            owner,
            is_peer,
            epoch: 0,
            inward: Spans::default(),
            outward: Spans::default(),
            arriving: Fragments::default(),
            leaving: Fragments::default(),
        });
    }

    /// These conversations stand from before.
    pub(crate) fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
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
        self.standing.sweep(now);
        for peer in self.peers.iter_mut().flatten() {
            peer.arriving.sweep(now);
            peer.leaving.sweep(now);
        }
    }

    /// Says where a packet goes that this node sends.
    ///
    /// # Errors
    ///
    /// [`Reason`].
    pub fn outbound(&mut self, now: Instant, bytes: &[u8]) -> Result<NodeId, Reason> {
        let (node, decision) = self.judge_outbound(now, bytes)?;
        self.carry_out(now, &decision, Opener::Us);
        decision.verdict.map(|_| node)
    }

    /// Says whether a packet passes that `from` sent to this node.
    ///
    /// # Errors
    ///
    /// [`Reason`].
    pub fn inbound(&mut self, now: Instant, from: NodeId, bytes: &[u8]) -> Result<(), Reason> {
        let decision = self.judge_inbound(now, from, bytes)?;
        self.carry_out(now, &decision, Opener::Them);
        decision.verdict.map(drop)
    }

    fn carry_out(&mut self, now: Instant, decision: &Decision, by: Opener) {
        match decision.effect {
            Effect::Nothing => {}
            Effect::GoesOn(found, flags) => self.flows.goes_on(now, found, by, flags),
            Effect::StillTries(found) => self.flows.still_tries(now, found),
            Effect::Begins(key, opener) => {
                self.flows.begin(now, key, opener);
                if let Some(peer) = &self.peers[key.peer() as usize] {
                    self.standing.take(key.ours(), peer.address, key.theirs());
                }
            }
        }
        let Some((peer, fragment)) = decision.fragment.filter(|_| decision.verdict.is_ok()) else { return };
        let Some(peer) = &mut self.peers[peer as usize] else { return };
        let fragments = if by == Opener::Us { &mut peer.leaving } else { &mut peer.arriving };
        if fragment.first {
            fragments.begin(now, fragment);
        } else {
            fragments.goes_on(fragment);
        }
    }

    /// Says what [`Self::inbound`] would say now and why; nothing comes of it.
    #[must_use]
    pub fn explain_inbound(&mut self, now: Instant, from: NodeId, bytes: &[u8]) -> Explanation {
        let verdict = self.judge_inbound(now, from, bytes).and_then(|decision| decision.verdict);
        let topic = crate::packet::parse(bytes).ok().and_then(|packet| judge::topic(&packet.payload));
        self.explain(now, verdict, Direction::In, from, topic)
    }

    /// Says what [`Self::outbound`] would say now and why; nothing comes of it.
    #[must_use]
    pub fn explain_outbound(&mut self, now: Instant, bytes: &[u8]) -> Explanation {
        let judged = self.judge_outbound(now, bytes);
        let (node, verdict) = match judged {
            Ok((node, decision)) => (node, decision.verdict),
            Err(reason) => return Explanation { verdict: Err(reason), looked_at: Vec::new() },
        };
        let topic = crate::packet::parse(bytes).ok().and_then(|packet| judge::topic(&packet.payload));
        self.explain(now, verdict, Direction::Out, node, topic)
    }

    /// Says whether `node` could begin this with us, or we with it.
    #[must_use]
    pub fn check(&mut self, now: Instant, direction: Direction, node: NodeId, probe: Probe) -> Explanation {
        let theirs = node.planetary_address().ip();
        match direction {
            Direction::In => self.explain_inbound(now, node, &probe.packet(theirs, self.own)),
            Direction::Out => self.explain_outbound(now, &probe.packet(self.own, theirs)),
        }
    }

    fn explain(
        &self,
        now: Instant,
        verdict: Result<Cause, Reason>,
        direction: Direction,
        node: NodeId,
        topic: Option<Topic>,
    ) -> Explanation {
        let by_rules = matches!(verdict, Err(Reason::Unsolicited | Reason::Revoked | Reason::NotListed));
        let peer = self.by_node.get(&node).and_then(|index| self.peers[*index as usize].as_ref());
        let (owner, is_peer) = peer.map_or((None, true), |peer| (peer.owner, peer.is_peer));
        let miss = |rule: &Rule| match topic {
            _ if rule.direction != direction => Miss::Direction,
            _ if !self.policy.concerns(&rule.who, node, owner, is_peer) => Miss::Who,
            Some(topic) if rule.what.covers(topic) && !self.end(rule).is_over(now) => Miss::Other,
            Some(topic) if rule.what.covers(topic) => Miss::Over,
            _ => Miss::What,
        };
        let rules = self.policy.rules.iter().take(if by_rules { RULES_MAX } else { 0 });
        Explanation { verdict, looked_at: rules.map(miss).enumerate().collect() }
    }

    fn end(&self, rule: &Rule) -> End {
        let (Some(until), clock) = (rule.until, self.clock) else { return End::Never };
        let Some(clock) = clock else { return End::Over };
        match std::time::Duration::try_from(until.duration_since(clock.wall)) {
            // So far away that it cannot be counted.
            Ok(left) => clock.instant.checked_add(left).map_or(End::Never, End::At),
            Err(_) => End::Over,
        }
    }

    /// What the rules come to for a peer, made anew when something changed.
    fn compile(&mut self, index: PeerIndex) {
        let Some(peer) = &self.peers[index as usize] else { return };
        if peer.epoch == self.epoch {
            return;
        }
        let (mut inward, mut outward) = (Vec::new(), Vec::new());
        for (at, rule) in self.policy.rules.iter().enumerate().take(RULES_MAX) {
            let until = match self.end(rule) {
                End::Over => continue,
                End::At(until) => Some(until),
                End::Never => None,
            };
            if self.policy.concerns(&rule.who, peer.node, peer.owner, peer.is_peer) {
                let lines = if rule.direction == Direction::In { &mut inward } else { &mut outward };
                lines.push(Line { rule: at as u32, what: rule.what, until });
            }
        }
        let epoch = self.epoch;
        if let Some(peer) = &mut self.peers[index as usize] {
            (peer.inward, peer.outward, peer.epoch) = (Spans::new(&inward), Spans::new(&outward), epoch);
        }
    }
}

/// When a rule ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Never,
    At(Instant),
    Over,
}

impl End {
    fn is_over(self, now: Instant) -> bool {
        match self {
            Self::Never => false,
            Self::At(until) => now >= until,
            Self::Over => true,
        }
    }
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;
