//! For tests: a disk that takes the writes of a step as one, and gives back what a restarted node would read.

use std::collections::BTreeMap;

use atoll_ids::{MessageId, NodeId};
use bytes::Bytes;

use crate::records::{InRecord, OutRecord, Stored, Write};

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    high: u64,
    pub(super) outbox: BTreeMap<u64, OutRecord>,
    pub(super) sent: BTreeMap<MessageId, Bytes>,
    pub(super) inbox: BTreeMap<u64, InRecord>,
    pub(super) bodies: BTreeMap<u64, Bytes>,
    marks: BTreeMap<NodeId, u64>,
}

impl Disk {
    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::High(position) => {
                assert!(position >= self.high, "positions went back from {} to {position}", self.high);
                self.high = position;
            }
            Write::PutOut(record) => drop(self.outbox.insert(record.position, record)),
            Write::DropOut(position) => assert!(self.outbox.remove(&position).is_some()),
            Write::PutSent(id, payload) => drop(self.sent.insert(id, payload)),
            Write::DropSent(id) => assert!(self.sent.remove(&id).is_some()),
            Write::Mark(node, position) => {
                let before = self.marks.insert(node, position).unwrap_or(0);
                assert!(position > before, "a mark went back from {before} to {position}");
            }
            Write::PutIn(record) => drop(self.inbox.insert(record.arrival, record)),
            Write::DropIn(arrival) => assert!(self.inbox.remove(&arrival).is_some()),
            Write::PutBody(arrival, payload) => drop(self.bodies.insert(arrival, payload)),
            Write::DropBody(arrival) => assert!(self.bodies.remove(&arrival).is_some()),
        }
    }

    pub(super) fn stored(&self) -> Stored {
        Stored {
            high: self.high,
            outbox: self.outbox.values().cloned().collect(),
            inbox: self.inbox.values().cloned().collect(),
            marks: self.marks.iter().map(|(node, position)| (*node, *position)).collect(),
        }
    }
}
