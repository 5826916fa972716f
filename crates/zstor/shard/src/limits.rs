//! Every limit of the protocol, with the reason for its number. Nothing here is configurable: both ends must be able to
//! rely on it.

use std::time::Duration;

/// Largest shard in bytes. A stripe is 1 MiB, so a shard of the least dispersed policy (one data shard) is a little
/// over 1 MiB; four times that leaves room for larger stripes, and is the most that one frame can make a peer allocate.
pub const SHARD_BYTES_MAX: usize = 4 << 20;

/// Largest `Hello` or greeting in bytes. A grant is some 250 bytes with one signature; an ML-DSA-65 second signature
/// adds 3.3 KiB.
pub const HELLO_BYTES_MAX: u32 = 16 << 10;

/// Most entries in one page of a listing: 80 KiB on the wire, so a listing never holds up shards for long.
pub const LIST_ENTRIES_MAX: usize = 4096;

/// Longest explanation in an error answer, in bytes; longer ones are cut by the sender and refused by the receiver.
pub const TEXT_BYTES_MAX: usize = 512;

/// Most requests a server works on per stream; beyond it the server stops reading, which is the back-pressure. Puts
/// complete a group commit at a time (about a millisecond), so 256 allow over 100,000 small puts a second; large ones
/// meet [`PUT_BYTES_MAX`] long before.
pub const IN_FLIGHT_MAX: usize = 256;

/// Most payload bytes of unfinished puts a server holds per stream: at 3 GB/s, over 5 ms of writing, several group commits.
pub const PUT_BYTES_MAX: usize = 16 << 20;

/// Payload bytes of puts that a server takes in before it begins them, if so many have arrived: then they share a commit. A commit of this size is
/// cheap for its bytes, and the disk is not kept waiting for longer.
pub const TAKE_IN_BYTES: usize = 1 << 20;

/// Most reads (get, verify, list) a server executes at once per stream. Eight reads of 256 KiB saturate an NVMe disk,
/// and bound the memory of shards read but not yet admitted to the answer queue (8 × [`SHARD_BYTES_MAX`] at the very
/// worst).
pub const READS_MAX: usize = 8;

/// Most payload bytes of answers waiting for a slow reader, per stream; about a 1 Gbit/s path of 60 ms.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Most requests that wait in a client to be sent; beyond it callers wait. One per shard of a few stripes of the widest
/// policy (96 shards).
pub const QUEUE_REQUESTS_MAX: usize = 256;

/// Most payload bytes that wait in a client to be sent: enough to keep a connection busy while the caller encodes the
/// next stripes.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Payloads from this size on are written straight from where they are; smaller ones are gathered, so that many small
/// frames share a system call (and a TLS record, whose most is 16 KiB).
pub const BYPASS_BYTES: usize = 16 << 10;

/// Size of the gathering buffer. Once this much is gathered it is written even if more is waiting.
pub const GATHER_BYTES: usize = 64 << 10;

/// Size of the read buffer. Small frames share a system call; of a large one at most this much is copied twice.
pub const READ_BUFFER_BYTES: usize = 16 << 10;

/// A connection on which requests are pending and nothing moved for this long, in either direction, is given up. Longer
/// than a disk's own error recovery usually takes; whoever needs an answer sooner asks elsewhere in the meantime.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);

/// How long opening a stream, and then the greeting, may take. A TCP connect over a bad path with two lost SYNs takes 3
/// s, a hole punch a few.
pub const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// How long closing a connection properly may take. It is one small packet; where that does not go out at once, it does not
/// matter.
pub const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// A client closes a connection that had no request for this long. Shorter than [`SERVER_IDLE_LIMIT`], so that a
/// request and the server's hanging up do not meet.
pub const CLIENT_IDLE_LIMIT: Duration = Duration::from_secs(120);

/// A server hangs up when no request came for this long: what remains of clients that vanished does not pile up.
pub const SERVER_IDLE_LIMIT: Duration = Duration::from_secs(600);

/// First pause after a failed attempt to connect; it doubles with every further one.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between attempts to connect: a node that returns is used again within this time.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Connections per client at most. A second one helps where one stream is bound to one core (TLS); more than a few only
/// cost memory.
pub const CONNECTIONS_MAX: usize = 8;

/// How far the clocks of two nodes may differ, in seconds, in judging a grant's validity. Machines without time
/// synchronisation drift by seconds a day; five minutes is what Kerberos has lived with.
pub const CLOCK_SKEW_SECONDS: u64 = 300;

// What the numbers must satisfy among themselves.
const _: () = {
    assert!(SHARD_BYTES_MAX <= PUT_BYTES_MAX);
    assert!(SHARD_BYTES_MAX <= ANSWER_BYTES_MAX);
    assert!(SHARD_BYTES_MAX <= QUEUE_BYTES_MAX);
    assert!(BYPASS_BYTES <= GATHER_BYTES);
    assert!(CLIENT_IDLE_LIMIT.as_secs() < SERVER_IDLE_LIMIT.as_secs());
};
