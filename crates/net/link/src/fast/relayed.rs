//! Sealed packets that go by relays: the same packets, in parcels of `atoll/relay/1`. A relay sees who sends how much to whom, and can drop them; it cannot open, forge or repeat
//! them, as they are sealed under keys of the two ends with a counter.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use atoll_fast::{Header, Way, finish_checksum};
use atoll_ids::NodeId;
use bytes::Bytes;

use super::{FastPaths, Session, Taken};
use crate::node::Node;

impl FastPaths {
    /// When something genuine of a peer came last.
    pub(super) fn heard(&self, peer: &NodeId) -> Option<Instant> {
        let sessions = self.by_index.read().unwrap_or_else(PoisonError::into_inner);
        sessions.values().filter(|session| session.peer == *peer).filter_map(|session| session.heard()).max()
    }

    /// Whether a path that began later does the same.
    pub(super) fn has_newer(&self, session: &Session) -> bool {
        let sessions = self.by_index.read().unwrap_or_else(PoisonError::into_inner);
        let same = |other: &Session| other.peer == session.peer && other.side == session.side;
        sessions.values().any(|other| same(other) && other.began > session.began)
    }

    /// Opens what a relay brought of a peer. Gives a packet, if it is one.
    fn open_relayed(&self, from: NodeId, sealed: &[u8]) -> Option<Bytes> {
        let header = Header::read(sealed);
        let session = header.as_ref().and_then(|header| self.of_index(header.index));
        let (Some(header), Some(session)) = (header, session.filter(|session| session.peer == from)) else {
            self.counts.stray.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let mut sealed = sealed.to_vec();
        let mut receiving = session.receiving();
        let now = Instant::now();
        let (kind, text) = match receiving.opener.open(now, &mut sealed) {
            Ok((kind, text)) => (kind, text),
            Err(error) => {
                self.refuse(error);
                return None;
            }
        };
        receiving.heard = Some(now);
        let taken = self.take(&mut receiving.halves, kind, header.epoch, text, None);
        drop(receiving);
        let packet = match taken {
            Taken::Nothing => return None,
            Taken::Said(said) => {
                self.answer(&session, &said, Way::Relayed, None);
                return None;
            }
            Taken::Joined(packet) => packet,
            Taken::Packet { begun } => {
                if begun {
                    finish_checksum(text);
                }
                Bytes::copy_from_slice(text)
            }
        };
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        session.meter.received(packet.len());
        Some(packet)
    }
}

impl Node {
    /// Takes in what a relay brought of a peer.
    pub(crate) fn take_sealed(&self, from: NodeId, sealed: &[u8]) {
        if let Some(packet) = self.fast.open_relayed(from, sealed) {
            self.packets.take_in(from, packet);
        }
    }
}
