//! Ids and keys for single-stripe objects, journalled in batches before they are used.
//!
//! The shards of an object exist before the record that names them. A large upload has a journal; a small object must cost one commit, so what it
//! will use (id, key, salt) is journalled ahead for many objects at once, and the commit that publishes an object removes its
//! reservation. After a crash, a reservation that is still there names shards that may exist and belong to nothing: they are deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use atoll_codec::{ObjectKey, Policy, Sealer, WrappedKey};
use atoll_ids::ObjectId;
use atoll_placement::DomainLevel;

use crate::error::MetaError;
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::record::Tail;
use crate::store::delete;

/// Reservations made at once. With 64 callers storing small files they wait for one further flush of the metadata store in every two rounds; after a
/// crash, each that was not used costs some dozen deletions of shards that are not there.
const BATCH: usize = 128;

/// What one single-stripe object will use.
pub(crate) struct Reservation {
    pub(crate) id: ObjectId,
    pub(crate) wrapped: WrappedKey,
    pub(crate) sealer: Arc<Sealer>,
}

/// Journalled and unused.
#[derive(Default)]
pub(crate) struct Reservations {
    free: Mutex<HashMap<Policy, Vec<Reservation>>>,
    /// Held while a batch is committed, so that many callers who find nothing make one batch and not one each.
    refill: tokio::sync::Mutex<()>,
}

/// A random id for a new version of an object.
///
/// # Panics
/// If the operating system gives no randomness. Nothing could be sealed safely then either.
pub(crate) fn fresh_id() -> ObjectId {
    let mut bytes = [0; ObjectId::BYTES];
    getrandom::fill(&mut bytes).expect("the operating system has a random number generator");
    ObjectId::from_bytes(bytes)
}

impl Reservation {
    /// What to delete if the object is not published.
    pub(crate) fn tail(&self, policy: Policy, level: DomainLevel) -> Tail {
        Tail {
            id: self.id,
            key: self.wrapped.clone(),
            policy,
            level,
            salt: self.sealer.salt(),
            map: None,
            counter: 0,
            stripe: 0,
            count: 1,
        }
    }
}

impl Inner {
    /// A reservation for an object of this policy.
    pub(crate) async fn reserve(&self, policy: Policy, level: DomainLevel) -> Result<Reservation, MetaError> {
        loop {
            if let Some(found) = self.take_reservation(policy) {
                return Ok(found);
            }
            let _refilling = self.reservations.refill.lock().await;
            if let Some(found) = self.take_reservation(policy) {
                return Ok(found);
            }
            let batch: Vec<Reservation> = (0..BATCH).map(|_| self.draw(policy)).collect();
            let put = |made: &Reservation| self.store.put(keyspace::reserved(made.id), &made.tail(policy, level));
            self.store.commit(Vec::new(), batch.iter().map(put).collect()).await?;
            lock(&self.reservations.free).entry(policy).or_default().extend(batch);
        }
    }

    /// Gives up all reservations that nobody used. Nothing was stored under them.
    pub(crate) async fn release_reservations(&self) -> Result<(), MetaError> {
        let free = std::mem::take(&mut *lock(&self.reservations.free));
        let mutations: Vec<_> =
            free.into_values().flatten().map(|unused| delete(keyspace::reserved(unused.id))).collect();
        if !mutations.is_empty() {
            self.store.commit(Vec::new(), mutations).await?;
        }
        Ok(())
    }

    fn take_reservation(&self, policy: Policy) -> Option<Reservation> {
        lock(&self.reservations.free).get_mut(&policy)?.pop()
    }

    fn draw(&self, policy: Policy) -> Reservation {
        let key = ObjectKey::generate();
        let id = fresh_id();
        Reservation { id, wrapped: self.wrap(&key, id), sealer: Arc::new(self.codec(policy).sealer(&key)) }
    }
}
