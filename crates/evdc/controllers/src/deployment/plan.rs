//! How far each ReplicaSet of a Deployment goes up or down next. Pure.
//!
//! **Invariants.** With rolling update there are never more than `replicas + surge` pods asked for, and sets are never asked to give up a pod
//! that would leave fewer than `replicas - unavailable` available. Followed often enough, the new set has all replicas.

/// What the Deployment asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rollout {
    pub(crate) replicas: i32,
    /// How many pods there may be beyond `replicas`.
    pub(crate) surge: i32,
    /// How many of `replicas` may be unavailable.
    pub(crate) unavailable: i32,
    /// All old pods go before new ones come.
    pub(crate) recreate: bool,
    /// Old pods that still exist, whatever their sets ask for; only of interest when recreating.
    pub(crate) old_pods: usize,
}

/// One of its ReplicaSets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    /// How many pods it asks for.
    pub(crate) replicas: i32,
    /// How many of its pods are available, as it says itself.
    pub(crate) available: i32,
}

/// How many pods the new set and the old sets (oldest first) shall ask for.
pub(crate) fn scale(rollout: Rollout, new: Set, old: &[Set]) -> (i32, Vec<i32>) {
    let mut old_counts: Vec<i32> = old.iter().map(|set| set.replicas).collect();
    let old_total: i32 = old_counts.iter().sum();
    if rollout.recreate {
        let is_clear = old_total == 0 && rollout.old_pods == 0;
        return (if is_clear { rollout.replicas } else { new.replicas }, vec![0; old.len()]);
    }
    let room = (rollout.replicas + rollout.surge - new.replicas - old_total).max(0);
    let new_count = if new.replicas > rollout.replicas {
        rollout.replicas
    } else {
        new.replicas + room.min(rollout.replicas - new.replicas)
    };
    let least = rollout.replicas - rollout.unavailable;
    let new_unavailable = (new.replicas - new.available).max(0);
    let mut may_go = (new.replicas + old_total - least - new_unavailable).max(0);
    // What does not work is missed by nobody.
    for (count, set) in old_counts.iter_mut().zip(old) {
        let broken = (*count - set.available).clamp(0, may_go);
        *count -= broken;
        may_go -= broken;
    }
    let available =
        new.available.min(new.replicas) + old.iter().map(|set| set.available.min(set.replicas)).sum::<i32>();
    let mut may_go = may_go.min((available - least).max(0));
    for count in &mut old_counts {
        let gone = (*count).min(may_go);
        *count -= gone;
        may_go -= gone;
    }
    (new_count, old_counts)
}

/// How many pods may be surplus and how many unavailable: of both zero, one must give.
pub(crate) fn slack(surge: i32, unavailable: i32) -> (i32, i32) {
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rolling(replicas: i32, surge: i32, unavailable: i32) -> Rollout {
        Rollout { replicas, surge, unavailable, recreate: false, old_pods: 0 }
    }

    fn set(replicas: i32, available: i32) -> Set {
        Set { replicas, available }
    }

    #[test]
    fn next_steps() {
        let check = |rollout, new, old: &[Set], expect: (i32, &[i32])| {
            let (count, counts) = scale(rollout, new, old);
            assert_eq!((count, counts.as_slice()), expect, "{rollout:?} {new:?} {old:?}");
        };
        check(rolling(3, 1, 0), set(0, 0), &[], (3, &[]));
        check(rolling(3, 1, 0), set(0, 0), &[set(3, 3)], (1, &[3]));
        check(rolling(3, 1, 0), set(1, 0), &[set(3, 3)], (1, &[3]));
        check(rolling(3, 1, 0), set(1, 1), &[set(3, 3)], (1, &[2]));
        check(rolling(3, 0, 1), set(0, 0), &[set(3, 3)], (0, &[2]));
        // Broken old pods go first, the oldest set before the younger.
        check(rolling(4, 1, 1), set(1, 0), &[set(2, 2), set(2, 0)], (1, &[2, 1]));
        check(rolling(2, 1, 0), set(3, 3), &[], (2, &[]));
        check(rolling(5, 1, 0), set(2, 2), &[], (5, &[]));
        let recreate = |old_pods| Rollout { recreate: true, old_pods, ..rolling(3, 0, 0) };
        check(recreate(3), set(0, 0), &[set(3, 3)], (0, &[0]));
        check(recreate(1), set(0, 0), &[set(0, 0)], (0, &[0]));
        check(recreate(0), set(0, 0), &[set(0, 0)], (3, &[0]));
        assert_eq!(slack(0, 0), (0, 1));
        assert_eq!(slack(1, 0), (1, 0));
    }

    proptest! {
        /// However slowly pods become available, a rollout is never below what it promises, never above, and ends.
        #[test]
        fn rollouts_keep_their_promise(
            replicas in 1_i32..12, surge in 0_i32..4, unavailable in 0_i32..4, olds in prop::collection::vec(0_i32..6, 0..3),
            progress in prop::collection::vec(any::<bool>(), 40),
        ) {
            let (surge, unavailable) = slack(surge, unavailable);
            let rollout = rolling(replicas, surge, unavailable);
            let first = (replicas - olds.iter().sum::<i32>()).max(0);
            let mut old: Vec<Set> = olds.iter().map(|count| set(*count, *count)).chain([set(first, first)]).collect();
            let mut new = set(0, 0);
            let before: i32 = old.iter().map(|set| set.replicas).sum();
            for step in progress.into_iter().chain(std::iter::repeat_n(true, 60)) {
                let (count, counts) = scale(rollout, new, &old);
                new.replicas = count;
                for (set, count) in old.iter_mut().zip(counts) {
                    prop_assert!(count <= set.replicas);
                    *set = Set { replicas: count, available: count };
                }
                new.available = if step { count } else { new.available.min(count) };
                let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
                let all = new.replicas + old.iter().map(|set| set.replicas).sum::<i32>();
                prop_assert!(available >= replicas - unavailable, "{available} of {replicas}");
                prop_assert!(all <= (replicas + surge).max(before), "{all} for {replicas}");
            }
            prop_assert_eq!(new.replicas, replicas);
            prop_assert!(old.iter().all(|set| set.replicas == 0));
        }
    }
}
