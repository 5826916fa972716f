//! A tenant's word that a node may answer for names of theirs at a gateway.

use atoll_ids::{NodeId, OwnerId};
use atoll_keys::{Signed, Statement};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest host name (RFC 1035, section 2.3.4, less the root's dot).
pub const HOST_BYTES_MAX: usize = 253;

/// Patterns in one claim.
const PATTERNS_MAX: usize = 64;

/// The tenant lets a node answer for names at a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose names; the statement must be signed by this key.
    pub tenant: OwnerId,
    /// The node that may answer.
    pub node: NodeId,
    /// At which gateway.
    pub gateway: NodeId,
    /// Names, each a host, `*.` and a domain for the names one label below it, or `*` for any that the gateway lets the tenant have.
    pub hosts: Vec<String>,
    /// Until when, inclusive, seconds since 1970 UTC.
    pub not_after: u64,
}

impl Versioned for Claim {
    const VERSION: u16 = 1;
    const NAME: &'static str = "claim of names";
}

impl Statement for Claim {
    const DOMAIN: &'static str = "atoll/gateway-claim";
}

/// Why a claim does not entitle the node that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// The signature does not verify, or is not the tenant's.
    #[error("the claim is not signed by the tenant it names")]
    Signature,
    /// It is for another node or gateway.
    #[error("the claim is for node {} at gateway {}", .node.short(), .gateway.short())]
    Other {
        /// The node it is for.
        node: NodeId,
        /// The gateway it is for.
        gateway: NodeId,
    },
    /// Its time is over.
    #[error("the claim ended at {not_after}, and it is {now} here (seconds since 1970)")]
    Over {
        /// When it ended.
        not_after: u64,
        /// The time here.
        now: u64,
    },
    /// Too many names.
    #[error("a claim has at most {PATTERNS_MAX} names")]
    TooMany,
}

impl Claim {
    /// Checks a claim that the authenticated `node` shows at `gateway`.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub fn check(signed: &Signed<Self>, node: NodeId, gateway: NodeId, now: u64) -> Result<Self, ClaimError> {
        let (claim, signer) = signed.verify().map_err(|_| ClaimError::Signature)?;
        if signer != *claim.tenant.as_bytes() {
            return Err(ClaimError::Signature);
        }
        if claim.node != node || claim.gateway != gateway {
            return Err(ClaimError::Other { node: claim.node, gateway: claim.gateway });
        }
        if now > claim.not_after {
            return Err(ClaimError::Over { not_after: claim.not_after, now });
        }
        if claim.hosts.len() > PATTERNS_MAX {
            return Err(ClaimError::TooMany);
        }
        Ok(claim)
    }

    /// Whether the claim covers this host (lower case).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
            None => pattern == "*" || pattern == host,
        })
    }
}

/// Whether this is a host name in lower case: labels of a-z, 0-9 and -, at most 63 bytes each, 253 in all.
#[must_use]
pub fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let fits = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        fits && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    host.len() <= HOST_BYTES_MAX && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::{NodeKey, OwnerKey};

    use super::*;

    #[test]
    fn what_a_claim_covers() {
        fn check(patterns: &[&str], host: &str, expected: bool) {
            let node = NodeKey::generate().id();
            let hosts = patterns.iter().map(ToString::to_string).collect();
            let claim = Claim { tenant: OwnerKey::generate().id(), node, gateway: node, hosts, not_after: 0 };
            assert_eq!(claim.covers(host), expected, "{patterns:?} {host}");
        }
        check(&["a.example"], "a.example", true);
        check(&["a.example"], "b.a.example", false);
        check(&["*.example"], "a.example", true);
        check(&["*.example"], "b.a.example", false);
        check(&["*.example"], "example", false);
        check(&["*.example"], ".example", false);
        check(&["*"], "anything.at.all", true);
        check(&[], "a.example", false);
    }

    #[test]
    fn who_may_show_it() {
        let (tenant, node, gateway) = (OwnerKey::generate(), NodeKey::generate().id(), NodeKey::generate().id());
        let claim = Claim { tenant: tenant.id(), node, gateway, hosts: vec!["*".into()], not_after: 10 };
        let signed = Signed::sign(&claim, &tenant);
        assert!(Claim::check(&signed, node, gateway, 10).is_ok());
        assert!(matches!(Claim::check(&signed, node, gateway, 11), Err(ClaimError::Over { .. })));
        assert!(matches!(Claim::check(&signed, gateway, gateway, 10), Err(ClaimError::Other { .. })));
        assert!(matches!(Claim::check(&signed, node, node, 10), Err(ClaimError::Other { .. })));
        let forged = Signed::sign(&claim, &OwnerKey::generate());
        assert_eq!(Claim::check(&forged, node, gateway, 10), Err(ClaimError::Signature));
    }

    #[test]
    fn host_names() {
        for good in ["a", "guestbook.example", "x-1.y"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", ".", "a.", "A.b", "-a", "a-", "a_b", "a b", &"a".repeat(64), "[::1]"] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
