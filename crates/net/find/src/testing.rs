//! A record for tests: what a signature would prove is a field.

use atoll_ids::NodeId;
use serde::{Deserialize, Serialize};

use crate::record::{Opened, Record};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) node: NodeId,
    pub(crate) sequence: u64,
    pub(crate) forged: bool,
}

impl Plain {
    pub(crate) fn new(node: NodeId, sequence: u64) -> Self {
        Self { node, sequence, forged: false }
    }
}

impl Record for Plain {
    fn open(&self) -> Option<Opened> {
        (!self.forged).then_some(Opened { node: self.node, sequence: self.sequence })
    }
}
