//! Histories against a model: what may be in the store after each step, given what was acknowledged.

use crate::sim::{Random, SimDisk};
use atoll_ids::{OwnerId, ShardId};
use atoll_segments::{DeleteError, GetError, PutError, PutOutcome, Segments, SegmentsConfig, crc64};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SEGMENT: u64 = 48 << 10;

pub(crate) fn small() -> SegmentsConfig {
    SegmentsConfig { segment_bytes: SEGMENT, spare_ahead: false, ..SegmentsConfig::new(SEGMENT * 64) }
}

pub(crate) fn owner(n: u8) -> OwnerId {
    OwnerId::from_bytes([n; 32])
}

pub(crate) fn shard(n: u64) -> ShardId {
    ShardId::from_bytes(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes())
}

/// Bytes that differ for each key, version and length.
pub(crate) fn content(key: u64, version: u64, len: usize) -> Bytes {
    let mut random = Random::new(key * 1000 + version + len as u64 * 77);
    (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>().into()
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn open(disk: &SimDisk) -> Segments {
    Segments::open_on(Arc::new(disk.clone()), small()).unwrap()
}

pub(crate) async fn put(store: &Segments, key: u64, data: &Bytes) -> Result<PutOutcome, PutError> {
    store.put(owner(1), shard(key), crc64(data), data.clone()).await
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put { key: u64, version: u64, len: usize },
    Delete { key: u64 },
}

impl Step {
    pub(crate) fn key(&self) -> u64 {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => *key,
        }
    }
}

/// What each key may hold. A key that is not in the map holds nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model(BTreeMap<u64, BTreeSet<Option<Bytes>>>);

impl Model {
    fn may(&mut self, key: u64) -> &mut BTreeSet<Option<Bytes>> {
        self.0.entry(key).or_insert_with(|| BTreeSet::from([None]))
    }

    fn is(&mut self, key: u64, value: Option<Bytes>, why: &str) {
        let may = self.may(key);
        assert!(may.contains(&value), "key {key}: {why}: {:?} is not possible", value.map(|v| v.len()));
        *may = BTreeSet::from([value]);
    }

    /// Takes a step and notes what its outcome says.
    pub(crate) async fn step(&mut self, store: &Segments, step: &Step) {
        let outcome = perform(store, step).await;
        self.note(step, outcome);
    }

    /// Takes steps on different keys at the same time.
    pub(crate) async fn together(&mut self, store: &Segments, steps: &[Step]) {
        let tasks: Vec<_> = steps
            .iter()
            .map(|step| {
                let (store, step) = (store.clone(), step.clone());
                tokio::spawn(async move { perform(&store, &step).await })
            })
            .collect();
        for (step, task) in steps.iter().zip(tasks) {
            self.note(step, task.await.unwrap());
        }
    }

    fn note(&mut self, step: &Step, outcome: Outcome) {
        let key = step.key();
        match (step, outcome) {
            (Step::Put { key, version, len }, Outcome::Put(result)) => {
                let data = content(*key, *version, *len);
                match result {
                    Ok(PutOutcome::Stored) => *self.may(*key) = BTreeSet::from([Some(data)]),
                    Ok(PutOutcome::AlreadyThere) => self.is(*key, Some(data), "already there"),
                    Err(PutError::DifferentContent) => {
                        let may = self.may(*key);
                        // A deletion that failed may still come to light: that there is something now is no promise that it stays.
                        may.retain(|v| v.as_ref().is_none_or(|v| *v != data));
                        assert!(may.iter().any(Option::is_some), "key {key}: no different content is possible");
                    }
                    Err(PutError::Disk(_)) => {
                        self.may(*key).insert(Some(data));
                    }
                    Err(PutError::Full { .. }) => {}
                    Err(e) => panic!("key {key}: {e}"),
                }
            }
            (_, Outcome::Delete(result)) => match result {
                Ok(()) => *self.may(key) = BTreeSet::from([None]),
                Err(DeleteError::NotFound) => self.is(key, None, "delete found nothing"),
                Err(DeleteError::Disk(_)) => {
                    self.may(key).insert(None);
                }
                Err(DeleteError::Full { .. }) => {}
            },
            (step, _) => unreachable!("{step:?}"),
        }
    }

    /// Compares everything. `settled`: what is seen now stays so.
    pub(crate) async fn check(&mut self, store: &Segments, settled: bool) {
        let mut listed = BTreeMap::new();
        for (id, len) in store.list(owner(1), None, usize::MAX) {
            listed.insert(id, len);
        }
        let mut live = 0;
        for key in self.0.keys().copied().collect::<Vec<_>>() {
            let seen = match store.get(owner(1), shard(key)).await {
                Ok(data) => Some(data),
                Err(GetError::NotFound) => None,
                Err(e) => panic!("key {key}: {e}"),
            };
            assert_eq!(
                listed.get(&shard(key)).copied(),
                seen.as_ref().map(|d| d.len() as u32),
                "key {key}: list and get differ"
            );
            live += u64::from(seen.is_some());
            if settled {
                self.is(key, seen, "seen");
            } else {
                assert!(self.may(key).contains(&seen), "key {key}: {:?} is not possible", seen.map(|v| v.len()));
            }
        }
        assert_eq!(store.totals().shards, live, "totals and list differ");
        assert_eq!(store.stat(owner(1)).shards, live);
        let totals = store.totals();
        assert!(totals.used + totals.reclaimable + totals.reserved <= totals.capacity, "{totals:?}");
    }
}

enum Outcome {
    Put(Result<PutOutcome, PutError>),
    Delete(Result<(), DeleteError>),
}

async fn perform(store: &Segments, step: &Step) -> Outcome {
    match step {
        Step::Put { key, version, len } => Outcome::Put(put(store, *key, &content(*key, *version, *len)).await),
        Step::Delete { key } => Outcome::Delete(store.delete(owner(1), shard(*key)).await),
    }
}

/// A history of steps and reopenings that fills and empties segments.
pub(crate) fn history(random: &mut Random, steps: usize, keys: u64) -> Vec<Step> {
    (0..steps)
        .map(|_| {
            let key = random.below(keys);
            match random.below(3) {
                0 => Step::Delete { key },
                // One content per key and version: shards are immutable, a deleted one may come back as another.
                _ => Step::Put { key, version: random.below(2), len: random.below(20_000) as usize },
            }
        })
        .collect()
}

/// Waits for what the store's threads do.
pub(crate) async fn until(what: &str, f: impl Fn() -> bool) {
    for _ in 0..2000 {
        if f() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: it never came to that");
}
