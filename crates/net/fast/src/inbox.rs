//! Packets on their way in, in buffers that are used again and again: what arrives is opened where the kernel put it.

use std::ops::Range;

use atoll_ids::NodeId;
use bytes::Bytes;

/// Buffers that one system call fills. Together they stay in a processor's cache.
pub const BUFFERS: usize = 4;

/// Bytes of each: the kernel joins up to 64 datagrams to one of at most this size.
pub const BUFFER_BYTES: usize = 65_536;

struct Found {
    from: NodeId,
    buffer: usize,
    at: Range<usize>,
    begun: bool,
}

/// A packet that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived<'a> {
    /// Who sent it, authenticated.
    pub from: NodeId,
    /// The packet.
    pub packet: &'a [u8],
    /// Whether it is a TCP segment whose checksum is only begun; then it is a whole one over IPv6.
    pub begun: bool,
}

/// What arrived, each packet with the node that sent it.
pub struct Inbox {
    buffers: [Box<[u8]>; BUFFERS],
    found: Vec<Found>,
    loose: Vec<(NodeId, Bytes)>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("packets", &self.count()).finish_non_exhaustive()
    }
}

impl Default for Inbox {
    fn default() -> Self {
        let buffers = std::array::from_fn(|_| vec![0; BUFFER_BYTES].into_boxed_slice());
        Self { buffers, found: Vec::new(), loose: Vec::new() }
    }
}

/// Notes what was found in the buffers.
pub struct Finds<'a> {
    found: &'a mut Vec<Found>,
    loose: &'a mut Vec<(NodeId, Bytes)>,
}

impl std::fmt::Debug for Finds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Finds({})", self.found.len() + self.loose.len())
    }
}

impl Finds<'_> {
    /// There is a packet of `from` at `at` in a buffer; `begun` is whether its checksum is only begun.
    pub fn note(&mut self, from: NodeId, buffer: usize, at: Range<usize>, begun: bool) {
        self.found.push(Found { from, buffer, at, begun });
    }

    /// There is a packet of `from` that lay in none of the buffers as a whole.
    pub fn add(&mut self, from: NodeId, packet: Bytes) {
        self.loose.push((from, packet));
    }
}

impl Inbox {
    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.found.clear();
        self.loose.clear();
    }

    /// The buffers, to be filled, and where to note what is in them.
    pub fn fill(&mut self) -> (&mut [Box<[u8]>; BUFFERS], Finds<'_>) {
        (&mut self.buffers, Finds { found: &mut self.found, loose: &mut self.loose })
    }

    /// Packets that came another way, each in memory of its own.
    pub fn loose(&mut self) -> &mut Vec<(NodeId, Bytes)> {
        &mut self.loose
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.found.len() + self.loose.len()
    }

    /// The packets.
    pub fn packets(&self) -> impl Iterator<Item = Arrived<'_>> {
        let found = self.found.iter().map(|found| Arrived {
            from: found.from,
            packet: &self.buffers[found.buffer][found.at.clone()],
            begun: found.begun,
        });
        found.chain(self.loose.iter().map(|(from, packet)| Arrived { from: *from, packet, begun: false }))
    }
}
