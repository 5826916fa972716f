//! Which shards of a stripe to ask for, as answers come in.
//!
//! A pure core, the counterpart of `write.rs`: *k* shards are asked for, best first; one that is wrong, missing or late is made up for by the next.
//! Data shards come before parity, because *k* data shards need no decoding; nodes that are slow come after both, suspects and absent nodes last.
//!
//! Invariant: the plan is ready when *k* good shards came, hopeless when so many are bad that *k* can no longer come, and otherwise has an answer
//! outstanding. A shard is asked for once.

use std::time::Duration;

/// How many times the median latency makes a node slow.
const SLOW_FACTOR: u32 = 4;
/// Latencies below this are never slow: at that scale it is noise, and decoding costs as much.
const SLOW_FLOOR: Duration = Duration::from_millis(5);

/// What is believed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Belief {
    /// It answers.
    Up,
    /// It has not answered lately.
    Suspect,
    /// It is known to be away.
    Away,
}

/// A shard and the node that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The shard's index; below *k* it is a data shard.
    pub(crate) index: usize,
    /// What is believed of its node.
    pub(crate) belief: Belief,
    /// The node's average latency, if known.
    pub(crate) latency: Option<Duration>,
}

/// Where the plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Answers are outstanding.
    Pending,
    /// *k* good shards came.
    Ready,
    /// Fewer than *k* can come.
    Hopeless,
}

/// The state of one stripe's download.
#[derive(Debug)]
pub(crate) struct ReadPlan {
    need: usize,
    order: Vec<usize>,
    next: usize,
    good: usize,
    outstanding: usize,
}

impl ReadPlan {
    /// A plan to get `need` shards from `holders`.
    pub(crate) fn new(need: usize, mut holders: Vec<Holder>) -> Self {
        let slow = slow_from(&holders);
        holders.sort_by_key(|holder| {
            let slow = holder.latency.is_some_and(|latency| latency > slow);
            (holder.belief, slow, holder.index)
        });
        let order = holders.into_iter().map(|holder| holder.index).collect();
        Self { need, order, next: 0, good: 0, outstanding: 0 }
    }

    /// The first shards to ask for.
    pub(crate) fn start(&mut self) -> Vec<usize> {
        (0..self.need).filter_map(|_| self.ask()).collect()
    }

    /// A good shard came.
    pub(crate) fn good(&mut self) {
        self.outstanding -= 1;
        self.good += 1;
    }

    /// A shard did not come or is wrong. What to ask for instead.
    pub(crate) fn bad(&mut self) -> Option<usize> {
        self.outstanding -= 1;
        if self.good + self.outstanding < self.need { self.ask() } else { None }
    }

    /// A shard that came turned out to be wrong. What to ask for instead.
    pub(crate) fn spoiled(&mut self) -> Option<usize> {
        self.good -= 1;
        if self.good + self.outstanding < self.need { self.ask() } else { None }
    }

    /// A shard is late. What to ask for as well.
    pub(crate) fn late(&mut self) -> Option<usize> {
        if self.good < self.need { self.ask() } else { None }
    }

    pub(crate) fn standing(&self) -> Standing {
        if self.good >= self.need {
            Standing::Ready
        } else if self.outstanding == 0 {
            Standing::Hopeless
        } else {
            Standing::Pending
        }
    }

    fn ask(&mut self) -> Option<usize> {
        let index = *self.order.get(self.next)?;
        self.next += 1;
        self.outstanding += 1;
        Some(index)
    }
}

/// The latency above which a node counts as slow among these.
fn slow_from(holders: &[Holder]) -> Duration {
    let mut latencies: Vec<Duration> = holders.iter().filter_map(|holder| holder.latency).collect();
    latencies.sort_unstable();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or(SLOW_FLOOR);
    (median * SLOW_FACTOR).max(SLOW_FLOOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(index: usize, belief: Belief, latency_ms: u64) -> Holder {
        Holder { index, belief, latency: Some(Duration::from_millis(latency_ms)) }
    }

    #[test]
    fn the_best_are_asked_first() {
        #[track_caller]
        fn check(holders: &[Holder], expect: &[usize]) {
            let mut plan = ReadPlan::new(2, holders.to_vec());
            assert_eq!(plan.start(), expect);
        }
        use Belief::{Away, Suspect, Up};
        let up = [holder(0, Up, 1), holder(1, Up, 2), holder(2, Up, 1), holder(3, Up, 1)];
        check(&up, &[0, 1]);
        check(&[holder(3, Up, 1), holder(1, Up, 1), holder(0, Up, 1)], &[0, 1]);
        check(&[holder(0, Suspect, 1), holder(1, Up, 2), holder(2, Up, 1), holder(3, Up, 1)], &[1, 2]);
        check(&[holder(0, Up, 100), holder(1, Up, 2), holder(2, Up, 1), holder(3, Up, 1)], &[1, 2]);
        check(&[holder(0, Up, 4), holder(1, Up, 1), holder(2, Up, 1), holder(3, Up, 1)], &[0, 1]);
        check(&[holder(0, Away, 1), holder(1, Suspect, 1), holder(2, Up, 900)], &[2, 1]);
    }

    #[test]
    fn makes_up_for_what_is_bad_or_late() {
        let all: Vec<Holder> = (0..4).map(|index| holder(index, Belief::Up, 1)).collect();
        let mut plan = ReadPlan::new(2, all);
        assert_eq!(plan.start(), [0, 1]);
        assert_eq!(plan.late(), Some(2));
        assert_eq!(plan.bad(), None, "two are still outstanding");
        assert_eq!(plan.bad(), Some(3));
        assert_eq!(plan.standing(), Standing::Pending);
        plan.good();
        assert_eq!(plan.bad(), None);
        assert_eq!(plan.standing(), Standing::Hopeless);
    }

    proptest! {
        #[test]
        fn ends_rightly(need in 1usize..5, extra in 0usize..4, script in prop::collection::vec(0u8..4, 0..40)) {
            let count = need + extra;
            let mut plan = ReadPlan::new(need, (0..count).map(|index| holder(index, Belief::Up, 1)).collect());
            let mut asked = plan.start();
            let (mut good, mut bad) = (0, 0);
            for what in script {
                if plan.standing() != Standing::Pending { break; }
                let more = match what {
                    0 => { good += 1; plan.good(); None }
                    1 => { bad += 1; plan.bad() }
                    2 if good > 0 => { good -= 1; bad += 1; plan.spoiled() }
                    _ => plan.late(),
                };
                asked.extend(more);
            }
            let mut distinct = asked.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), asked.len());
            match plan.standing() {
                Standing::Ready => prop_assert_eq!(good, need),
                Standing::Hopeless => prop_assert!(count - bad < need),
                Standing::Pending => prop_assert!(asked.len() > good + bad),
            }
        }
    }
}
