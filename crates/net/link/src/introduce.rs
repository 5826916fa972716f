//! Introductions: a node that is entitled to (an owner's own, a tenant whose lease both signed) tells two others of each other, so that they need no
//! ticket between them.
//!
//! The link does not decide who is entitled: whoever calls [`LinkHandle::introduce`] does. A record is signed by the node it is of, so an introduction can
//! bring a stranger in but not send anyone to a false address for a true node. Each of the two must be told, as each admits only whom it knows.

use atoll_ids::NodeId;
use atoll_keys::Signed;
use thiserror::Error;

use crate::address::{AddressRecord, RecordError, open_record};
use crate::link::LinkHandle;
use crate::peers::PeerStoreError;

/// Why an introduction is not taken.
#[derive(Debug, Error)]
pub enum IntroduceError {
    /// The record is not good.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is this node's own.
    #[error("that is this node itself")]
    Own,
    /// The peer cannot be stored.
    #[error("the peer cannot be kept: {0}")]
    Store(#[source] PeerStoreError),
}

impl LinkHandle {
    /// This node's signed record: what others need to know it.
    pub fn own_record(&self) -> Signed<AddressRecord> {
        self.node.own.borrow().signed.clone()
    }

    /// The newest signed record of a peer.
    pub fn record_of(&self, peer: &NodeId) -> Option<Signed<AddressRecord>> {
        self.node.book.signed_record(peer)
    }

    /// Makes the node of this record a peer, also after restarts. Its id, and whether it was unknown before.
    ///
    /// # Errors
    /// [`IntroduceError`]
    pub async fn introduce(&self, signed: Signed<AddressRecord>) -> Result<(NodeId, bool), IntroduceError> {
        let record = open_record(&signed)?;
        let peer = record.node;
        if peer == self.node.id {
            return Err(IntroduceError::Own);
        }
        let new = self.node.book.add(signed, record).await.map_err(IntroduceError::Store)?;
        if new {
            tracing::info!(%peer, "a node was introduced");
            self.node.look_after(peer);
        }
        Ok((peer, new))
    }
}
