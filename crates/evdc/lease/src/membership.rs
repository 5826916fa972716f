//! Who belongs to an eVDC: the tenant's signed word, and what follows from it for the network.
//!
//! The network of an eVDC is a ULA /48 (RFC 4193) whose 40 bits of global id are a hash of the eVDC's id, so that two eVDCs share one only by a chance of
//! 2⁻⁴⁰; a member's pods have the /64 that its index names. Packets of that /64 are taken only from that member.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use atoll_ids::{EvdcId, LeaseId, NodeId, OwnerId};
use atoll_keys::{Signed, Statement};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Members of one eVDC. The statement stays far under the 64 KiB that a statement may have.
pub const MEMBERS_MAX: usize = 512;

/// A name of an eVDC is a DNS label (RFC 1123).
const NAME_BYTES_MAX: usize = 63;

/// One node of an eVDC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// By which lease.
    pub lease: LeaseId,
    /// Its name in Kubernetes: a DNS label.
    pub name: String,
    /// The fourth group of its pods' addresses: their /64. Never 0, which is the Services'. Kept for as long as it is a member.
    pub subnet: u16,
}

/// The nodes of an eVDC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Which eVDC.
    pub evdc: EvdcId,
    /// Whose; the statement must be signed by this key.
    pub tenant: OwnerId,
    /// Its name.
    pub name: String,
    /// Counts up with every change; a lower one than was seen is refused.
    pub serial: u64,
    /// The member that serves the Kubernetes API.
    pub control: NodeId,
    /// The tenant's own node: where images are fetched and volumes' heads are kept besides. Not necessarily a member.
    pub home: NodeId,
    /// The gateway for what is reached from outside, if any, and the domain it answers for.
    pub gateway: Option<(NodeId, String)>,
    /// The members.
    pub members: Vec<Member>,
}

impl Versioned for Membership {
    const VERSION: u16 = 1;
    const NAME: &'static str = "membership";
}

impl Statement for Membership {
    const DOMAIN: &'static str = "atoll/membership";
}

/// Why a membership is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// The signature does not verify, or is not the tenant's.
    #[error("the membership is not signed by the tenant it names")]
    Signature,
    /// The id does not follow from tenant and name.
    #[error("the id of the eVDC is not that of {name:?} of this tenant")]
    Id {
        /// The name it gives.
        name: String,
    },
    /// A name is no DNS label.
    #[error("{0:?} is no name: 1 to 63 of a-z, 0-9 and -, not at its ends")]
    Name(String),
    /// A node, name or subnet occurs twice, or subnet 0, or too many members.
    #[error("members must be at most {MEMBERS_MAX}, each with a node, a name and a subnet from 1 of its own")]
    Members,
    /// The API's node is no member.
    #[error("the node that serves the API, {}, is no member", .0.short())]
    Control(NodeId),
    /// An older one than is known.
    #[error("this membership has serial {found}; {known} is known already")]
    Old {
        /// Its serial.
        found: u64,
        /// The highest known.
        known: u64,
    },
}

/// The id of the eVDC of this name: BLAKE3 of tenant and name under a context of its own.
#[must_use]
pub fn evdc_id(tenant: OwnerId, name: &str) -> EvdcId {
    let mut hasher = blake3::Hasher::new_derive_key("atoll 2026-11 evdc id v1");
    hasher.update(tenant.as_bytes()).update(name.as_bytes());
    let mut id = [0; EvdcId::BYTES];
    hasher.finalize_xof().fill(&mut id);
    EvdcId::from_bytes(id)
}

/// The /48 of an eVDC: `fd`, then 40 bits of a hash of its id.
#[must_use]
pub fn pod_prefix(evdc: EvdcId) -> Ipv6Addr {
    let hash = blake3::derive_key("atoll 2026-11 evdc prefix v1", evdc.as_bytes());
    let mut address = [0; 16];
    address[0] = 0xfd;
    address[1..6].copy_from_slice(&hash[..5]);
    Ipv6Addr::from(address)
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl Membership {
    /// Checks a membership; `known` is the highest serial seen of this eVDC, if any was.
    ///
    /// # Errors
    /// [`MembershipError`]
    pub fn check(signed: &Signed<Self>, known: Option<u64>) -> Result<Self, MembershipError> {
        let (membership, signer) = signed.verify().map_err(|_| MembershipError::Signature)?;
        if signer != *membership.tenant.as_bytes() {
            return Err(MembershipError::Signature);
        }
        membership.consistent()?;
        match known {
            Some(known) if membership.serial < known => Err(MembershipError::Old { found: membership.serial, known }),
            _ => Ok(membership),
        }
    }

    /// Whether this can be the name of an eVDC.
    ///
    /// # Errors
    /// [`MembershipError::Name`]
    pub fn check_name(name: &str) -> Result<(), MembershipError> {
        if is_label(name) { Ok(()) } else { Err(MembershipError::Name(name.to_owned())) }
    }

    fn consistent(&self) -> Result<(), MembershipError> {
        let names = self.members.iter().map(|member| &member.name).chain([&self.name]);
        if let Some(wrong) = names.into_iter().find(|name| !is_label(name)) {
            return Err(MembershipError::Name(wrong.clone()));
        }
        if self.evdc != evdc_id(self.tenant, &self.name) {
            return Err(MembershipError::Id { name: self.name.clone() });
        }
        let count = self.members.len();
        let distinct = [
            self.members.iter().map(|it| it.node).collect::<BTreeSet<_>>().len(),
            self.members.iter().map(|it| &it.name).collect::<BTreeSet<_>>().len(),
            self.members.iter().map(|it| it.subnet).filter(|it| *it != 0).collect::<BTreeSet<_>>().len(),
        ];
        if count > MEMBERS_MAX || distinct.iter().any(|it| *it != count) {
            return Err(MembershipError::Members);
        }
        self.member(self.control).map(|_| ()).ok_or(MembershipError::Control(self.control))
    }

    /// The member that this node is.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The eVDC's /48.
    #[must_use]
    pub fn prefix(&self) -> Ipv6Addr {
        pod_prefix(self.evdc)
    }

    /// The /64 of a member's pods.
    #[must_use]
    pub fn subnet(&self, member: &Member) -> Ipv6Addr {
        self.with_group(member.subnet)
    }

    /// The /64 of the Services' addresses: subnet 0.
    #[must_use]
    pub fn services(&self) -> Ipv6Addr {
        self.with_group(0)
    }

    fn with_group(&self, group: u16) -> Ipv6Addr {
        let mut groups = self.prefix().segments();
        groups[3] = group;
        Ipv6Addr::from(groups)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::{NodeKey, OwnerKey};

    use super::*;

    fn membership(tenant: &OwnerKey) -> Membership {
        let member = |subnet: u16| Member {
            node: NodeKey::generate().id(),
            lease: LeaseId::from_bytes([1; 16]),
            name: format!("node-{subnet}"),
            subnet,
        };
        let members = vec![member(1), member(2)];
        Membership {
            evdc: evdc_id(tenant.id(), "hello"),
            tenant: tenant.id(),
            name: "hello".into(),
            serial: 4,
            control: members[0].node,
            home: NodeKey::generate().id(),
            gateway: None,
            members,
        }
    }

    #[test]
    fn what_is_believed() {
        fn check(change: impl FnOnce(&mut Membership), expected: Option<&str>) {
            let tenant = OwnerKey::generate();
            let mut value = membership(&tenant);
            change(&mut value);
            let found = Membership::check(&Signed::sign(&value, &tenant), Some(4)).err().map(|it| it.to_string());
            match (expected, found) {
                (None, None) => {}
                (Some(expected), Some(found)) => assert!(found.contains(expected), "{found}"),
                (expected, found) => panic!("{expected:?} {found:?}"),
            }
        }
        check(|_| {}, None);
        check(|it| it.serial = 3, Some("serial 3"));
        check(|it| it.name = "other".into(), Some("not that of"));
        check(|it| it.members[0].name = "-a".into(), Some("no name"));
        check(|it| it.members[0].subnet = 2, Some("of its own"));
        check(|it| it.members[0].subnet = 0, Some("of its own"));
        check(|it| it.control = it.home, Some("no member"));
        check(|it| it.tenant = OwnerKey::generate().id(), Some("not signed"));
    }

    #[test]
    fn subnets_lie_in_the_prefix_and_differ() {
        let value = membership(&OwnerKey::generate());
        let (first, second) = (value.subnet(&value.members[0]), value.subnet(&value.members[1]));
        assert_eq!(first.segments()[..3], value.prefix().segments()[..3]);
        assert_eq!(first.octets()[0], 0xfd);
        assert_ne!(first, second);
        assert_ne!(first, value.services());
    }
}
