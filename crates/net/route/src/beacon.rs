//! What a node signs about itself so that others can have routes to it: a [`Beacon`].

use std::fmt;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::{Signed, Statement};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long a beacon is good for after it was signed: two and a half times the pause between two. Then every route by it is gone everywhere, and what was
/// remembered against loops by it may be forgotten.
pub(crate) const LIFETIME: Duration = Duration::from_secs(75 * 60);

/// How far apart clocks may be.
pub(crate) const SKEW: Duration = Duration::from_secs(10 * 60);

/// "I am here." Routes to the signer are compared by its sequence first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The signer.
    pub node: NodeId,
    /// Higher replaces lower. The time of signing in milliseconds since 1970, or one more than the last.
    pub sequence: u64,
    /// Whether it is a landmark: everybody keeps a route to it.
    pub landmark: bool,
}

impl Versioned for Beacon {
    const VERSION: u16 = 1;
    const NAME: &'static str = "beacon";
}

impl Statement for Beacon {
    const DOMAIN: &'static str = "atoll/route-beacon";
}

/// A beacon as it is sent: signed, or claiming to be. Simulations of many nodes use a shorter one with the same rules.
pub trait Sealed: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned {
    /// What it says, if the node that it is about signed it.
    fn open(&self) -> Option<Beacon>;

    /// Whom it claims to be about; good for finding out whether it is known already, not for trusting it.
    fn claimed_node(&self) -> NodeId;
}

impl Sealed for Signed<Beacon> {
    fn open(&self) -> Option<Beacon> {
        let (beacon, signer) = self.verify().ok()?;
        (beacon.node.as_bytes() == &signer).then_some(beacon)
    }

    fn claimed_node(&self) -> NodeId {
        NodeId::from_bytes(*self.claimed_signer())
    }
}

/// Whether a beacon of this sequence may be used at `now_ms`.
pub(crate) fn is_current(sequence: u64, now_ms: u64) -> bool {
    sequence.saturating_add(millis(LIFETIME)) > now_ms && sequence <= now_ms.saturating_add(millis(SKEW))
}

/// Whether no node has a route by this sequence any more, whatever its clock says.
pub(crate) fn is_gone_everywhere(sequence: u64, now_ms: u64) -> bool {
    sequence.saturating_add(millis(LIFETIME) + 2 * millis(SKEW)) <= now_ms
}

/// Whole milliseconds; 584 million years are enough.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
