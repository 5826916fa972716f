//! With whom packets are exchanged, as the filter is told it, and the search for those who are neither peer nor acquaintance yet.
//!
//! An acquaintance gets what rules grant it and nothing else. Rules for `peers` are not about it; rules for its owner are, once it has shown that owner's signature.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::{NodeId, OwnerId, PlanetaryAddress};
use atoll_link::{Acquaintance, FindError, LinkHandle, Miss, Society};
use atoll_tun::{INTERFACE_MTU, PacketLink, PeerEntry, TunHandle};
use bytes::Bytes;

use crate::card::shown_owner;

/// Addresses looked for at once, and remembered as nobody's.
const SOUGHT_MAX: usize = 256;

/// Packets that wait for one node to be found: the first of a few programs.
const WAITING_MAX: usize = 16;

/// How long an address at which nobody was found is answered with "no route" without looking again.
const MISSED_FOR: Duration = Duration::from_secs(3);

/// The same where nobody could be asked, or too much was asked: that may change at any moment, as when the node joins.
const UNANSWERED_FOR: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Known {
    peers: Vec<PeerEntry>,
    acquaintances: BTreeMap<NodeId, Option<OwnerId>>,
}

/// Keeps the filter to who is known. Without an interface there is no filter.
pub(crate) struct Circle {
    filter: Option<TunHandle>,
    known: Mutex<Known>,
}

impl Circle {
    pub(crate) fn new(filter: Option<TunHandle>) -> Self {
        Self { filter, known: Mutex::default() }
    }

    /// Replaces the peers.
    pub(crate) fn set_peers(&self, peers: Vec<PeerEntry>) {
        self.change(|known| known.peers = peers);
    }

    /// The filter is told under the lock, so that what it is told last is what holds.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        if let Some(filter) = &self.filter {
            let acquaintances =
                known.acquaintances.iter().map(|(node, owner)| PeerEntry { node: *node, owner: *owner });
            filter.set_society(known.peers.iter().copied(), acquaintances);
        }
    }
}

impl Society for Circle {
    fn met(&self, who: &Acquaintance) {
        let owner = shown_owner(&who.credentials, who.node);
        self.change(|known| {
            known.acquaintances.insert(who.node, owner);
        });
    }

    fn parted(&self, node: &NodeId) {
        self.change(|known| {
            known.acquaintances.remove(node);
        });
    }
}

enum Sought {
    /// What waits for it.
    Looking(Vec<Bytes>),
    /// Nobody was found; until when that is believed.
    Missed(Instant),
}

/// Looks for the nodes that programs of this machine send to.
pub(crate) struct Seeker {
    link: LinkHandle,
    filter: TunHandle,
    sought: Mutex<HashMap<PlanetaryAddress, Sought>>,
}

impl Seeker {
    pub(crate) fn new(link: LinkHandle, filter: TunHandle) -> Arc<Self> {
        Arc::new(Self { link, filter, sought: Mutex::default() })
    }

    fn sought(&self) -> MutexGuard<'_, HashMap<PlanetaryAddress, Sought>> {
        self.sought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for whoever has an address. False if it was not found a moment ago, or too many are looked for. `carrier` gets the packet once there is where to.
    ///
    /// The filter's lock is held by whoever calls; it must not be asked anything here.
    pub(crate) fn seek(
        self: &Arc<Self>,
        carrier: &(impl PacketLink + Clone),
        address: PlanetaryAddress,
        packet: &[u8],
    ) -> bool {
        let mut sought = self.sought();
        let now = Instant::now();
        sought.retain(|_, sought| !matches!(sought, Sought::Missed(until) if *until <= now));
        let is_full = sought.len() >= SOUGHT_MAX;
        match sought.get_mut(&address) {
            Some(Sought::Looking(waiting)) => return keep(waiting, packet),
            Some(Sought::Missed(_)) => return false,
            None if is_full => return false,
            None => {}
        }
        let mut waiting = Vec::new();
        keep(&mut waiting, packet);
        sought.insert(address, Sought::Looking(waiting));
        drop(sought);
        let (seeker, carrier) = (self.clone(), carrier.clone());
        tokio::spawn(async move { seeker.find(&carrier, address).await });
        true
    }

    async fn find(&self, carrier: &impl PacketLink, address: PlanetaryAddress) {
        let found = self.link.get_acquainted(address).await;
        let waiting = match (self.sought().remove(&address), &found) {
            (Some(Sought::Looking(waiting)), Ok(_)) => waiting,
            _ => Vec::new(),
        };
        match found {
            Ok(_) => self.filter.send(carrier, waiting),
            Err(FindError::Closed) => {}
            Err(error) => {
                tracing::debug!(%address, %error, "nobody to send a packet to");
                let is_known = matches!(error, FindError::Missed(Miss::NoRecord) | FindError::Lately);
                let pause = if is_known { MISSED_FOR } else { UNANSWERED_FOR };
                self.sought().insert(address, Sought::Missed(Instant::now() + pause));
            }
        }
    }
}

/// Keeps a packet for later, if there is room and it is not one that was to be cut: what is lost is sent again.
fn keep(waiting: &mut Vec<Bytes>, packet: &[u8]) -> bool {
    if waiting.len() < WAITING_MAX && packet.len() <= usize::from(INTERFACE_MTU) {
        waiting.push(Bytes::copy_from_slice(packet));
    }
    true
}
