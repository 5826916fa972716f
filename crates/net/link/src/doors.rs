//! Places for handshakes with whom is not known yet, given out so that nobody gets all of them.
//!
//! A handshake that somebody begins and does not go on with holds a place until its time is over, and costs whoever begins it one packet. So there are three limits besides the
//! number of places: a network gets a part of them; the last are for networks where peers are known to be; and once some are taken, whoever comes over UDP
//! has to show first that it is where its packets say ([`Doors::are_busy`]). That is free for us: nothing is kept of who was asked to show it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places. A handshake costs about a millisecond of CPU and tens of KiB; beyond this newcomers are turned away before they cost anything.
const PLACES: usize = 128;

/// Places for one network: many nodes behind one router may come at once, and there are others.
const PLACES_PER_NETWORK: usize = 32;

/// Places that are only for networks where peers are known to be.
const PLACES_KEPT: usize = 32;

/// From here on newcomers have to show that they are where they say.
const BUSY: usize = 16;

/// Where somebody comes from, as far as it costs something to have another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// A /64 of IPv6: whoever has one has all of its addresses.
    V6(u64),
    /// By a relay, which carries for peers alone.
    Relayed,
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Doors {
    taken: Mutex<HashMap<Network, usize>>,
}

impl Doors {
    fn taken(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether newcomers have to show that they are where they say.
    pub(crate) fn are_busy(&self) -> bool {
        self.taken().values().sum::<usize>() >= BUSY
    }

    /// A place, until it is dropped. `is_known` is whether peers are known to be in this network.
    pub(crate) fn enter(self: &Arc<Self>, network: Network, is_known: impl FnOnce() -> bool) -> Option<Place> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let of_network = taken.get(&network).copied().unwrap_or(0);
        let kept = all >= PLACES - PLACES_KEPT;
        if all >= PLACES || of_network >= PLACES_PER_NETWORK || kept && !is_known() {
            return None;
        }
        taken.insert(network, of_network + 1);
        drop(taken);
        Some(Place { doors: self.clone(), network })
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(crate) struct Place {
    doors: Arc<Doors>,
    network: Network,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.doors.taken();
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn network(number: u32) -> Network {
        Network::from(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn networks_are_told_apart_by_what_they_cost() {
        let same = |one: &str, other: &str| {
            Network::from(one.parse::<IpAddr>().unwrap()) == Network::from(other.parse::<IpAddr>().unwrap())
        };
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same("2001:db8::1", "2001:db8::2:3:4:5"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    }

    #[test]
    fn no_network_gets_all_places() {
        let doors = Arc::new(Doors::default());
        let enter = |number| doors.enter(network(number), || false);
        let mut inside: Vec<Place> = std::iter::from_fn(|| enter(1)).collect();
        assert_eq!(inside.len(), PLACES_PER_NETWORK);
        assert!(doors.are_busy());
        inside.extend((2..).map_while(enter));
        assert_eq!(inside.len(), PLACES - PLACES_KEPT);
        // Where peers are there is still room, for as many as a network gets.
        let known = || doors.enter(network(0), || true);
        inside.extend(std::iter::from_fn(known));
        assert_eq!(inside.len(), PLACES);
        assert!(enter(0).is_none() && known().is_none() && doors.enter(Network::Relayed, || true).is_none());

        inside.clear();
        assert!(!doors.are_busy() && doors.taken().is_empty());
        assert!(enter(1).is_some());
    }
}
