//! What went through, for whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Running figures of one side. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    open: AtomicU64,
    connected: AtomicU64,
    denied: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Those figures at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CountsNow {
    /// Connections open.
    pub open: u64,
    /// Connections that came about since the start.
    pub connected: u64,
    /// Requests that did not come to a connection.
    pub denied: u64,
    /// Bytes from the program that began the connections to the one that answers.
    pub sent: u64,
    /// Bytes the other way.
    pub received: u64,
}

impl Counts {
    /// What they are now.
    #[must_use]
    pub fn now(&self) -> CountsNow {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let Cells { open, connected, denied, sent, received } = &*self.0;
        CountsNow {
            open: read(open),
            connected: read(connected),
            denied: read(denied),
            sent: read(sent),
            received: read(received),
        }
    }

    pub(crate) fn denied(&self) {
        self.0.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection has come about, and is open until what is given is dropped.
    pub(crate) fn connected(&self) -> OpenGuard {
        self.0.connected.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(self.clone())
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// See [`Counts::connected`].
#[derive(Debug)]
pub(crate) struct OpenGuard(Counts);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
