//! A route to one node: what neighbours offered, which offer is used, and the distance below which an offer cannot lead back to us.
//!
//! Babel's feasibility condition (RFC 8966, 2.4): the *feasible distance* is the best (sequence, metric) that we ever said to neighbours. An offer is
//! feasible if it is strictly better than that. Whoever uses us said something worse than we did; so along next hops the feasible distance gets strictly better, and no
//! loop can close, at any time, whatever is lost, late or out of order.

use crate::message::Port;

/// Offers kept per node: the one in use and two to fall back on.
pub(crate) const OFFERS_MAX: usize = 3;

/// The best that was said to neighbours. Compared by [`Distance::is_better_than`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Distance {
    pub(crate) sequence: u64,
    pub(crate) metric_us: u32,
}

impl Distance {
    /// Newer, or as new and nearer.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.sequence > other.sequence || self.sequence == other.sequence && self.metric_us < other.metric_us
    }
}

/// What a neighbour offered.
#[derive(Clone, Debug)]
pub(crate) struct Offer<B> {
    /// The neighbour's port.
    pub(crate) port: Port,
    /// As the neighbour said it, without the link to it.
    pub(crate) distance: Distance,
    pub(crate) beacon: B,
    /// As the beacon says.
    pub(crate) landmark: bool,
    pub(crate) path: Box<[Port]>,
    /// Not used before this: traffic that way was met with silence, so many times.
    pub(crate) blamed_until_ms: u64,
    pub(crate) blames: u32,
}

/// A route.
#[derive(Clone, Debug)]
pub(crate) struct Route<B> {
    pub(crate) landmark: bool,
    pub(crate) offers: Vec<Offer<B>>,
    /// The neighbour whose offer is used.
    pub(crate) used: Option<Port>,
    /// The feasible distance, once something was said.
    pub(crate) feasible: Option<Distance>,
    /// What neighbours were told last.
    pub(crate) told: Option<Distance>,
}

impl<B> Route<B> {
    pub(crate) fn new(landmark: bool, feasible: Option<Distance>) -> Self {
        Self { landmark, offers: Vec::new(), used: None, feasible, told: None }
    }

    pub(crate) fn offer_of(&self, port: Port) -> Option<&Offer<B>> {
        self.offers.iter().find(|offer| offer.port == port)
    }

    /// The offer that is used.
    pub(crate) fn current(&self) -> Option<&Offer<B>> {
        self.used.and_then(|port| self.offer_of(port))
    }

    pub(crate) fn is_feasible(&self, distance: Distance) -> bool {
        self.feasible.is_none_or(|feasible| distance.is_better_than(feasible))
    }

    /// Takes in an offer in place of the neighbour's last. Beyond [`OFFERS_MAX`] the worst that is not used goes.
    pub(crate) fn take(&mut self, mut offer: Offer<B>, cost_us: impl Fn(Port) -> u32) {
        if let Some(old) = self.offers.iter_mut().find(|old| old.port == offer.port) {
            (offer.blamed_until_ms, offer.blames) = (old.blamed_until_ms, old.blames);
            *old = offer;
            return;
        }
        self.offers.push(offer);
        if self.offers.len() > OFFERS_MAX {
            let metric = |offer: &Offer<B>| offer.distance.metric_us.saturating_add(cost_us(offer.port));
            let spare = self.offers.iter().enumerate().filter(|(_, offer)| Some(offer.port) != self.used);
            if let Some((worst, _)) = spare.max_by_key(|(_, offer)| metric(offer)) {
                self.offers.remove(worst);
            }
        }
    }

    /// Neighbours are going to be told this: the feasible distance becomes no worse than it.
    pub(crate) fn tell(&mut self, distance: Distance) {
        self.told = Some(distance);
        if self.is_feasible(distance) {
            self.feasible = Some(distance);
        }
    }
}
