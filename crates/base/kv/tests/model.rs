//! Random histories against a map in memory: whatever the commits, scans and reopenings, both agree.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use atoll_kv::{Bytes, Condition, Embedded, EmbeddedConfig, Entry, KeyValue, KvError, Mutation, Revision, Scan};
use futures_util::future::join_all;
use proptest::{collection::vec, prelude::*};

#[derive(Debug, Clone)]
enum Step {
    /// Commits issued at the same time; they are queued in this order.
    Commits(Vec<(Vec<Condition>, Vec<Mutation>)>),
    Scan(Scan),
    Reopen,
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<Bytes, (Bytes, Revision)>,
    revision: Revision,
}

impl Model {
    fn commit(&mut self, conditions: &[Condition], mutations: &[Mutation]) -> Result<Revision, KvError> {
        for condition in conditions {
            let found = self.entries.get(condition.key()).map(|(_, revision)| *revision);
            let holds = match condition {
                Condition::Revision { revision, .. } => found == Some(*revision),
                Condition::Absent { .. } => found.is_none(),
                Condition::Present { .. } => found.is_some(),
            };
            if !holds {
                return Err(KvError::Conflict { key: condition.key().clone() });
            }
        }
        self.revision += u64::from(!mutations.is_empty());
        for mutation in mutations {
            match mutation {
                Mutation::Put { key, value } => self.entries.insert(key.clone(), (value.clone(), self.revision)),
                Mutation::Delete { key } => self.entries.remove(key),
            };
        }
        Ok(self.revision)
    }

    fn scan(&self, scan: &Scan) -> Vec<Entry> {
        let wanted = |key: &Bytes| key.starts_with(&scan.prefix) && scan.after.as_ref().is_none_or(|after| key > after);
        let entries = self.entries.iter().filter(|(key, _)| wanted(key)).take(scan.limit);
        entries
            .map(|(key, (value, revision))| Entry { key: key.clone(), value: value.clone(), revision: *revision })
            .collect()
    }
}

/// Few keys, one a prefix of the other, so that commits meet.
fn key() -> impl Strategy<Value = Bytes> {
    vec(prop::sample::select(vec![0, b'a', 0xff]), 1..4).prop_map(Bytes::from)
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        key().prop_map(|key| Condition::Present { key }),
        key().prop_map(|key| Condition::Absent { key }),
        (key(), 0..20_u64).prop_map(|(key, revision)| Condition::Revision { key, revision }),
    ]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => (key(), vec(any::<u8>(), 0..20)).prop_map(|(key, value)| Mutation::Put { key, value: value.into() }),
        1 => key().prop_map(|key| Mutation::Delete { key }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let scan = (vec(prop::sample::select(vec![0, b'a', 0xff]), 0..3), prop::option::of(key()), 1..12_usize);
    prop_oneof![
        8 => vec((vec(condition(), 0..2), vec(mutation(), 0..5)), 1..8).prop_map(Step::Commits),
        4 => scan.prop_map(|(prefix, after, limit)| Step::Scan(Scan { prefix: prefix.into(), after, limit })),
        1 => Just(Step::Reopen),
    ]
}

async fn check(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() };
    let open = || Embedded::open(dir.path().join("kv"), config.clone()).unwrap();
    let mut store = open();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Commits(commits) => {
                let issued = commits.iter().map(|(when, then)| store.commit(when.clone(), then.clone()));
                let found = join_all(issued).await;
                let expected: Vec<_> = commits.iter().map(|(when, then)| model.commit(when, then)).collect();
                prop_assert_eq!(found, expected);
            }
            Step::Scan(scan) => prop_assert_eq!(store.scan(scan.clone()).await.unwrap(), model.scan(&scan)),
            Step::Reopen => {
                drop(store);
                store = open();
                prop_assert_eq!(store.revision(), model.revision);
            }
        }
    }
    let everything = Scan::new("", 1000);
    prop_assert_eq!(store.scan(everything.clone()).await.unwrap(), model.scan(&everything));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_a_map(steps in vec(step(), 1..24)) {
        // One runtime thread polls the commits of a step in order, so they reach the queue in order.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps))?;
    }
}
