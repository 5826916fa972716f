//! The provider's book: which leases run on this node, what they take, what is free. Pure; the clock is an argument.

use std::collections::BTreeMap;

use atoll_ids::{LeaseId, NodeId, OwnerId};
use atoll_keys::Signed;
use thiserror::Error;

use crate::statements::{Capacity, LEASE_SECONDS_MAX, Lease, LeaseEnd, LeaseTerms, Price};

/// A clock of a tenant may be ahead by this much: two minutes, as everywhere in the protocols.
const CLOCK_SKEW_SECONDS: u64 = 120;

/// Leases on one node. Each is at least a pod; nodes do not run more pods than this.
const LEASES_MAX: usize = 1024;

/// Why a lease is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefusedLease {
    /// The tenant did not sign, or signed as somebody else.
    #[error("the proposal is not signed by its tenant")]
    Signature,
    /// It names another node or owner.
    #[error("the proposal is for node {}, whose owner is said to be {}; that is not this one", .node.short(), .provider.short())]
    OtherNode {
        /// The node it names.
        node: NodeId,
        /// The owner it names.
        provider: OwnerId,
    },
    /// It is over, or would start later, or is empty, or too long.
    #[error(
        "a lease starts now, ends later, and runs at most {LEASE_SECONDS_MAX} s; it is {now} here and the proposal is for {not_before} to {not_after}"
    )]
    Time {
        /// Proposed start.
        not_before: u64,
        /// Proposed end.
        not_after: u64,
        /// The time here.
        now: u64,
    },
    /// There is not that much left.
    #[error("asked for {asked}; free here: {free}")]
    Full {
        /// What was asked for.
        asked: Capacity,
        /// What is free, counting what a renewed lease already holds.
        free: Capacity,
    },
    /// It pays less than is asked.
    #[error("the price is {} millionths of {:?} an hour", .0.micro_per_hour, .0.currency)]
    Price(Price),
    /// The id is another tenant's.
    #[error("there is a lease of this id for another tenant")]
    Taken,
    /// Nothing is lent here.
    #[error("this node lends nothing")]
    Closed,
}

/// A lease that runs, with its terms at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// The terms both signed.
    pub terms: LeaseTerms,
    /// The two signatures.
    pub lease: Lease,
}

/// The leases of one node.
#[derive(Debug)]
pub struct Book {
    node: NodeId,
    provider: OwnerId,
    total: Capacity,
    price: Price,
    leases: BTreeMap<LeaseId, Granted>,
}

impl Book {
    /// An empty book for a node of `provider` that lends `total`.
    #[must_use]
    pub fn new(node: NodeId, provider: OwnerId, total: Capacity, price: Price) -> Self {
        Self { node, provider, total, price, leases: BTreeMap::new() }
    }

    /// All that is lent.
    #[must_use]
    pub fn total(&self) -> Capacity {
        self.total
    }

    /// What it costs.
    #[must_use]
    pub fn price(&self) -> &Price {
        &self.price
    }

    /// What is free at `now`.
    #[must_use]
    pub fn free(&self, now: u64) -> Capacity {
        self.free_but_for(None, now)
    }

    fn free_but_for(&self, renewed: Option<LeaseId>, now: u64) -> Capacity {
        let running = self.leases.values().filter(|it| it.terms.not_after >= now && Some(it.terms.id) != renewed);
        let taken = running.fold(Capacity::default(), |sum, it| sum.and(&it.terms.capacity));
        self.total.without(&taken)
    }

    /// Whether this proposal can be granted at `now`: its terms, to be countersigned and entered with [`Book::enter`].
    ///
    /// The terms with the id of a lease that runs renew or change it, if the tenant is the same.
    ///
    /// # Errors
    /// [`RefusedLease`]
    pub fn grant(&self, proposal: &Signed<LeaseTerms>, now: u64) -> Result<LeaseTerms, RefusedLease> {
        let (terms, signer) = proposal.verify().map_err(|_| RefusedLease::Signature)?;
        if signer != *terms.tenant.as_bytes() {
            return Err(RefusedLease::Signature);
        }
        if terms.node != self.node || terms.provider != self.provider {
            return Err(RefusedLease::OtherNode { node: terms.node, provider: terms.provider });
        }
        if self.total == Capacity::default() {
            return Err(RefusedLease::Closed);
        }
        let length = terms.not_after.saturating_sub(now);
        let starts_now = terms.not_before <= now.saturating_add(CLOCK_SKEW_SECONDS);
        if !starts_now || terms.not_after < now || length > LEASE_SECONDS_MAX {
            let LeaseTerms { not_before, not_after, .. } = terms;
            return Err(RefusedLease::Time { not_before, not_after, now });
        }
        let free_of_charge = self.price.micro_per_hour == 0;
        let pays =
            terms.price.currency == self.price.currency && terms.price.micro_per_hour >= self.price.micro_per_hour;
        if !free_of_charge && !pays {
            return Err(RefusedLease::Price(self.price.clone()));
        }
        if self.leases.get(&terms.id).is_some_and(|held| held.terms.tenant != terms.tenant) {
            return Err(RefusedLease::Taken);
        }
        let free = self.free_but_for(Some(terms.id), now);
        if !free.holds(&terms.capacity) || self.leases.len() >= LEASES_MAX {
            return Err(RefusedLease::Full { asked: terms.capacity, free });
        }
        Ok(terms)
    }

    /// Enters a lease that was granted, or found on disk.
    pub fn enter(&mut self, terms: LeaseTerms, lease: Lease) {
        self.leases.insert(terms.id, Granted { terms, lease });
    }

    /// Which lease this statement ends: `None` if there is none, or it is not its tenant who says so.
    #[must_use]
    pub fn ended_by(&self, end: &Signed<LeaseEnd>) -> Option<LeaseId> {
        let (end, signer) = end.verify().ok()?;
        let held = self.leases.get(&end.id)?;
        let entitled = end.node == self.node && signer == *held.terms.tenant.as_bytes();
        (entitled && end.tenant == held.terms.tenant).then_some(end.id)
    }

    /// Takes a lease out.
    pub fn remove(&mut self, id: &LeaseId) -> Option<Granted> {
        self.leases.remove(id)
    }

    /// The leases that are over at `now`.
    #[must_use]
    pub fn over(&self, now: u64) -> Vec<LeaseId> {
        self.leases.values().filter(|it| it.terms.not_after < now).map(|it| it.terms.id).collect()
    }

    /// A lease that runs at `now`.
    #[must_use]
    pub fn get(&self, id: &LeaseId, now: u64) -> Option<&Granted> {
        self.leases.get(id).filter(|it| it.terms.runs_with_skew(now))
    }

    /// All leases, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Granted> {
        self.leases.values()
    }
}

impl LeaseTerms {
    fn runs_with_skew(&self, now: u64) -> bool {
        self.not_before <= now.saturating_add(CLOCK_SKEW_SECONDS) && now <= self.not_after
    }
}

#[cfg(test)]
mod tests;
