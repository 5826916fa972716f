//! How much one network may ask: a fixed number of counters, so that a flood from many addresses costs no memory.

use std::net::SocketAddr;

use crate::network::Network;

/// Counters. Networks that share one share its budget: a network that floods slows 1 in 256 others, and which ones depends on a secret seed.
const CELLS: usize = 256;

/// What one network may have at once: several lookups of several nodes behind one address.
const BURST: u16 = 64;

/// … and for ever, per second. Checking a signature takes 50 µs, so one network can take half a percent of a core.
const PER_SECOND: u64 = 16;

/// Counters of what was asked.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    seed: u64,
    /// Spent, and when that was right in milliseconds (its low 32 bits; a cell is empty again long before they come round). Made when needed: most
    /// nodes of a large simulation hear from few.
    cells: Vec<(u16, u32)>,
}

impl Meter {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, cells: Vec::new() }
    }

    /// Whether this much more from an address is within its budget.
    pub(crate) fn allows(&mut self, now_ms: u64, at: SocketAddr, cost: u16) -> bool {
        if self.cells.is_empty() {
            self.cells = vec![(0, now_ms as u32); CELLS];
        }
        let index = Network::narrow(at).hash(self.seed) as usize % CELLS;
        let (spent, when) = &mut self.cells[index];
        let passed = u64::from((now_ms as u32).wrapping_sub(*when));
        let regained = passed * PER_SECOND / 1000;
        if regained > 0 {
            *spent = u64::from(*spent).saturating_sub(regained) as u16;
            *when = now_ms as u32;
        }
        let allowed = *spent + cost <= BURST;
        if allowed {
            *spent += cost;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_network_is_slowed_and_others_are_not() {
        let mut meter = Meter::new(7);
        let [flooding, other] = ["192.0.2.1:1", "198.51.100.1:1"].map(|text| text.parse().unwrap());
        let allowed = (0..1000).filter(|_| meter.allows(0, flooding, 1)).count();
        assert_eq!(allowed, usize::from(BURST));
        assert!(meter.allows(0, other, 1));
        let later = (0..1000).filter(|_| meter.allows(1000, flooding, 1)).count();
        assert_eq!(later, PER_SECOND as usize);
    }

    #[test]
    fn asking_all_the_time_does_not_stop_the_clock() {
        let mut meter = Meter::new(7);
        let at = "192.0.2.1:1".parse().unwrap();
        let allowed = (0..60_000).filter(|ms| meter.allows(*ms, at, 1)).count();
        let expected = usize::from(BURST) + 60 * PER_SECOND as usize;
        assert!(allowed.abs_diff(expected) <= 2 * PER_SECOND as usize, "{allowed}");
    }
}
