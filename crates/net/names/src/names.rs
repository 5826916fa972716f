//! The names that hold at the moment, shared between who makes them and who answers for them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_ids::OwnerId;

use crate::zone::{Book, KnownNode, Zone};

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    mine: OwnerId,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    nodes: Vec<KnownNode>,
    zone: Arc<Zone>,
}

impl Names {
    /// No names yet but those that follow from ids. `mine` is this node's owner.
    #[must_use]
    pub fn new(mine: OwnerId) -> Self {
        // Serials go on from the time, so that they grow across restarts too.
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let serial = u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0);
        let zone = Arc::new(Zone::new(mine, &[], Book::default(), serial));
        Self(Arc::new(Shared { mine, current: RwLock::new(Current { nodes: Vec::new(), zone }) }))
    }

    /// What holds now.
    pub fn zone(&self) -> Arc<Zone> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).zone.clone()
    }

    /// From now on these nodes are known.
    pub fn set_nodes(&self, nodes: Vec<KnownNode>) {
        self.change(|current| {
            let changed = current.nodes != nodes;
            current.nodes = nodes;
            changed.then(|| current.zone.book().clone())
        });
    }

    /// From now on these names are given.
    pub fn set_book(&self, book: Book) {
        self.change(|current| (*current.zone.book() != book).then_some(book));
    }

    /// Makes a new zone if `what` says with which book.
    fn change(&self, what: impl FnOnce(&mut Current) -> Option<Book>) {
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        let Some(book) = what(&mut current) else { return };
        let serial = current.zone.serial().wrapping_add(1);
        current.zone = Arc::new(Zone::new(self.0.mine, &current.nodes, book, serial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_grows_with_every_change_and_only_then() {
        let names = Names::new(OwnerId::from_bytes([1; 32]));
        let first = names.zone().serial();
        names.set_nodes(Vec::new());
        names.set_book(Book::default());
        assert_eq!(names.zone().serial(), first);
        let node = atoll_ids::NodeId::from_bytes([2; 32]);
        names.set_nodes(vec![KnownNode { node, owner: None, name: None }]);
        assert_eq!(names.zone().serial(), first.wrapping_add(1));
        assert!(names.zone().at(node.planetary_address().ip()).is_some());
        let mut book = Book::default();
        book.aliases.extend("wiki".parse().map(|label| (label, node)));
        names.set_book(book.clone());
        names.set_book(book);
        assert_eq!(names.zone().serial(), first.wrapping_add(2));
        assert_eq!(names.zone().listed().len(), 1);
    }
}
