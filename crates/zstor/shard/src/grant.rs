//! The owner's word that a node may store, read and delete for it: a signed, time-limited statement.
//!
//! A grant names the *client's* node, so it is worth nothing to anyone else: the stream it is shown on is authenticated
//! as that node. It does not name the storage node: which nodes store for an owner is each storage node's own decision
//! ([`ServePolicy`](crate::ServePolicy)).

use atoll_ids::{NodeId, OwnerId};
use atoll_keys::{Signed, Statement};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::CLOCK_SKEW_SECONDS;

/// Owner lets a node act for it at storage nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageGrant {
    /// Who grants; the statement must be signed by this key. Its shards are the namespace the node gets into.
    pub owner: OwnerId,
    /// Who may act.
    pub node: NodeId,
    /// From when on, in seconds since 1970 UTC.
    pub not_before: u64,
    /// Until when, inclusive, in seconds since 1970 UTC.
    pub not_after: u64,
}

impl Versioned for StorageGrant {
    const VERSION: u16 = 1;
    const NAME: &'static str = "storage grant";
}

impl Statement for StorageGrant {
    const DOMAIN: &'static str = "atoll/storage-grant";
}

/// Why a grant does not entitle the peer that shows it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrantError {
    /// The signature does not verify, or is not the named owner's.
    #[error("the grant is not signed by the owner it names")]
    Signature,
    /// It was given to another node.
    #[error("the grant is for node {}, not for {}", .granted.short(), .peer.short())]
    OtherNode {
        /// Whom it is for.
        granted: NodeId,
        /// Who shows it.
        peer: NodeId,
    },
    /// Its time has not come, allowing for clocks that differ.
    #[error("the grant is valid from {not_before}, and it is {now} here (seconds since 1970); is a clock wrong?")]
    TooEarly {
        /// When it starts.
        not_before: u64,
        /// The time here.
        now: u64,
    },
    /// Its time is over, allowing for clocks that differ.
    #[error("the grant expired at {not_after}, and it is {now} here (seconds since 1970); ask the owner for a new one")]
    Expired {
        /// When it ended.
        not_after: u64,
        /// The time here.
        now: u64,
    },
}

/// Checks a grant shown by the authenticated `peer` at `now` (seconds since 1970 UTC).
///
/// Clocks may differ by [`CLOCK_SKEW_SECONDS`] in the grant's favour.
///
/// # Errors
/// [`GrantError`]: the first reason found, signature first.
pub fn check(grant: &Signed<StorageGrant>, peer: NodeId, now: u64) -> Result<StorageGrant, GrantError> {
    let (statement, signer) = grant.verify().map_err(|_| GrantError::Signature)?;
    if signer != *statement.owner.as_bytes() {
        return Err(GrantError::Signature);
    }
    if statement.node != peer {
        return Err(GrantError::OtherNode { granted: statement.node, peer });
    }
    if now.saturating_add(CLOCK_SKEW_SECONDS) < statement.not_before {
        return Err(GrantError::TooEarly { not_before: statement.not_before, now });
    }
    if now > statement.not_after.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(GrantError::Expired { not_after: statement.not_after, now });
    }
    Ok(statement)
}
