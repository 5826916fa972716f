//! Whether to go over several hops at all. Direct paths and single relays come first: in simulation with 10,000 to 50,000 nodes they give 1.00 of the underlay's
//! latency, the best possible path over several nodes 1.24, and every hop is somebody's bandwidth.

use std::time::Duration;

/// A route over several hops is worth it if its round trip takes no more than this part of the best other path's, …
const PART: f64 = 0.75;

/// … and is shorter by this: below, nobody notices.
const GAIN: Duration = Duration::from_millis(15);

/// A route that is in use is left for another path when it takes more than this part of that path's round trip. Between the two nothing changes.
const KEEP_PART: f64 = 0.9;

/// Whether packets to a node go over several hops; with memory, so that it does not waver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detour {
    used: bool,
}

impl Detour {
    /// Decides anew. `other` is the measured round trip of the best direct or relayed path, if there is one that is not silent; `routed` that over
    /// several hops, if there is a route.
    pub fn decide(&mut self, other: Option<Duration>, routed: Option<Duration>) -> bool {
        self.used = match (other, routed) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(other), Some(routed)) if self.used => routed < other.mul_f64(KEEP_PART),
            (Some(other), Some(routed)) => routed <= other.mul_f64(PART) && routed + GAIN <= other,
        };
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_without_another_path_or_for_a_gain_that_lasts() {
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        let mut detour = Detour::default();
        for (other, routed, expected) in [
            (ms(50), None, false),
            (None, None, false),
            (None, ms(900), true),
            (ms(950), ms(900), false),
            (ms(100), ms(80), false),
            (ms(100), ms(75), true),
            (ms(100), ms(85), true),
            (ms(100), ms(91), false),
            (ms(100), ms(85), false),
            (ms(20), ms(6), false),
            (ms(20), ms(5), true),
            (ms(20), None, false),
        ] {
            assert_eq!(detour.decide(other, routed), expected, "{other:?} or {routed:?}");
        }
    }
}
