//! Which pods of a StatefulSet come and go next. Pure.
//!
//! **Invariants.** In order: a pod is made only when all before it are available, and one goes only when none is on its way out. A pod that is made anew has
//! no predecessor of its name left. At most one pod at a time goes for an update, the highest ordinal first.

use std::{collections::BTreeMap, ops::Range};

/// What the StatefulSet asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) ordinals: Range<i32>,
    /// All at once rather than one after the other.
    pub(crate) is_parallel: bool,
    /// The lowest ordinal that updates; `None` if pods update only when someone else deletes them.
    pub(crate) update_from: Option<i32>,
}

/// A pod that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) is_leaving: bool,
    pub(crate) has_ended: bool,
    pub(crate) is_available: bool,
    pub(crate) is_updated: bool,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Create(i32),
    Delete(i32),
}

/// What to do now, in order.
pub(crate) fn plan(wanted: &Wanted, pods: &BTreeMap<i32, Found>) -> Vec<Action> {
    let mut actions = Vec::new();
    for ordinal in wanted.ordinals.clone() {
        match pods.get(&ordinal) {
            None => actions.push(Action::Create(ordinal)),
            Some(pod) if pod.is_leaving => {}
            Some(pod) if pod.has_ended => actions.push(Action::Delete(ordinal)),
            Some(pod) if pod.is_available => continue,
            // One that does not work must not hold up the template that mends it.
            Some(pod) if !pod.is_updated && updates(wanted, ordinal) => actions.push(Action::Delete(ordinal)),
            Some(_) => {}
        }
        if !wanted.is_parallel {
            return actions;
        }
    }
    let surplus: Vec<(&i32, &Found)> =
        pods.iter().rev().filter(|(ordinal, _)| !wanted.ordinals.contains(ordinal)).collect();
    if wanted.is_parallel {
        let going = surplus.iter().filter(|(_, pod)| !pod.is_leaving);
        actions.extend(going.map(|(ordinal, _)| Action::Delete(**ordinal)));
    } else if let Some((ordinal, _)) = surplus.first() {
        let is_anyone_leaving = surplus.iter().any(|(_, pod)| pod.is_leaving);
        actions.extend((!is_anyone_leaving).then_some(Action::Delete(**ordinal)));
        return actions;
    }
    if actions.is_empty() {
        actions.extend(next_update(wanted, pods));
    }
    actions
}

fn updates(wanted: &Wanted, ordinal: i32) -> bool {
    wanted.update_from.is_some_and(|from| ordinal >= from)
}

fn next_update(wanted: &Wanted, pods: &BTreeMap<i32, Found>) -> Option<Action> {
    for ordinal in wanted.ordinals.clone().rev().filter(|ordinal| updates(wanted, *ordinal)) {
        let pod = pods.get(&ordinal)?;
        if pod.is_leaving {
            return None;
        }
        if !pod.is_updated {
            return Some(Action::Delete(ordinal));
        }
        if !pod.is_available {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: Found = Found { is_leaving: false, has_ended: false, is_available: true, is_updated: true };
    const OLD: Found = Found { is_updated: false, ..GOOD };
    const STARTING: Found = Found { is_available: false, ..GOOD };
    const LEAVING: Found = Found { is_leaving: true, ..GOOD };
    const ENDED: Found = Found { has_ended: true, is_available: false, ..GOOD };

    fn wanted(count: i32) -> Wanted {
        Wanted { ordinals: 0..count, is_parallel: false, update_from: Some(0) }
    }

    fn check(wanted: &Wanted, pods: &[Found], expect: &[Action]) {
        let found: BTreeMap<i32, Found> = (0..).zip(pods.iter().copied()).collect();
        assert_eq!(plan(wanted, &found), expect, "{wanted:?} {pods:?}");
    }

    #[test]
    fn one_after_the_other() {
        use Action::{Create, Delete};
        check(&wanted(3), &[], &[Create(0)]);
        check(&wanted(3), &[STARTING], &[]);
        check(&wanted(3), &[GOOD], &[Create(1)]);
        check(&wanted(3), &[GOOD, ENDED], &[Delete(1)]);
        check(&wanted(3), &[GOOD, LEAVING, GOOD], &[]);
        check(&wanted(1), &[GOOD, GOOD, GOOD], &[Delete(2)]);
        check(&wanted(1), &[GOOD, GOOD, LEAVING], &[]);
        check(&wanted(0), &[GOOD], &[Delete(0)]);
        check(&wanted(3), &[GOOD, GOOD, GOOD], &[]);
    }

    #[test]
    fn updates_from_the_highest() {
        use Action::Delete;
        check(&wanted(3), &[OLD, OLD, OLD], &[Delete(2)]);
        check(&wanted(3), &[OLD, OLD, GOOD], &[Delete(1)]);
        check(&wanted(3), &[OLD, OLD, STARTING], &[]);
        check(&wanted(2), &[GOOD, Found { is_updated: false, ..STARTING }], &[Delete(1)]);
        check(&Wanted { update_from: Some(2), ..wanted(3) }, &[OLD, OLD, OLD], &[Delete(2)]);
        check(&Wanted { update_from: Some(2), ..wanted(3) }, &[OLD, OLD, GOOD], &[]);
        check(&Wanted { update_from: None, ..wanted(3) }, &[OLD, OLD, OLD], &[]);
    }

    #[test]
    fn all_at_once() {
        use Action::{Create, Delete};
        let parallel = |count| Wanted { is_parallel: true, ..wanted(count) };
        check(&parallel(3), &[STARTING], &[Create(1), Create(2)]);
        check(&parallel(1), &[GOOD, GOOD, LEAVING, STARTING], &[Delete(3), Delete(1)]);
        check(&parallel(2), &[OLD, OLD], &[Delete(1)]);
        let later = Wanted { ordinals: 5..7, ..parallel(0) };
        check(&later, &[], &[Create(5), Create(6)]);
    }

    proptest! {
        /// Followed step by step, every start leads to what is wanted, and in order no pod comes before its predecessors.
        #[test]
        fn plans_end(count in 0_i32..6, states in prop::collection::vec(0_usize..5, 0..8), is_parallel: bool) {
            let kinds = [GOOD, OLD, STARTING, LEAVING, ENDED];
            let mut pods: BTreeMap<i32, Found> = (0..).zip(states.iter().map(|at| kinds[*at])).collect();
            let wanted = Wanted { is_parallel, ..wanted(count) };
            for _ in 0..100 {
                for action in plan(&wanted, &pods) {
                    match action {
                        Action::Create(ordinal) => {
                            prop_assert!(is_parallel || (0..ordinal).all(|before| pods[&before].is_available));
                            prop_assert!(pods.insert(ordinal, STARTING).is_none());
                        }
                        Action::Delete(ordinal) => { pods.insert(ordinal, LEAVING); }
                    }
                }
                pods.retain(|_, pod| !pod.is_leaving);
                pods.values_mut().filter(|pod| !pod.has_ended).for_each(|pod| pod.is_available = true);
            }
            prop_assert_eq!(pods.len(), usize::try_from(count).unwrap_or(0));
            prop_assert!(pods.values().all(|pod| *pod == GOOD));
        }
    }
}
