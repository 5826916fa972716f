//! What a node is told to do for an eVDC, and keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_gateway::{Claim, ClaimError};
use atoll_ids::{EvdcId, NodeId};
use atoll_keys::Signed;
use atoll_kv::{KeyValue, KvError, Mutation, Scan};
use atoll_lease::{Lease, LeaseError, LeaseTerms, Member, Membership, MembershipError};
use atoll_link::AddressRecord;
use atoll_shard::{GrantError, StorageGrant, check_grant};
use atoll_wire::{DecodeError, Versioned, decode, encode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

/// Where assignments lie in the key-value store.
const PREFIX: &[u8] = b"evdc/assignment/";

/// A node serves this many eVDCs at most: one API server or agent each.
const ASSIGNMENTS_MAX: usize = 64;

/// What a member must know to do its part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who belongs to the eVDC.
    pub membership: Signed<Membership>,
    /// The lease by which this node is rented.
    pub lease: Lease,
    /// Lets this node store for the tenant: its volumes.
    pub storage: Signed<StorageGrant>,
    /// Lets this node answer for the tenant's names at the gateway.
    pub claim: Option<Signed<Claim>>,
    /// Where the other members, the tenant's own node and the gateway are.
    pub records: Vec<Signed<AddressRecord>>,
}

impl Versioned for Assignment {
    const VERSION: u16 = 1;
    const NAME: &'static str = "assignment";
}

/// Why a node does not take an assignment.
#[derive(Debug, Error)]
pub enum AssignmentError {
    /// The membership is not good.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The lease is not good.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The storage grant is not good.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The claim is not good.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The parts are not of one tenant, eVDC and node.
    #[error("the {0} is of another tenant, eVDC or node than the membership")]
    Mixed(&'static str),
    /// The lease does not run.
    #[error("the lease ran from {} to {}, and it is {now} here (seconds since 1970)", .terms.not_before, .terms.not_after)]
    Over {
        /// Its terms.
        terms: Box<LeaseTerms>,
        /// The time here.
        now: u64,
    },
    /// The membership does not name this node.
    #[error("this node is no member of the eVDC")]
    NoMember,
}

/// An assignment whose signatures were checked, with what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// Who belongs to the eVDC.
    pub membership: Membership,
    /// What this node lends to it.
    pub terms: LeaseTerms,
    /// This node among the members.
    pub member: Member,
    /// As it was handed over.
    pub assignment: Assignment,
}

/// Leases may begin a little in the future of a slow clock: two minutes, as everywhere in the protocols.
const CLOCK_SKEW_SECONDS: u64 = 120;

impl Assignment {
    /// What this says to `node` at `now` (seconds since 1970 UTC); `known` is the highest serial of the membership that it has seen.
    ///
    /// # Errors
    /// [`AssignmentError`]
    pub fn check(&self, node: NodeId, known: Option<u64>, now: u64) -> Result<Assigned, AssignmentError> {
        let membership = Membership::check(&self.membership, known)?;
        let terms = self.lease.check()?;
        let member = membership.member(node).cloned().ok_or(AssignmentError::NoMember)?;
        let fits = terms.tenant == membership.tenant && terms.evdc == membership.evdc;
        if !fits || terms.node != node || terms.id != member.lease {
            return Err(AssignmentError::Mixed("lease"));
        }
        if now.saturating_add(CLOCK_SKEW_SECONDS) < terms.not_before || now > terms.not_after {
            return Err(AssignmentError::Over { terms: Box::new(terms), now });
        }
        if check_grant(&self.storage, node, now)?.owner != membership.tenant {
            return Err(AssignmentError::Mixed("storage grant"));
        }
        if let (Some(claim), Some((gateway, _))) = (&self.claim, &membership.gateway)
            && Claim::check(claim, node, *gateway, now)?.tenant != membership.tenant
        {
            return Err(AssignmentError::Mixed("claim of names"));
        }
        Ok(Assigned { membership, terms, member, assignment: self.clone() })
    }
}

impl Assignment {
    /// What it said to `node` while it ran: for clearing up after it.
    ///
    /// # Errors
    /// [`AssignmentError`]
    pub(crate) fn once(&self, node: NodeId) -> Result<Assigned, AssignmentError> {
        let membership = Membership::check(&self.membership, None)?;
        let terms = self.lease.check()?;
        let member = membership.member(node).cloned().ok_or(AssignmentError::NoMember)?;
        if terms.evdc != membership.evdc || terms.id != member.lease {
            return Err(AssignmentError::Mixed("lease"));
        }
        Ok(Assigned { membership, terms, member, assignment: self.clone() })
    }
}

impl Assigned {
    /// Whether this node serves the eVDC's API.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.membership.control == self.member.node
    }
}

/// Why assignments cannot be kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The assignment is not acceptable.
    #[error(transparent)]
    Refused(#[from] AssignmentError),
    /// The store fails.
    #[error("the assignment cannot be kept: {0}")]
    Store(#[from] KvError),
    /// What is on disk is not an assignment.
    #[error("the assignment under {key} cannot be read: {source}")]
    Corrupt {
        /// Its key in the store.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// No more room.
    #[error("this node serves {ASSIGNMENTS_MAX} eVDCs already")]
    TooMany,
}

/// The assignments of this node, on disk. Cheap to clone.
#[derive(Clone)]
pub struct Assignments {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    kv: Arc<dyn KeyValue>,
    taken: Mutex<BTreeMap<EvdcId, Assigned>>,
    writing: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
}

impl Assignments {
    /// Reads what `node` was assigned. What has ended meanwhile is dropped.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or holds something else.
    pub async fn open(kv: Arc<dyn KeyValue>, node: NodeId, now: u64) -> Result<Self, StoreError> {
        let mut taken = BTreeMap::new();
        for entry in kv.scan(Scan::new(PREFIX, ASSIGNMENTS_MAX * 2)).await? {
            let assignment: Assignment = decode(&entry.value).map_err(|source| StoreError::Corrupt {
                key: String::from_utf8_lossy(&entry.key).into_owned(),
                source,
            })?;
            match assignment.check(node, None, now) {
                Ok(assigned) => {
                    taken.insert(assigned.membership.evdc, assigned);
                }
                Err(error) => {
                    tracing::info!(%error, "an assignment has ended while this node was down");
                    kv.commit(Vec::new(), vec![Mutation::Delete { key: entry.key }]).await?;
                }
            }
        }
        let inner = Inner {
            node,
            kv,
            taken: Mutex::new(taken),
            writing: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<EvdcId, Assigned>> {
        self.inner.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an assignment: checked, on disk.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn take(&self, assignment: Assignment, now: u64) -> Result<Assigned, StoreError> {
        let _one_at_a_time = self.inner.writing.lock().await;
        // The serial that counts is the one of the same eVDC, which only the checked statement tells.
        let assigned = assignment.check(self.inner.node, None, now)?;
        let evdc = assigned.membership.evdc;
        let known = self.taken().get(&evdc).map(|known| known.membership.serial);
        let assigned = assignment.check(self.inner.node, known, now).map(|_| assigned)?;
        if known.is_none() && self.taken().len() >= ASSIGNMENTS_MAX {
            return Err(StoreError::TooMany);
        }
        let value = Bytes::from(encode(&assignment));
        self.inner.kv.commit(Vec::new(), vec![Mutation::Put { key: key(evdc), value }]).await?;
        self.taken().insert(evdc, assigned.clone());
        self.changed();
        Ok(assigned)
    }

    /// Drops what was assigned for an eVDC; true if anything was.
    ///
    /// # Errors
    /// [`StoreError::Store`]
    pub async fn drop(&self, evdc: EvdcId) -> Result<bool, StoreError> {
        let _one_at_a_time = self.inner.writing.lock().await;
        self.inner.kv.commit(Vec::new(), vec![Mutation::Delete { key: key(evdc) }]).await?;
        let removed = self.taken().remove(&evdc).is_some();
        if removed {
            self.changed();
        }
        Ok(removed)
    }

    /// The assignment for an eVDC.
    #[must_use]
    pub fn get(&self, evdc: &EvdcId) -> Option<Assigned> {
        self.taken().get(evdc).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Assigned> {
        self.taken().values().cloned().collect()
    }

    /// Changes whenever one is taken or dropped.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }
}

fn key(evdc: EvdcId) -> Bytes {
    Bytes::from([PREFIX, evdc.to_string().as_bytes()].concat())
}

#[cfg(test)]
pub(crate) mod tests;
