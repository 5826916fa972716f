//! The statements: offers, lease terms, and the tenant's word that a lease ends early.

use std::fmt;

use atoll_ids::{ByteCount, EvdcId, LeaseId, NodeId, OwnerId};
use atoll_keys::{OwnerKey, Signed, Statement};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest lease: 31 days. A tenant that is gone blocks a node no longer than this; renewing is automatic.
pub const LEASE_SECONDS_MAX: u64 = 31 * 24 * 3600;

/// The longest code of a currency: "EUR", "TFT", "credit"…
const CURRENCY_BYTES_MAX: usize = 8;

/// An amount of what a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a processor core.
    pub cpu_milli: u32,
    /// Memory for workloads.
    pub memory: ByteCount,
    /// Room for shards.
    pub storage: ByteCount,
    /// Pods at once.
    pub pods: u32,
}

impl Capacity {
    /// Whether `other` fits into this.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        self.cpu_milli >= other.cpu_milli
            && self.memory.0 >= other.memory.0
            && self.storage.0 >= other.storage.0
            && self.pods >= other.pods
    }

    /// What is left of this without `other`; nothing below zero.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory: ByteCount(self.memory.0.saturating_sub(other.memory.0)),
            storage: ByteCount(self.storage.0.saturating_sub(other.storage.0)),
            pods: self.pods.saturating_sub(other.pods),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: ByteCount(self.memory.0.saturating_add(other.memory.0)),
            storage: ByteCount(self.storage.0.saturating_add(other.storage.0)),
            pods: self.pods.saturating_add(other.pods),
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu_milli, memory, storage, pods } = self;
        write!(
            f,
            "{}.{:03} cores, {memory} of memory, {storage} of storage, {pods} pods",
            cpu_milli / 1000,
            cpu_milli % 1000
        )
    }
}

/// What an hour of the whole offer costs; a lease of a part costs the part of its largest share. Zero is free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// A currency's code, at most 8 bytes; empty when free.
    pub currency: String,
    /// Millionths of the currency's unit per hour.
    pub micro_per_hour: u64,
}

/// What a node lends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which node.
    pub node: NodeId,
    /// Whose node; the statement must be signed by this key.
    pub owner: OwnerId,
    /// All that it lends, whatever of it is taken.
    pub total: Capacity,
    /// What of it was free when the offer was made.
    pub free: Capacity,
    /// What it costs.
    pub price: Price,
    /// Until when the offer stands, seconds since 1970 UTC.
    pub not_after: u64,
}

impl Versioned for Offer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "offer";
}

impl Statement for Offer {
    const DOMAIN: &'static str = "atoll/offer";
}

/// Why an offer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OfferError {
    /// The signature does not verify, or is not the named owner's.
    #[error("the offer is not signed by the owner it names")]
    Signature,
    /// It is over.
    #[error("the offer ended at {not_after}, and it is {now} here (seconds since 1970); ask again")]
    Over {
        /// When it ended.
        not_after: u64,
        /// The time here.
        now: u64,
    },
    /// It speaks for another node.
    #[error("the offer is for another node, {}", .0.short())]
    OtherNode(NodeId),
    /// The price's currency is too long.
    #[error("a currency has at most {CURRENCY_BYTES_MAX} bytes")]
    Currency,
}

/// Checks an offer that `node` gave, at `now` (seconds since 1970 UTC).
///
/// # Errors
/// [`OfferError`]
pub fn check_offer(offer: &Signed<Offer>, node: NodeId, now: u64) -> Result<Offer, OfferError> {
    let (offer, signer) = offer.verify().map_err(|_| OfferError::Signature)?;
    if signer != *offer.owner.as_bytes() {
        return Err(OfferError::Signature);
    }
    if offer.node != node {
        return Err(OfferError::OtherNode(offer.node));
    }
    if offer.price.currency.len() > CURRENCY_BYTES_MAX {
        return Err(OfferError::Currency);
    }
    if now > offer.not_after {
        return Err(OfferError::Over { not_after: offer.not_after, now });
    }
    Ok(offer)
}

/// What both sides of a lease sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// The lease.
    pub id: LeaseId,
    /// The node that is rented.
    pub node: NodeId,
    /// Whose node it is.
    pub provider: OwnerId,
    /// Who rents.
    pub tenant: OwnerId,
    /// What for.
    pub evdc: EvdcId,
    /// How much.
    pub capacity: Capacity,
    /// At what price.
    pub price: Price,
    /// From when on, seconds since 1970 UTC.
    pub not_before: u64,
    /// Until when, inclusive, seconds since 1970 UTC.
    pub not_after: u64,
}

impl Versioned for LeaseTerms {
    const VERSION: u16 = 1;
    const NAME: &'static str = "lease terms";
}

impl Statement for LeaseTerms {
    const DOMAIN: &'static str = "atoll/lease";
}

/// A lease: the same terms, signed by both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Signed by the tenant.
    pub by_tenant: Signed<LeaseTerms>,
    /// Signed by the provider.
    pub by_provider: Signed<LeaseTerms>,
}

impl Versioned for Lease {
    const VERSION: u16 = 1;
    const NAME: &'static str = "lease";
}

/// Why a lease is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// A signature does not verify, or is not the tenant's.
    #[error("the lease is not signed by its tenant")]
    Tenant,
    /// A signature does not verify, or is not the provider's.
    #[error("the lease is not signed by its provider")]
    Provider,
    /// The two did not sign the same.
    #[error("tenant and provider signed different terms")]
    Differ,
}

impl Lease {
    /// The provider's signature under what the tenant proposed.
    pub fn countersign(proposal: Signed<LeaseTerms>, terms: &LeaseTerms, provider: &OwnerKey) -> Self {
        Self { by_provider: Signed::sign(terms, provider), by_tenant: proposal }
    }

    /// The terms, if both signed them. Whether it runs at some moment is [`LeaseTerms::runs`].
    ///
    /// # Errors
    /// [`LeaseError`]
    pub fn check(&self) -> Result<LeaseTerms, LeaseError> {
        let (terms, tenant) = self.by_tenant.verify().map_err(|_| LeaseError::Tenant)?;
        let (granted, provider) = self.by_provider.verify().map_err(|_| LeaseError::Provider)?;
        if tenant != *terms.tenant.as_bytes() {
            return Err(LeaseError::Tenant);
        }
        if provider != *terms.provider.as_bytes() {
            return Err(LeaseError::Provider);
        }
        if terms != granted {
            return Err(LeaseError::Differ);
        }
        Ok(terms)
    }
}

impl LeaseTerms {
    /// Whether the lease runs at `now` (seconds since 1970 UTC).
    #[must_use]
    pub fn runs(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The tenant gives a lease back before its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEnd {
    /// Which lease.
    pub id: LeaseId,
    /// On which node.
    pub node: NodeId,
    /// Whose; the statement must be signed by this key.
    pub tenant: OwnerId,
}

impl Versioned for LeaseEnd {
    const VERSION: u16 = 1;
    const NAME: &'static str = "end of a lease";
}

impl Statement for LeaseEnd {
    const DOMAIN: &'static str = "atoll/lease-end";
}
