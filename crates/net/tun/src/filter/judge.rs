//! What becomes of a packet, decided without changing anything.

use std::time::Instant;

use atoll_ids::{NodeId, PlanetaryAddress};

use super::{Filter, Peer, Reason};
use crate::explain::Cause;
use crate::flow::{Found, Key, Opener, PeerIndex, Protocol};
use crate::fragments::Piece;
use crate::packet::{Fragment, Packet, Payload, TcpFlags, parse, parse_quoted};
use crate::routes::{Place, same_network};
use crate::rule::Out;
use crate::spans::Topic;

/// Where the ports begin that programs get which do not ask for one (Linux: `net.ipv4.ip_local_port_range`). Of a connection that is found under way, as after a
/// restart of the node, the side with such a port is who opened it.
pub(crate) const EPHEMERAL_FIRST: u16 = 32_768;

/// What a packet brings about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    Nothing,
    GoesOn(Found, Option<TcpFlags>),
    StillTries(Found),
    Begins(Key, Opener),
}

/// A decision that may have effects, also where it is a refusal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    pub(super) verdict: Result<Cause, Reason>,
    pub(super) effect: Effect,
    /// The piece of a packet that it is, for the pieces that follow.
    pub(super) fragment: Option<(PeerIndex, Fragment)>,
}

impl Decision {
    fn passes(cause: Cause, effect: Effect) -> Self {
        Self { verdict: Ok(cause), effect, fragment: None }
    }
}

type Judged = Result<Decision, Reason>;

/// The topic that a packet would be allowed under, whichever way it goes. Answers have none.
pub(super) fn topic(payload: &Payload) -> Option<Topic> {
    match *payload {
        Payload::Tcp { to, .. } => Some(Topic::Tcp(to)),
        Payload::Udp { to, .. } => Some(Topic::Udp(to)),
        Payload::EchoRequest { .. } => Some(Topic::Echo),
        Payload::Other { .. } => Some(Topic::Other),
        _ => None,
    }
}

/// The conversation of a packet that leaves this node.
fn sent_key(peer: PeerIndex, payload: &Payload) -> Option<(Key, Option<TcpFlags>)> {
    match *payload {
        Payload::Tcp { from, to, flags } => Some((Key::new(Protocol::Tcp, peer, from, to), Some(flags))),
        Payload::Udp { from, to } => Some((Key::new(Protocol::Udp, peer, from, to), None)),
        Payload::EchoRequest { id } => Some((Key::new(Protocol::Echo, peer, id, 0), None)),
        _ => None,
    }
}

/// The conversation that a packet would be part of that arrived.
fn received_key(peer: PeerIndex, payload: &Payload) -> Option<(Key, Option<TcpFlags>)> {
    match *payload {
        Payload::Tcp { from, to, flags } => Some((Key::new(Protocol::Tcp, peer, to, from), Some(flags))),
        Payload::Udp { from, to } => Some((Key::new(Protocol::Udp, peer, to, from), None)),
        Payload::EchoReply { id } => Some((Key::new(Protocol::Echo, peer, id, 0), None)),
        _ => None,
    }
}

fn opens(flags: Option<TcpFlags>) -> bool {
    flags.is_some_and(|flags| flags.opens)
}

fn resets(flags: Option<TcpFlags>) -> bool {
    flags.is_some_and(|flags| flags.resets)
}

impl Filter {
    fn peer(&self, index: PeerIndex) -> Result<&Peer, Reason> {
        self.peers[index as usize].as_ref().ok_or(Reason::Stranger)
    }

    /// The rule by which this peer may begin with our port that this conversation has.
    fn admitted(&self, now: Instant, peer: &Peer, key: Key) -> Option<u32> {
        match key.protocol() {
            Protocol::Tcp => peer.inward.find(now, Topic::Tcp(key.ours())),
            Protocol::Udp => peer.inward.find(now, Topic::Udp(key.ours())),
            Protocol::Echo => None,
        }
    }

    /// Why we may begin this with a peer, if we may.
    fn permitted(&self, now: Instant, peer: &Peer, topic: Topic) -> Option<Cause> {
        match self.policy.out {
            Out::All => Some(Cause::Unrestricted),
            Out::Listed => peer.outward.find(now, topic).map(|rule| Cause::Rule(rule as usize)),
        }
    }

    fn permitted_key(&self, now: Instant, peer: &Peer, key: Key) -> Option<Cause> {
        let topic = match key.protocol() {
            Protocol::Tcp => Topic::Tcp(key.theirs()),
            Protocol::Udp => Topic::Udp(key.theirs()),
            Protocol::Echo => Topic::Echo,
        };
        self.permitted(now, peer, topic)
    }

    /// Whether a conversation still may be.
    fn lives(&self, now: Instant, peer: &Peer, key: Key, found: Found) -> bool {
        match found.opener {
            Opener::Us => self.permitted_key(now, peer, key).is_some(),
            Opener::Them => self.admitted(now, peer, key).is_some(),
        }
    }

    pub(super) fn judge_inbound(&mut self, now: Instant, from: NodeId, bytes: &[u8]) -> Judged {
        let index = match self.last_sender {
            Some((node, index)) if node == from => index,
            _ => {
                let index = *self.by_node.get(&from).ok_or(Reason::Stranger)?;
                self.last_sender = Some((from, index));
                index
            }
        };
        self.compile(index);
        let packet = parse(bytes)?;
        if packet.destination != self.own {
            self.inbound_to_pods(from, &packet)?;
            return Ok(Decision::passes(Cause::Pods, Effect::Nothing));
        }
        let peer = self.peer(index)?;
        if packet.source != peer.address {
            return Err(Reason::Spoofed);
        }
        match packet.fragment {
            Some(fragment) if !fragment.first => match peer.arriving.judge(now, fragment) {
                Piece::Follows => Ok(piece(index, fragment)),
                Piece::Overtakes => Err(Reason::Unsolicited),
                Piece::Overlaps => Err(Reason::Overlapping),
            },
            fragment => {
                let decision = self.hear(now, (index, peer), &packet, bytes)?;
                Ok(Decision { fragment: fragment.map(|fragment| (index, fragment)), ..decision })
            }
        }
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

    /// A packet of a peer to us.
    fn hear(&self, now: Instant, (index, peer): (PeerIndex, &Peer), packet: &Packet, bytes: &[u8]) -> Judged {
        if matches!(packet.payload, Payload::Udp { to, .. } if self.underlay_ports.contains(&to)) {
            return Err(Reason::Underlay);
        }
        if let Payload::Error { about } = packet.payload {
            return self.hear_error(now, (index, peer), packet, bytes.get(about..).unwrap_or_default());
        }
        let said = received_key(index, &packet.payload);
        let found = said.and_then(|(key, flags)| Some((self.flows.find(now, key)?, key, flags)));
        if let Some((found, key, flags)) = found {
            // Nobody answers by opening; two that open to each other from the same ports at the same time are for a rule to allow.
            let answers = found.opener == Opener::Us && !opens(flags);
            if answers && self.permitted_key(now, peer, key).is_some() {
                return Ok(Decision::passes(Cause::Answer, Effect::GoesOn(found, flags)));
            }
        }
        let rule = topic(&packet.payload).and_then(|topic| peer.inward.find(now, topic));
        let Some(rule) = rule else {
            if let (None, Some((key, flags))) = (found, said)
                && self.stands(now, peer, key, flags)
            {
                return Ok(Decision::passes(Cause::Answer, Effect::Begins(key, Opener::Us)));
            }
            let ended = found.is_some_and(|(.., flags)| !opens(flags));
            return Err(if ended { Reason::Revoked } else { Reason::Unsolicited });
        };
        let effect = match (found, said) {
            (Some((found, _, flags)), _) if found.opener == Opener::Them => Effect::GoesOn(found, flags),
            (None, Some((key, flags))) if !resets(flags) => Effect::Begins(key, Opener::Them),
            _ => Effect::Nothing,
        };
        Ok(Decision::passes(Cause::Rule(rule as usize), effect))
    }

    /// Whether this is of a conversation that we began before this filter was there, and might begin now.
    fn stands(&self, now: Instant, peer: &Peer, key: Key, flags: Option<TcpFlags>) -> bool {
        key.protocol() == Protocol::Tcp
            && flags.is_some_and(|flags| !flags.opens && !flags.resets)
            && self.standing.has(key.ours(), peer.address, key.theirs())
            && self.permitted_key(now, peer, key).is_some()
    }

    /// An error that a peer sent about the packet that is quoted.
    fn hear_error(&self, now: Instant, (index, peer): (PeerIndex, &Peer), packet: &Packet, quoted: &[u8]) -> Judged {
        let quoted = parse_quoted(quoted)?;
        let is_ours = quoted.source == self.own && quoted.destination == packet.source;
        let said = sent_key(index, &quoted.payload).filter(|_| is_ours);
        let known = said
            .is_some_and(|(key, _)| self.flows.find(now, key).is_some_and(|found| self.lives(now, peer, key, found)));
        if known { Ok(Decision::passes(Cause::AboutAnswer, Effect::Nothing)) } else { Err(Reason::Unsolicited) }
    }

    pub(super) fn judge_outbound(&mut self, now: Instant, bytes: &[u8]) -> Result<(NodeId, Decision), Reason> {
        let packet = parse(bytes)?;
        if packet.destination.is_multicast() || packet.destination.is_unicast_link_local() {
            return Err(Reason::Multicast);
        }
        let index = match self.last_receiver {
            Some((address, index)) if address == packet.destination => index,
            _ => {
                if PlanetaryAddress::from_ip(packet.destination).is_err() {
                    let node = self.outbound_to_pods(&packet)?;
                    return Ok((node, Decision::passes(Cause::Pods, Effect::Nothing)));
                }
                if packet.source != self.own {
                    return Err(Reason::ForeignSource);
                }
                let index = *self.by_address.get(&packet.destination).ok_or(Reason::Nowhere)?;
                self.last_receiver = Some((packet.destination, index));
                index
            }
        };
        if packet.source != self.own {
            return Err(Reason::ForeignSource);
        }
        if matches!(packet.payload, Payload::Udp { from, .. } if self.underlay_ports.contains(&from)) {
            return Err(Reason::Underlay);
        }
        self.compile(index);
        let peer = self.peer(index)?;
        let decision = match packet.fragment {
            Some(fragment) if !fragment.first => match (self.policy.out, peer.leaving.judge(now, fragment)) {
                (Out::All, _) => Decision::passes(Cause::Unrestricted, Effect::Nothing),
                (_, Piece::Follows) => piece(index, fragment),
                (_, Piece::Overtakes) => return Err(Reason::NotListed),
                (_, Piece::Overlaps) => return Err(Reason::Overlapping),
            },
            fragment => {
                let decision = self.say(now, (index, peer), &packet, bytes)?;
                Decision { fragment: fragment.map(|fragment| (index, fragment)), ..decision }
            }
        };
        Ok((peer.node, decision))
    }

    fn outbound_to_pods(&self, packet: &Packet) -> Result<NodeId, Reason> {
        let Some(Place::At(node)) = self.routes.find(packet.destination) else { return Err(Reason::Nowhere) };
        let is_ours = self.routes.find(packet.source) == Some(Place::Here);
        if !is_ours || !same_network(packet.source, packet.destination) {
            return Err(Reason::ForeignSource);
        }
        Ok(node)
    }

    /// A packet of ours to a peer.
    fn say(&self, now: Instant, (index, peer): (PeerIndex, &Peer), packet: &Packet, bytes: &[u8]) -> Judged {
        if let Some((key, flags)) = sent_key(index, &packet.payload) {
            return self.talk(now, peer, key, flags);
        }
        let cause = match packet.payload {
            _ if self.policy.out == Out::All => Some(Cause::Unrestricted),
            Payload::EchoReply { .. } => peer.inward.find(now, Topic::Echo).map(|_| Cause::Answer),
            Payload::Error { about } => {
                let quoted = parse_quoted(bytes.get(about..).unwrap_or_default())?;
                let is_theirs = quoted.source == packet.destination && quoted.destination == self.own;
                let said = received_key(index, &quoted.payload).filter(|_| is_theirs);
                let known = said.is_some_and(|(key, _)| {
                    self.flows.find(now, key).is_some_and(|found| self.lives(now, peer, key, found))
                });
                known.then_some(Cause::AboutAnswer)
            }
            // It cannot be told whether it is an answer; who may send it may be answered.
            Payload::Other { .. } => self
                .permitted(now, peer, Topic::Other)
                .or_else(|| peer.inward.find(now, Topic::Other).map(|_| Cause::Answer)),
            _ => None,
        };
        cause.map(|cause| Decision::passes(cause, Effect::Nothing)).ok_or(Reason::NotListed)
    }

    /// What we say in a conversation, or to begin one.
    fn talk(&self, now: Instant, peer: &Peer, key: Key, flags: Option<TcpFlags>) -> Judged {
        let permitted = self.permitted_key(now, peer, key);
        let Some(found) = self.flows.find(now, key) else { return self.begin(now, peer, key, flags) };
        if found.opener == Opener::Us || opens(flags) {
            let effect = match found.opener {
                Opener::Us => Effect::GoesOn(found, flags),
                Opener::Them => Effect::Begins(key, Opener::Us),
            };
            return match permitted {
                Some(cause) => Ok(Decision::passes(cause, effect)),
                None if resets(flags) => Ok(Decision::passes(Cause::Answer, Effect::Nothing)),
                None if opens(flags) => Err(Reason::NotListed),
                None => Err(Reason::Revoked),
            };
        }
        if self.admitted(now, peer, key).is_some() {
            return Ok(Decision::passes(Cause::Answer, Effect::GoesOn(found, flags)));
        }
        if resets(flags) {
            // It tells the other side that it is over.
            return Ok(Decision::passes(Cause::Answer, Effect::Nothing));
        }
        // TCP repeats itself for a long time, and cannot begin anew without saying so. UDP can: after a while of silence what we send is ours.
        let effect = if flags.is_some() { Effect::StillTries(found) } else { Effect::Nothing };
        Ok(Decision { verdict: Err(Reason::Revoked), effect, fragment: None })
    }

    /// What we say where no conversation is known.
    fn begin(&self, now: Instant, peer: &Peer, key: Key, flags: Option<TcpFlags>) -> Judged {
        let permitted = self.permitted_key(now, peer, key);
        let admitted = self.admitted(now, peer, key).is_some();
        let is_under_way = flags.is_some_and(|flags| !flags.opens);
        let is_ours = key.ours() >= EPHEMERAL_FIRST;
        let opener = match key.protocol() {
            // It ends a conversation, or says that there is none.
            _ if resets(flags) => None,
            Protocol::Tcp if is_under_way && admitted => Some(Opener::Them),
            Protocol::Tcp if is_under_way => (is_ours && permitted.is_some()).then_some(Opener::Us),
            Protocol::Udp if admitted && !is_ours && self.policy.out == Out::All => Some(Opener::Them),
            _ => Some(Opener::Us),
        };
        let may_answer = is_under_way && admitted;
        let cause = permitted.or(may_answer.then_some(Cause::Answer)).ok_or(Reason::NotListed)?;
        let effect = opener.map_or(Effect::Nothing, |opener| Effect::Begins(key, opener));
        Ok(Decision::passes(cause, effect))
    }
}

fn piece(peer: PeerIndex, fragment: Fragment) -> Decision {
    Decision { fragment: Some((peer, fragment)), ..Decision::passes(Cause::Piece, Effect::Nothing) }
}
