//! What happens by itself: telling, signing anew, forgetting; being a landmark or not; and what our address is.

use std::time::Duration;

use atoll_ids::NodeId;

use super::{Output, Router};
use crate::beacon::{Sealed, is_current, is_gone_everywhere, millis};
use crate::forward::Address;

/// How often a beacon is signed anew when nobody asks for it. A route that fails is repaired by asking; this is for what nobody noticed.
const SIGN_MS: u64 = 30 * 60 * 1000;

/// Shortest time between two beacons: each goes to everybody near. Where the network changes all the time this doubles with each, up to the second, so that one
/// landmark does not cost everybody a kilobyte a second.
const SIGN_MS_MIN: u64 = 1000;
const SIGN_MS_SLOW: u64 = 16_000;

/// How long a landmark by way of which nothing arrived is not named, and how many such are remembered.
const SHUN_MS: u64 = 10 * 60 * 1000;
const SHUNNED_MAX: usize = 64;

/// News is collected for this long: changes come in bursts, and an outage grows by this at every hop.
pub(super) const FLUSH_MS: u64 = 20;

/// How often what has expired is looked for.
const EXPIRE_MS: u64 = 60_000;

/// Below this many nodes everybody is near everybody, and nobody is a landmark.
const LANDMARKS_FROM: u64 = 16;

/// Separates this use of BLAKE3 from every other; part of the protocol for ever.
const CONTEXT: &str = "atoll 2026-11 route landmark v1";

/// Another landmark is named in our address when it is nearer than this part of the old one, in tenths.
const ADDRESS_TENTHS: u64 = 7;

/// When what is due; 0 is at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timers {
    flush_ms: Option<u64>,
    sign_ms: u64,
    signed_ms: u64,
    sign_pause_ms: u64,
    above: u64,
    expire_ms: u64,
}

impl<B: Sealed> Router<B> {
    /// When to call [`Router::step`] with [`Input::Tick`](super::Input::Tick) if nothing else happens before, as a time since 1970.
    pub fn wake(&self, now: Duration) -> Duration {
        let timers = self.timers;
        let flush_ms = timers.flush_ms.unwrap_or(u64::MAX);
        Duration::from_millis(flush_ms.min(timers.sign_ms).min(timers.expire_ms).max(millis(now)))
    }

    pub(super) fn flush_soon(&mut self, now_ms: u64) {
        self.flush_at(now_ms + FLUSH_MS);
    }

    pub(super) fn flush_at(&mut self, at_ms: u64) {
        self.timers.flush_ms = Some(self.timers.flush_ms.map_or(at_ms, |flush_ms| flush_ms.min(at_ms)));
    }

    /// Something by this sequence of ours is about: the next has to be higher, and soon.
    pub(super) fn outdo(&mut self, now_ms: u64, sequence: u64) {
        let behind = self.own.as_ref().is_none_or(|(own, _)| own.sequence <= sequence);
        // A sequence from the far future would be ours to outdo only if we signed it: then our clock was wrong, and is the same now.
        if behind && is_current(sequence, now_ms) {
            self.timers.above = self.timers.above.max(sequence);
            self.timers.sign_ms = self.timers.sign_ms.min(self.may_sign_ms(now_ms));
        }
    }

    fn may_sign_ms(&self, now_ms: u64) -> u64 {
        (self.timers.signed_ms + self.timers.sign_pause_ms.max(SIGN_MS_MIN)).max(now_ms)
    }

    pub(super) fn shun(&mut self, now_ms: u64, landmark: NodeId) {
        self.shunned.retain(|_, until_ms| *until_ms > now_ms);
        if self.shunned.len() < SHUNNED_MAX {
            self.shunned.insert(landmark, now_ms + SHUN_MS);
            self.flush_soon(now_ms);
        }
    }

    pub(super) fn own_signed(&mut self, now_ms: u64, beacon: B) {
        let Some(said) = beacon.open().filter(|said| said.node == self.me) else { return };
        if self.own.as_ref().is_none_or(|(own, _)| own.sequence < said.sequence) {
            self.own = Some((said, beacon));
            self.news.insert(self.me);
            self.flush_soon(now_ms);
        }
    }

    /// There are about this many nodes: whether we are a landmark follows from that and from our id. Between half and twice as many nothing changes.
    pub(super) fn sized(&mut self, now_ms: u64, size: u64) {
        self.size = size.max(1);
        let part = 1.0 / (self.size as f64).sqrt();
        let threshold = if self.landmark { part * 2.0 } else { part };
        let landmark = self.size >= LANDMARKS_FROM && lot(&self.me) < threshold;
        if landmark != self.landmark {
            self.landmark = landmark;
            self.timers.sign_ms = self.timers.sign_ms.min(self.may_sign_ms(now_ms));
        }
    }

    /// Everything that is due, after each step.
    pub(super) fn look_after(&mut self, now_ms: u64, out: &mut Vec<Output<B>>) {
        if now_ms >= self.timers.sign_ms {
            let above = self.own.as_ref().map_or(0, |(own, _)| own.sequence).max(self.timers.above);
            out.push(Output::Sign { above, landmark: self.landmark });
            // Nodes begin at different times, so they do not sign at the same one.
            let pause_ms = self.timers.sign_pause_ms.max(SIGN_MS_MIN);
            let busy = now_ms < self.timers.signed_ms + 4 * pause_ms;
            self.timers.sign_pause_ms = if busy { (pause_ms * 2).min(SIGN_MS_SLOW) } else { SIGN_MS_MIN };
            (self.timers.sign_ms, self.timers.signed_ms) = (now_ms + SIGN_MS, now_ms);
        }
        if now_ms >= self.timers.expire_ms {
            self.timers.expire_ms = now_ms + EXPIRE_MS;
            self.expire(now_ms);
        }
        if self.timers.flush_ms.is_some_and(|flush_ms| now_ms >= flush_ms) {
            self.timers.flush_ms = None;
            self.flush(now_ms, out);
            self.readdress(now_ms, out);
        }
    }

    /// Forgets offers by beacons that are too old, and distances that nobody can have a route by; and looks again at ways that were blamed.
    fn expire(&mut self, now_ms: u64) {
        self.farthest_us = [None; 2];
        self.held.retain(|_, distance| !is_gone_everywhere(distance.sequence, now_ms));
        let nodes: Vec<NodeId> = self.routes.keys().copied().collect();
        for node in nodes {
            let Some(route) = self.routes.get_mut(&node) else { continue };
            route.offers.retain(|offer| is_current(offer.distance.sequence, now_ms));
            self.choose(now_ms, node, false);
        }
    }

    /// Our address is the way from the nearest landmark to us.
    fn readdress(&mut self, now_ms: u64, out: &mut Vec<Output<B>>) {
        let address = if self.landmark {
            Some(Address { landmark: self.me, path: Vec::new() })
        } else {
            self.nearest_landmark(now_ms).and_then(|node| self.way_back(&node))
        };
        if let Some(address) = address
            && self.address.as_ref() != Some(&address)
        {
            self.address = Some(address.clone());
            out.push(Output::Moved(address));
        }
    }

    fn nearest_landmark(&self, now_ms: u64) -> Option<NodeId> {
        let landmarks = self.routes.iter().filter(|(_, route)| route.landmark);
        let rated = landmarks.filter_map(|(node, route)| Some((self.total_us(route.current()?)?, *node)));
        let rated: Vec<(u32, NodeId)> = rated.collect();
        let is_shunned = |node: &NodeId| self.shunned.get(node).is_some_and(|until_ms| *until_ms > now_ms);
        let (nearest_us, nearest) = *rated.iter().min_by_key(|(us, node)| (is_shunned(node), *us, *node))?;
        let named = self.address.as_ref().map(|address| address.landmark);
        let kept = rated.iter().find(|(_, node)| Some(*node) == named && !is_shunned(node));
        let keeps = kept.filter(|(us, _)| u64::from(nearest_us) * 10 >= u64::from(*us) * ADDRESS_TENTHS);
        Some(keeps.map_or(nearest, |(_, node)| *node))
    }
}

/// A number in [0, 1) that a node's id determines.
fn lot(node: &NodeId) -> f64 {
    let hash = blake3::derive_key(CONTEXT, node.as_bytes());
    let first = hash.first_chunk().copied().map_or(0, u64::from_le_bytes);
    first as f64 / 2_f64.powi(64)
}
