//! Who lends what to whom: offers, leases and memberships as signed statements, the provider's book of them, and the protocol by which a lease is made.
//!
//! - An [`Offer`] is what the owner of a node lends and at what price, signed by that owner.
//! - A [`Lease`] is one set of [`LeaseTerms`] signed twice: by the tenant, who proposes it, and by the provider, who grants it. Either can show it to
//!   anyone. It ends at its `not_after`; a renewal is a lease of the same id with a later end.
//! - A [`Membership`] is the tenant's word which nodes form an eVDC, which of them serves its API, and which part of its network each has.
//! - The [`Book`] is pure: what is lent, what is free, what is over. The [`Keeper`] keeps it on disk and signs.
//!
//! # Invariants
//! - What is promised never exceeds what the offer names: [`Book::grant`] is the only way in.
//! - Nothing is granted that the proposing tenant did not sign, for this node, at no less than the asked price, within [`LEASE_SECONDS_MAX`].
//! - A granted lease is on disk before its signature leaves the node.
//!
//! Enforcing a lease (cgroups, quotas) is not here: the node does it.

mod book;
mod choose;
mod keeper;
mod membership;
mod protocol;
mod statements;

pub use book::{Book, Granted, RefusedLease};
pub use choose::{TooFew, choose};
pub use keeper::{Keeper, KeeperError};
pub use membership::{MEMBERS_MAX, Member, Membership, MembershipError, evdc_id, pod_prefix};
pub use protocol::{Answer, PROTOCOL, Request, ask, serve};
pub use statements::{
    Capacity, LEASE_SECONDS_MAX, Lease, LeaseEnd, LeaseError, LeaseTerms, Offer, OfferError, Price, check_offer,
};
