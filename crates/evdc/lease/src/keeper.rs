//! The provider's side: the book on disk, offers made, leases countersigned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_ids::{LeaseId, NodeId};
use atoll_keys::{OwnerKey, Signed};
use atoll_kv::{KeyValue, KvError, Mutation, Scan};
use atoll_wire::{DecodeError, decode, encode};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

use crate::book::{Book, Granted, RefusedLease};
use crate::statements::{Capacity, Lease, LeaseEnd, LeaseError, LeaseTerms, Offer, Price};

/// Where leases lie in the key-value store.
const PREFIX: &[u8] = b"lease/";

/// An offer stands for ten minutes: long enough to choose among many, short enough not to promise what is gone.
const OFFER_SECONDS: u64 = 600;

/// Leases read at once when the book is opened.
const PAGE: usize = 256;

/// Why a request of a tenant fails.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The terms are not acceptable.
    #[error(transparent)]
    Refused(#[from] RefusedLease),
    /// It cannot be written down.
    #[error("the lease cannot be kept: {0}")]
    Store(#[from] KvError),
    /// What is on disk is not a lease.
    #[error("the lease under {key} cannot be read: {source}")]
    Corrupt {
        /// Its key in the store.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// What is on disk was not signed by both.
    #[error("the lease under {key} is not good: {source}")]
    Unsigned {
        /// Its key in the store.
        key: String,
        /// What is wrong with it.
        source: LeaseError,
    },
    /// Not a lease of the signer's on this node.
    #[error("there is no such lease of this tenant here")]
    NotFound,
}

/// Keeps the leases of this node. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    owner: Arc<OwnerKey>,
    kv: Arc<dyn KeyValue>,
    book: Mutex<Book>,
    /// One grant at a time: between checking the book and entering there is a write to the disk.
    granting: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Keeper {
    /// Opens the book: all leases on disk, whether or not they are over.
    ///
    /// # Errors
    /// [`KeeperError`] if the store cannot be read or holds something that is no lease.
    pub async fn open(
        kv: Arc<dyn KeyValue>,
        node: NodeId,
        owner: Arc<OwnerKey>,
        total: Capacity,
        price: Price,
    ) -> Result<Self, KeeperError> {
        let mut book = Book::new(node, owner.id(), total, price);
        let mut after: Option<Bytes> = None;
        loop {
            let mut scan = Scan::new(PREFIX, PAGE);
            scan.after = after.take();
            let page = kv.scan(scan).await?;
            for entry in &page {
                let key = || String::from_utf8_lossy(&entry.key).into_owned();
                let lease: Lease =
                    decode(&entry.value).map_err(|source| KeeperError::Corrupt { key: key(), source })?;
                let terms = lease.check().map_err(|source| KeeperError::Unsigned { key: key(), source })?;
                book.enter(terms, lease);
            }
            after = page.last().map(|entry| entry.key.clone());
            if page.len() < PAGE {
                break;
            }
        }
        let inner = Inner {
            node,
            owner,
            kv,
            book: Mutex::new(book),
            granting: tokio::sync::Mutex::new(()),
            changes: watch::Sender::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node lends at `now` (seconds since 1970 UTC), signed.
    #[must_use]
    pub fn offer(&self, now: u64) -> Signed<Offer> {
        let offer = {
            let book = self.book();
            Offer {
                node: self.inner.node,
                owner: self.inner.owner.id(),
                total: book.total(),
                free: book.free(now),
                price: book.price().clone(),
                not_after: now + OFFER_SECONDS,
            }
        };
        Signed::sign(&offer, &*self.inner.owner)
    }

    /// Grants a proposal: checked, countersigned, on disk.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] says why not; [`KeeperError::Store`] leaves the lease as it was.
    pub async fn propose(&self, proposal: Signed<LeaseTerms>, now: u64) -> Result<Lease, KeeperError> {
        let _one_at_a_time = self.inner.granting.lock().await;
        let terms = self.book().grant(&proposal, now)?;
        let lease = Lease::countersign(proposal, &terms, &self.inner.owner);
        let value = Bytes::from(encode(&lease));
        self.inner.kv.commit(Vec::new(), vec![Mutation::Put { key: key(terms.id), value }]).await?;
        self.book().enter(terms, lease.clone());
        self.changed();
        Ok(lease)
    }

    /// Ends a lease by its tenant's word, and answers with it.
    ///
    /// # Errors
    /// [`KeeperError::NotFound`] unless the signer has such a lease here.
    pub async fn end(&self, end: &Signed<LeaseEnd>) -> Result<Granted, KeeperError> {
        let _one_at_a_time = self.inner.granting.lock().await;
        let id = self.book().ended_by(end).ok_or(KeeperError::NotFound)?;
        self.remove(id).await
    }

    /// Ends the leases whose time is over at `now`, and answers with them: what they held is to be taken away.
    ///
    /// # Errors
    /// [`KeeperError::Store`]
    pub async fn expire(&self, now: u64) -> Result<Vec<Granted>, KeeperError> {
        let _one_at_a_time = self.inner.granting.lock().await;
        let over = self.book().over(now);
        let mut ended = Vec::with_capacity(over.len());
        for id in over {
            ended.push(self.remove(id).await?);
        }
        Ok(ended)
    }

    async fn remove(&self, id: LeaseId) -> Result<Granted, KeeperError> {
        self.inner.kv.commit(Vec::new(), vec![Mutation::Delete { key: key(id) }]).await?;
        let removed = self.book().remove(&id).ok_or(KeeperError::NotFound)?;
        self.changed();
        Ok(removed)
    }

    /// The lease of this id, if it runs at `now`.
    #[must_use]
    pub fn running(&self, id: &LeaseId, now: u64) -> Option<LeaseTerms> {
        self.book().get(id, now).map(|granted| granted.terms.clone())
    }

    /// The terms of all leases on this node.
    #[must_use]
    pub fn all(&self) -> Vec<LeaseTerms> {
        self.book().iter().map(|granted| granted.terms.clone()).collect()
    }

    /// What is lent, and what of it is free at `now`.
    #[must_use]
    pub fn capacity(&self, now: u64) -> (Capacity, Capacity) {
        let book = self.book();
        (book.total(), book.free(now))
    }

    /// Changes whenever a lease is granted or ends.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }
}

fn key(id: LeaseId) -> Bytes {
    Bytes::from([PREFIX, id.to_string().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::{ByteCount, EvdcId};
    use atoll_keys::NodeKey;
    use atoll_kv::{Embedded, EmbeddedConfig};

    use super::*;
    use crate::protocol::{Answer, Request, ask, serve};
    use crate::statements::check_offer;

    const NOW: u64 = 1_800_000_000;

    #[tokio::test]
    async fn a_lease_is_made_kept_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (node, provider, tenant) = (NodeKey::generate().id(), Arc::new(OwnerKey::generate()), OwnerKey::generate());
        let total = Capacity { cpu_milli: 2000, memory: ByteCount(100), storage: ByteCount(100), pods: 10 };
        let price = Price::default();
        let open = |kv| Keeper::open(kv, node, provider.clone(), total, price.clone());
        let kv: Arc<dyn KeyValue> = Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap());
        let keeper = open(kv.clone()).await.unwrap();
        let exchange = async |keeper: &Keeper, request: Request| {
            let (here, there) = tokio::io::duplex(1 << 16);
            let (answer, served) = tokio::join!(ask(here, &request), serve(there, keeper, NOW));
            served.unwrap();
            answer.unwrap()
        };
        let Answer::Offer(offer) = exchange(&keeper, Request::Offer).await else { panic!("no offer") };
        let offer = check_offer(&offer, node, NOW).unwrap();
        assert_eq!(offer.free, total);
        let terms = LeaseTerms {
            id: LeaseId::from_bytes([7; 16]),
            node,
            provider: offer.owner,
            tenant: tenant.id(),
            evdc: EvdcId::from_bytes([1; 16]),
            capacity: Capacity { cpu_milli: 500, memory: ByteCount(60), storage: ByteCount(10), pods: 3 },
            price: offer.price,
            not_before: NOW,
            not_after: NOW + 60,
        };
        let proposal = Signed::sign(&terms, &tenant);
        let Answer::Granted(lease) = exchange(&keeper, Request::Propose(proposal)).await else { panic!("refused") };
        assert_eq!(lease.check().as_ref(), Ok(&terms));
        let more = LeaseTerms { id: LeaseId::from_bytes([8; 16]), ..terms.clone() };
        let Answer::Refused(why) = exchange(&keeper, Request::Propose(Signed::sign(&more, &tenant))).await else {
            panic!("granted more than there is")
        };
        assert!(why.contains("free here: 1.500 cores, 40 B"), "{why}");

        // A restarted node knows what it promised.
        drop(keeper);
        let keeper = open(kv.clone()).await.unwrap();
        assert_eq!(keeper.running(&terms.id, NOW), Some(terms.clone()));
        let end = LeaseEnd { id: terms.id, node, tenant: tenant.id() };
        let Answer::Refused(_) = exchange(&keeper, Request::End(Signed::sign(&end, &*provider))).await else {
            panic!("ended by a stranger")
        };
        let Answer::Ended = exchange(&keeper, Request::End(Signed::sign(&end, &tenant))).await else {
            panic!("not ended")
        };
        assert!(open(kv).await.unwrap().all().is_empty());
    }

    #[tokio::test]
    async fn time_ends_a_lease() {
        let folder = tempfile::tempdir().unwrap();
        let (node, provider, tenant) = (NodeKey::generate().id(), Arc::new(OwnerKey::generate()), OwnerKey::generate());
        let total = Capacity { cpu_milli: 2000, memory: ByteCount(100), storage: ByteCount(100), pods: 10 };
        let kv: Arc<dyn KeyValue> = Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap());
        let keeper = Keeper::open(kv, node, provider.clone(), total, Price::default()).await.unwrap();
        let terms = LeaseTerms {
            id: LeaseId::from_bytes([7; 16]),
            node,
            provider: provider.id(),
            tenant: tenant.id(),
            evdc: EvdcId::from_bytes([1; 16]),
            capacity: total,
            price: Price::default(),
            not_before: NOW,
            not_after: NOW + 60,
        };
        let mut changes = keeper.changes();
        keeper.propose(Signed::sign(&terms, &tenant), NOW).await.unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert!(keeper.expire(NOW + 60).await.unwrap().is_empty());
        let over: Vec<_> = keeper.expire(NOW + 61).await.unwrap().into_iter().map(|it| it.terms.id).collect();
        assert_eq!(over, [terms.id]);
        assert!(changes.has_changed().unwrap());
        assert_eq!(keeper.capacity(NOW + 61), (total, total));
    }
}
