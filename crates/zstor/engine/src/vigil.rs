//! When to heal (pure): who has been away for how long, and whether that calls for it. The clock and the homes are handed in.
//!
//! A home that is away may come back with everything it had, so its shards are rebuilt elsewhere only after a while. What is counted as away: homes that do not
//! answer, and those that were known here and are not any more. What was never heard of since the start is not known to be missing, so one heal is
//! called for a while after the start in any case: it asks for every shard, whoever had it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;

use crate::homes::HomeInfo;

/// After a heal that could not make everything whole, the next is tried after this, then twice as long, …
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// … up to this: until more homes come or return, there is little hope.
const RETRY_MAX: Duration = Duration::from_secs(30 * 60);

/// Watches homes for whether to heal.
#[derive(Debug)]
pub struct Vigil {
    after: Duration,
    began: Instant,
    known: BTreeSet<NodeId>,
    away: BTreeMap<NodeId, Instant>,
    /// Who was away for long when the last heal ended.
    settled: Option<BTreeSet<NodeId>>,
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
    /// Who was there when it failed: others are new hope.
    up: BTreeSet<NodeId>,
}

/// What a look comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing to do.
    Rest,
    /// Heal. The shards of `spared` are left where they are as long as their stripes have one to spare: these homes may be back soon.
    Heal {
        /// Away, but not for long.
        spared: BTreeSet<NodeId>,
    },
}

impl Vigil {
    /// Begins at `now`; homes may be away for `after`.
    #[must_use]
    pub fn new(after: Duration, now: Instant) -> Self {
        let (known, away) = (BTreeSet::new(), BTreeMap::new());
        Self { after, began: now, known, away, settled: None, retry: None }
    }

    /// Looks at the homes. `degraded` says that something was stored with shards missing.
    pub fn look(&mut self, now: Instant, homes: &[HomeInfo], degraded: bool) -> Call {
        let up: BTreeSet<NodeId> = homes.iter().filter(|home| home.up).map(|home| home.node).collect();
        self.known.extend(homes.iter().map(|home| home.node));
        let absent: BTreeSet<NodeId> = self.known.difference(&up).copied().collect();
        self.away.retain(|node, _| absent.contains(node));
        for node in absent {
            self.away.entry(node).or_insert(now);
        }
        let long = self.long(now);
        let due = match (&self.settled, &self.retry) {
            (None, None) => degraded || !long.is_empty() || now.saturating_duration_since(self.began) >= self.after,
            (settled, Some(retry)) => settled.as_ref() != Some(&long) || now >= retry.at || !up.is_subset(&retry.up),
            (Some(settled), None) => *settled != long || degraded,
        };
        if !due {
            return Call::Rest;
        }
        Call::Heal { spared: self.away.keys().filter(|node| !long.contains(node)).copied().collect() }
    }

    /// A heal that was called for at `called` has ended; whether everything that could be looked for is in place.
    pub fn healed(&mut self, called: Instant, now: Instant, whole: bool) {
        // Who has become long away since is for the next.
        self.settled = Some(self.long(called));
        let pause = self.retry.as_ref().map_or(RETRY_FIRST, |retry| (retry.pause * 2).min(RETRY_MAX));
        let up = self.known.iter().filter(|node| !self.away.contains_key(node)).copied().collect();
        self.retry = (!whole).then(|| Retry { at: now + pause, pause, up });
    }

    /// A heal is wanted now, whoever is away: something may have changed under the last one.
    pub fn again(&mut self, now: Instant) {
        self.retry.get_or_insert(Retry { at: now, pause: RETRY_FIRST, up: BTreeSet::new() }).at = now;
    }

    /// Who is away, and for how long.
    pub fn away(&self, now: Instant) -> impl Iterator<Item = (NodeId, Duration)> {
        self.away.iter().map(move |(&node, &since)| (node, now.saturating_duration_since(since)))
    }

    fn long(&self, now: Instant) -> BTreeSet<NodeId> {
        self.away(now).filter(|(_, away)| *away >= self.after).map(|(node, _)| node).collect()
    }
}

#[cfg(test)]
mod tests {
    use atoll_ids::Domain;

    use super::*;

    const AFTER: Duration = Duration::from_secs(100);

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    /// Homes 1 to 6 but for these, of which the second list is known to be there.
    fn homes(forgotten: &[u8], down: &[u8]) -> Vec<HomeInfo> {
        let home =
            |byte: u8| HomeInfo { node: node(byte), weight: 1, domain: Domain::default(), up: !down.contains(&byte) };
        (1..=6).filter(|byte| !forgotten.contains(byte)).map(home).collect()
    }

    fn heal(spared: &[u8]) -> Call {
        Call::Heal { spared: spared.iter().copied().map(node).collect() }
    }

    struct Story {
        vigil: Vigil,
        start: Instant,
    }

    impl Story {
        fn begin() -> Self {
            let start = Instant::now();
            Self { vigil: Vigil::new(AFTER, start), start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        #[track_caller]
        fn check(&mut self, seconds: u64, homes: &[HomeInfo], expect: Call) {
            let now = self.at(seconds);
            assert_eq!(self.vigil.look(now, homes, false), expect, "after {seconds} s");
        }

        fn healed(&mut self, seconds: u64, whole: bool) {
            self.vigil.healed(self.at(seconds), self.at(seconds), whole);
        }
    }

    #[test]
    fn one_look_after_the_start_then_rest() {
        let mut story = Story::begin();
        story.check(0, &homes(&[], &[]), Call::Rest);
        story.check(100, &homes(&[], &[]), heal(&[]));
        story.healed(101, true);
        story.check(10_000, &homes(&[], &[]), Call::Rest);
    }

    #[test]
    fn who_is_away_for_long_is_replaced_and_who_just_left_is_waited_for() {
        let mut story = Story::begin();
        story.check(0, &homes(&[], &[]), Call::Rest);
        story.healed(1, true);
        story.check(10, &homes(&[], &[1]), Call::Rest);
        story.check(60, &homes(&[], &[1, 2]), Call::Rest);
        story.check(109, &homes(&[], &[1, 2]), Call::Rest);
        story.check(110, &homes(&[], &[1, 2]), heal(&[2]));
        story.healed(115, true);
        story.check(120, &homes(&[], &[1, 2]), Call::Rest);
        story.check(125, &homes(&[], &[1]), Call::Rest);
        // One that comes back may have superfluous copies; one that is forgotten is away as well.
        story.check(130, &homes(&[], &[]), heal(&[]));
        story.healed(131, true);
        story.check(140, &homes(&[3], &[]), Call::Rest);
        story.check(240, &homes(&[3], &[]), heal(&[]));
    }

    #[test]
    fn what_could_not_be_made_whole_is_tried_ever_more_rarely_and_at_once_when_help_comes() {
        let mut story = Story::begin();
        story.check(0, &homes(&[6], &[1]), Call::Rest);
        story.check(100, &homes(&[6], &[1]), heal(&[]));
        story.healed(100, false);
        let mut tries = Vec::new();
        for second in 101..400 {
            if story.vigil.look(story.at(second), &homes(&[6], &[1]), true) != Call::Rest {
                tries.push(second);
                story.healed(second, false);
            }
        }
        assert_eq!(tries, [110, 130, 170, 250]);
        story.check(400, &homes(&[], &[1]), heal(&[]));
        story.healed(401, true);
        story.check(500, &homes(&[], &[1]), Call::Rest);
        story.vigil.again(story.at(501));
        story.check(501, &homes(&[], &[1]), heal(&[]));
    }

    #[test]
    fn what_was_stored_with_shards_missing_is_healed_at_once() {
        let mut story = Story::begin();
        let now = story.at(1);
        assert_eq!(story.vigil.look(now, &homes(&[], &[1]), true), heal(&[1]));
    }
}
