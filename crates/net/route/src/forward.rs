//! Where a packet goes next, by what stands in its [`Header`]. A packet goes towards the landmark of its destination, from there by labels, and from the first
//! node on that knows the destination itself directly; never back. In each of the three it cannot loop: the first and the last follow feasible
//! routes, labels are used up.

use atoll_ids::NodeId;
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};

use crate::beacon::Sealed;
use crate::message::{HOPS_MAX, Port};
use crate::router::Router;

/// Where a node is, as seen by all: a landmark near it, and the ports from there. Its owner signs it into the record that others look up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The landmark.
    pub landmark: NodeId,
    /// The port to take at each hop, from the landmark on.
    pub path: Vec<Port>,
}

/// How far a packet is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// On its way to the landmark of this address.
    Landmark(Address),
    /// On its way by ports, of which these are left.
    Labels(Vec<Port>),
    /// Everybody on its way knows the destination.
    Direct,
}

/// What stands before a packet that is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The destination.
    pub to: NodeId,
    /// How far it is.
    pub phase: Phase,
    /// How many more hops it may take.
    pub hops: u8,
}

impl Versioned for Header {
    const VERSION: u16 = 1;
    const NAME: &'static str = "header of a forwarded packet";
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It has arrived.
    Here,
    /// Give it to this neighbour, with this header.
    Next(NodeId, Header),
    /// It goes no further.
    Drop(Lost),
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It has made as many hops as it may.
    #[error("too many hops")]
    TooFar,
    /// No route from here to the destination or its landmark.
    #[error("no route from here")]
    NoRoute,
    /// The address is of a time when this node had another neighbour.
    #[error("the address leads to a neighbour that is not there")]
    BadLabel,
}

impl<B: Sealed> Router<B> {
    /// The header of a packet to a node: with its address if there is no route to itself. `None` without either: look its address up.
    pub fn header(&self, to: NodeId, address: Option<&Address>) -> Option<Header> {
        let phase = if to == self.me() || self.next_hop(&to).is_some() {
            Phase::Direct
        } else {
            Phase::Landmark(address?.clone())
        };
        Some(Header { to, phase, hops: HOPS_MAX as u8 })
    }

    /// Where a packet with this header goes.
    pub fn forward(&self, header: Header) -> Hop {
        let Header { to, phase, hops } = header;
        if to == self.me() {
            return Hop::Here;
        }
        let Some(hops) = hops.checked_sub(1) else { return Hop::Drop(Lost::TooFar) };
        if let Some(next) = self.next_hop(&to) {
            return Hop::Next(next, Header { to, phase: Phase::Direct, hops });
        }
        match phase {
            Phase::Direct => Hop::Drop(Lost::NoRoute),
            Phase::Labels(path) => self.by_label(to, &path, hops),
            Phase::Landmark(address) if address.landmark == self.me() => self.by_label(to, &address.path, hops),
            Phase::Landmark(address) => match self.next_hop(&address.landmark) {
                Some(next) => Hop::Next(next, Header { to, phase: Phase::Landmark(address), hops }),
                None => Hop::Drop(Lost::NoRoute),
            },
        }
    }

    fn by_label(&self, to: NodeId, path: &[Port], hops: u8) -> Hop {
        // Longer than any that was announced: made up, to make everybody copy it.
        let usable = Some(path).filter(|path| path.len() <= HOPS_MAX).and_then(<[Port]>::split_first);
        let Some((port, rest)) = usable else { return Hop::Drop(Lost::BadLabel) };
        match self.neighbour_at(*port) {
            Some(next) => Hop::Next(next, Header { to, phase: Phase::Labels(rest.to_vec()), hops }),
            None => Hop::Drop(Lost::BadLabel),
        }
    }
}
