//! What a server counts, for whoever exports metrics. Names and units of metrics are theirs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::Kind;

/// Counters of a [`ShardServer`](super::ShardServer); read them with [`snapshot`](Self::snapshot).
#[derive(Debug, Default)]
pub struct ShardServerStats {
    streams_open: AtomicU64,
    streams: AtomicU64,
    refused: AtomicU64,
    protocol_errors: AtomicU64,
    stalled: AtomicU64,
    in_flight: AtomicU64,
    put_bytes: AtomicU64,
    get_bytes: AtomicU64,
    failed: AtomicU64,
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: AtomicU64,
    lists: AtomicU64,
    stats: AtomicU64,
    verifies: AtomicU64,
    pings: AtomicU64,
}

/// [`ShardServerStats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Streams open now, greeted or not.
    pub streams_open: u64,
    /// Streams ever.
    pub streams: u64,
    /// Streams whose hello was refused or was none.
    pub refused: u64,
    /// Streams cut because the client broke the protocol.
    pub protocol_errors: u64,
    /// Streams cut because nothing moved.
    pub stalled: u64,
    /// Requests read and not yet answered, now.
    pub in_flight: u64,
    /// Payload bytes stored (without those that were already there).
    pub put_bytes: u64,
    /// Payload bytes read for clients.
    pub get_bytes: u64,
    /// Requests answered with an error.
    pub failed: u64,
    /// Requests read, by kind.
    pub requests: RequestCounts,
}

/// Requests read, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the number of requests of the kind it names")]
pub struct RequestCounts {
    pub put: u64,
    pub get: u64,
    pub delete: u64,
    pub list: u64,
    pub stat: u64,
    pub verify: u64,
    pub ping: u64,
}

/// Takes one off a gauge when it goes out of scope.
#[must_use]
pub(super) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl ShardServerStats {
    /// The counters now. Each is exact; together they are of slightly different moments.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            streams_open: of(&self.streams_open),
            streams: of(&self.streams),
            refused: of(&self.refused),
            protocol_errors: of(&self.protocol_errors),
            stalled: of(&self.stalled),
            in_flight: of(&self.in_flight),
            put_bytes: of(&self.put_bytes),
            get_bytes: of(&self.get_bytes),
            failed: of(&self.failed),
            requests: RequestCounts {
                put: of(&self.puts),
                get: of(&self.gets),
                delete: of(&self.deletes),
                list: of(&self.lists),
                stat: of(&self.stats),
                verify: of(&self.verifies),
                ping: of(&self.pings),
            },
        }
    }

    pub(super) fn open(&self) -> Counted<'_> {
        add(&self.streams, 1);
        Counted::new(&self.streams_open)
    }

    pub(super) fn request(&self, kind: Kind) -> Counted<'_> {
        let counter = match kind {
            Kind::Put => Some(&self.puts),
            Kind::Get => Some(&self.gets),
            Kind::Delete => Some(&self.deletes),
            Kind::List => Some(&self.lists),
            Kind::Stat => Some(&self.stats),
            Kind::Verify => Some(&self.verifies),
            Kind::Ping => Some(&self.pings),
            _ => None,
        };
        if let Some(counter) = counter {
            add(counter, 1);
        }
        Counted::new(&self.in_flight)
    }

    pub(super) fn refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn protocol_error(&self) {
        add(&self.protocol_errors, 1);
    }

    pub(super) fn stalled(&self) {
        add(&self.stalled, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(super) fn stored(&self, bytes: usize) {
        add(&self.put_bytes, bytes as u64);
    }

    pub(super) fn read(&self, bytes: usize) {
        add(&self.get_bytes, bytes as u64);
    }
}
