//! What is kept and looked up: a [`Record`] of a node, believed only under that node's own signature.
//!
//! The records of the network are `Signed<AddressRecord>` of the link, which lies above this crate: hence the seam. A
//! [`Whereabouts`] says of whom and how new it is; [`Signed`] makes it a record. Simulations of many nodes use a record of a few bytes
//! with the same rules.

use std::fmt;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::{Signed, Statement};
use serde::{Serialize, de::DeserializeOwned};

/// How long a record is kept after it was signed: twice the longest time after which a node signs anew (`PUBLISH_MAX`), and some, so that one failed
/// round loses nothing. A record of a node that is gone lives no longer than this, however often it is replayed.
pub(crate) const LIFETIME: Duration = Duration::from_secs(150 * 60);

/// How far ahead of ours a signer's clock may be.
pub(crate) const SKEW: Duration = Duration::from_secs(10 * 60);

/// A record that was sent, signed or claiming to be.
pub trait Record: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned {
    /// What it says, if it is signed by the node that it is about and within limits.
    fn open(&self) -> Option<Opened>;
}

/// What a verified record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whom it is about, and who signed it.
    pub node: NodeId,
    /// Higher replaces lower. The time of signing in milliseconds since 1970 (or a little more, after the clock went back).
    pub sequence: u64,
}

impl Opened {
    /// Whether it may be kept at `now_ms`: neither too old nor from a future that is no clock's error.
    pub(crate) fn is_current(self, now_ms: u64) -> bool {
        self.until_ms() > now_ms && self.sequence <= now_ms.saturating_add(millis(SKEW))
    }

    pub(crate) fn until_ms(self) -> u64 {
        self.sequence.saturating_add(millis(LIFETIME))
    }
}

/// A statement of a node about where it is.
pub trait Whereabouts: Statement {
    /// Whom it is about.
    fn node(&self) -> NodeId;

    /// As [`Opened::sequence`].
    fn sequence(&self) -> u64;

    /// Whether it keeps the limits of its type.
    fn is_within_limits(&self) -> bool;
}

impl<T: Whereabouts> Record for Signed<T> {
    fn open(&self) -> Option<Opened> {
        let (said, signer) = self.verify().ok()?;
        let own = said.node().as_bytes() == &signer;
        (own && said.is_within_limits()).then(|| Opened { node: said.node(), sequence: said.sequence() })
    }
}

/// Whole milliseconds; 584 million years are enough.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
