//! The plans of recent erasure patterns, so that a run of stripes that lost the same nodes prepares its matrix once.
//!
//! Bounded, exact least-recently-used, shared by threads. The lock is held for a search, never while a plan is made;
//! two threads that miss at once both make the plan, which costs microseconds and is harmless. It cannot fail: a
//! poisoned lock still guards a valid list.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::Plan;

/// Patterns kept. A grid that lost a few nodes sees, with shards placed per stripe, dozens of patterns; more than this
/// many cost a rebuild of a few microseconds each. At the largest policy with nibble tables one plan is 64 KiB, so
/// this bounds a code at 4 MiB.
const PATTERNS_MAX: usize = 64;

/// A set of shard indexes 0..=255.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct IndexSet([u64; 4]);

impl IndexSet {
    /// Adds an index below 256. False if it was there.
    pub(crate) fn insert(&mut self, index: usize) -> bool {
        // Over all words rather than into one: the set then stays in registers, and a shard costs one cycle instead of ten.
        let mut found = 0;
        for (at, word) in self.0.iter_mut().enumerate() {
            let bit = u64::from(index / 64 == at) << (index % 64);
            found |= *word & bit;
            *word |= bit;
        }
        found == 0
    }

    /// Whether the index is in the set.
    pub(crate) fn contains(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// The members as field elements, ascending.
    pub(crate) fn points(&self) -> Vec<u8> {
        (0..=255).filter(|&point| self.contains(usize::from(point))).collect()
    }
}

/// Which shards are computed from which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pattern {
    pub(crate) known: IndexSet,
    pub(crate) wanted: IndexSet,
}

/// Plans by pattern, most recently used first.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Vec<(Pattern, Arc<Plan>)>>);

impl Cache {
    /// The plan for `pattern`, from the cache or else from `make`.
    pub(crate) fn get_or_make(&self, pattern: &Pattern, make: impl FnOnce() -> Plan) -> Arc<Plan> {
        if let Some(plan) = touch(&mut self.lock(), pattern) {
            return plan;
        }
        let made = Arc::new(make());
        let mut plans = self.lock();
        if let Some(plan) = touch(&mut plans, pattern) {
            return plan;
        }
        plans.truncate(PATTERNS_MAX - 1);
        plans.insert(0, (*pattern, Arc::clone(&made)));
        made
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Pattern, Arc<Plan>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds a plan and moves it to the front.
fn touch(plans: &mut [(Pattern, Arc<Plan>)], pattern: &Pattern) -> Option<Arc<Plan>> {
    let at = plans.iter().position(|(known, _)| known == pattern)?;
    plans[..=at].rotate_right(1);
    plans.first().map(|(_, plan)| Arc::clone(plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;

    fn pattern(wanted: usize) -> Pattern {
        let mut pattern = Pattern { known: IndexSet::default(), wanted: IndexSet::default() };
        pattern.known.insert(0);
        pattern.wanted.insert(wanted);
        pattern
    }

    /// Whether asking for `wanted` had to make the plan.
    fn misses(cache: &Cache, wanted: usize) -> bool {
        let mut made = false;
        cache.get_or_make(&pattern(wanted), || {
            made = true;
            Plan::new(Kernel::Portable, 1, &[1])
        });
        made
    }

    #[test]
    fn sets_know_their_order() {
        let mut set = IndexSet::default();
        for index in [200, 3, 64, 63, 255] {
            assert!(set.insert(index));
            assert!(!set.insert(index));
        }
        assert_eq!(set.points(), [3, 63, 64, 200, 255]);
        assert!(set.contains(63) && !set.contains(62));
    }

    #[test]
    fn the_least_recently_used_pattern_goes() {
        let cache = Cache::default();
        for wanted in 1..=PATTERNS_MAX {
            assert!(misses(&cache, wanted));
        }
        assert!(!misses(&cache, 1), "still there, and now the most recent");
        assert!(misses(&cache, PATTERNS_MAX + 1));
        assert!(!misses(&cache, 1));
        assert!(misses(&cache, 2), "the oldest was evicted");
        assert_eq!(cache.lock().len(), PATTERNS_MAX);
    }
}
