//! How much of everything there may be, and why that much.

/// Most bytes of a payload. A message is a notice, not a file: what is larger goes into a bucket, and the message names it. Four of these are a batch, and a batch
/// is one commit of the key-value store, which takes 8 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// Most messages handed to a node in one exchange: they share one sync of its disk, which costs what a few dozen small messages cost to send.
pub const BATCH_MESSAGES_MAX: usize = 64;

/// Most bytes of payloads in one exchange: what a node holds in memory for one sender.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a message counts for besides its payload, on the disk and in a batch, so that empty ones are not free: id, topic, key.
pub const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// The longest a message may wait: a month, after which nobody remembers having sent it.
pub const TTL_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// The shortest: below a second a message would expire while it is on its way.
pub const TTL_MS_MIN: u64 = 1000;

/// How long a message waits unless somebody says otherwise: a day covers a machine that is off at night.
pub const TTL_MS_DEFAULT: u64 = 24 * 3600 * 1000;

/// Most nodes that one message goes to: the largest grids that one owner runs.
pub const RECIPIENTS_MAX: usize = 1000;

/// Exchanges under way at once: each holds a batch in memory.
pub(crate) const EXCHANGES_MAX: usize = 16;

/// How many of them may be with nodes that are not known to be connected: each is a dial, which takes seconds when nobody answers, and who is there is not
/// to wait for who is not.
pub(crate) const FAR_EXCHANGES_MAX: usize = EXCHANGES_MAX - 4;

/// The first pause after a node was not reached. A node that comes back says so by itself, which ends the pause.
pub(crate) const RETRY_FIRST_MS: u64 = 500;

/// The longest: what a node that is away for days costs is one dial a minute.
pub(crate) const RETRY_LAST_MS: u64 = 60_000;

/// The longest towards a node that is there but has no room, or does not know yet whose node this is: it is connected, so asking costs next to nothing.
pub(crate) const RETRY_THERE_MS: u64 = 5_000;

/// Messages that expire in one step; more wait for the next, so that one commit stays small.
pub(crate) const EXPIRED_AT_ONCE: usize = 500;

/// How much an outbox and an inbox hold. Payloads lie on the disk; in memory a message is about 300 bytes and its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages waiting to be delivered, counted once for each recipient.
    pub outbox_messages: usize,
    /// Bytes of their payloads.
    pub outbox_bytes: usize,
    /// Messages of all peers that nobody has taken yet.
    pub inbox_messages: usize,
    /// Bytes of these.
    pub inbox_bytes: usize,
    /// Messages of one peer among them.
    pub peer_messages: usize,
    /// Bytes of these.
    pub peer_bytes: usize,
    /// Messages whose fate is remembered after they are delivered, expired, refused or taken: in the outbox, and as many in the inbox. At least 1.
    pub remembered: usize,
}

impl Default for Limits {
    /// 64 MiB each way, so that a full inbox is no surprise on a small disk; a quarter of that for any one peer.
    fn default() -> Self {
        Self {
            outbox_messages: 10_000,
            outbox_bytes: 64 << 20,
            inbox_messages: 10_000,
            inbox_bytes: 64 << 20,
            peer_messages: 2_500,
            peer_bytes: 16 << 20,
            remembered: 1_000,
        }
    }
}
