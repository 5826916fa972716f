//! Where a node can be reached, as it says itself: the signed [`AddressRecord`].
//!
//! A record replaces an earlier one of the same node when its sequence is higher; nobody but the node can make one. What
//! stands in it is a claim, though: a dialler treats every address as a guess and believes only the handshake.

use std::net::{IpAddr, SocketAddr};

use atoll_find::Whereabouts;
use atoll_ids::{NodeId, PlanetaryAddress};
use atoll_keys::{Signed, Statement, VerifyError};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};

/// The most addresses a record may have of each kind: a machine with a dozen interfaces in both families fits, and a dialler has
/// no more to try at once.
pub const ADDRESSES_MAX: usize = 32;

/// The longest relay URL, in bytes.
const RELAY_BYTES_MAX: usize = 256;

/// Where a node can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// Whose addresses these are; the signer.
    pub node: NodeId,
    /// Higher replaces lower. The time of signing in milliseconds since 1970, or one more than the last if the clock went back.
    pub sequence: u64,
    /// Where it listens for QUIC (UDP).
    pub quic: Vec<SocketAddr>,
    /// Where it listens for lanes (TCP).
    pub lane: Vec<SocketAddr>,
    /// The relay through which it can be reached.
    pub relay: Option<String>,
}

impl Versioned for AddressRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "address record";
}

impl Statement for AddressRecord {
    const DOMAIN: &'static str = "atoll/address-record";
}

impl Whereabouts for AddressRecord {
    fn node(&self) -> NodeId {
        self.node
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn is_within_limits(&self) -> bool {
        self.too_much().is_none()
    }
}

impl AddressRecord {
    /// What there is more of than there may be.
    fn too_much(&self) -> Option<RecordError> {
        let limits = [
            ("QUIC addresses", self.quic.len(), ADDRESSES_MAX),
            ("lane addresses", self.lane.len(), ADDRESSES_MAX),
            ("bytes of relay URL", self.relay.as_ref().map_or(0, String::len), RELAY_BYTES_MAX),
        ];
        let over = limits.into_iter().find(|(_, found, max)| found > max);
        over.map(|(what, found, max)| RecordError::TooMuch { what, found, max })
    }

    /// Whether both say the same about where the node is.
    pub(crate) fn same_places(&self, other: &Self) -> bool {
        (&self.quic, &self.lane, &self.relay) == (&other.quic, &other.lane, &other.relay)
    }
}

/// Why an address record is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Forged, damaged or unreadable.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// Signed by another node than the one it is about.
    #[error("the address record of node {node} is signed by somebody else")]
    Foreign {
        /// Whom it is about.
        node: NodeId,
    },
    /// Larger than any that is accepted.
    #[error("an address record with {found} {what} where {max} are possible")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
}

/// What a signed record says, if its node signed it and it is within limits. Addresses that must not be dialled are left out.
///
/// # Errors
///
/// [`RecordError`].
pub fn open_record(signed: &Signed<AddressRecord>) -> Result<AddressRecord, RecordError> {
    let (mut record, signer) = signed.verify()?;
    if record.node.as_bytes() != &signer {
        return Err(RecordError::Foreign { node: record.node });
    }
    if let Some(error) = record.too_much() {
        return Err(error);
    }
    record.quic.retain(is_dialable);
    record.lane.retain(is_dialable);
    Ok(record)
}

/// Whether an address may be dialled and advertised. Planetary addresses lead through the very connections that are to be opened;
/// unspecified, multicast and broadcast addresses and port 0 are nobody's, and link-local IPv6 addresses mean something on one cable only.
pub fn is_dialable(address: &SocketAddr) -> bool {
    let nobody = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            let useless = ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local();
            useless || PlanetaryAddress::from_ip(ip).is_ok()
        }
    };
    address.port() != 0 && !nobody
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;

    use super::*;

    fn record(node: NodeId, quic: &[&str]) -> AddressRecord {
        let quic = quic.iter().map(|text| text.parse().unwrap()).collect();
        AddressRecord { node, sequence: 1, quic, lane: Vec::new(), relay: None }
    }

    #[test]
    fn addresses_that_lead_nowhere_or_in_a_circle_are_left_out() {
        let key = NodeKey::generate();
        let planetary = format!("[{}]:4000", key.id().planetary_address());
        let all =
            ["127.0.0.1:4000", "0.0.0.0:4000", "[::]:1", "10.0.0.1:0", "224.0.0.1:5", "[2001:db8::1]:7", &planetary];
        let opened = open_record(&Signed::sign(&record(key.id(), &all), &key)).unwrap();
        assert_eq!(opened.quic, record(key.id(), &["127.0.0.1:4000", "[2001:db8::1]:7"]).quic);
    }

    #[test]
    fn nobody_speaks_for_another_node() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let refused = open_record(&Signed::sign(&record(other.id(), &[]), &key));
        assert_eq!(refused, Err(RecordError::Foreign { node: other.id() }));
    }

    #[test]
    fn a_record_has_limits() {
        let key = NodeKey::generate();
        let refused = open_record(&Signed::sign(&record(key.id(), &["127.0.0.1:1"; ADDRESSES_MAX + 1]), &key));
        assert!(matches!(refused, Err(RecordError::TooMuch { found, .. }) if found == ADDRESSES_MAX + 1));
    }
}
