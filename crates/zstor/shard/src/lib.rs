//! Shards on other nodes: the seam the engine stores through, the protocol to a storage node, its client and its server.
//!
//! - [`ShardHome`] is what the engine knows: put, get, delete, list, stat, verify for one owner at one place.
//! - [`ShardClient`] is a home on another node: pipelined requests over a stream that a [`Dial`] opens.
//! - [`ShardServer`] answers them from [`Segments`](atoll_segments::Segments), each owner in a namespace of its own.
//! - [`StorageGrant`] is the owner's signed word that a node may act for it; without one nothing is stored or read.
//! - [`protocol`] is the wire format as pure functions, [`limits`] every bound and its reason.
//!
//! What it is not: it knows nothing of stripes, placement or owners' encryption keys, and it neither dials nor
//! authenticates: both ends of a stream know each other's `NodeId` before the first byte here.

mod bodies;
mod client;
pub mod dial;
mod frame;
pub mod grant;
pub mod home;
pub mod limits;
pub mod protocol;
mod server;
pub mod testing;

pub use client::ShardClient;
pub use dial::{BoxStream, Dial, DialError, Stream};
pub use grant::{GrantError, StorageGrant, check as check_grant};
pub use home::{Health, HomeError, HomeStat, PutOutcome, Refusal, ShardEntry, ShardHome};
pub use server::{Admission, RequestCounts, ServeError, ServePolicy, ShardServer, ShardServerStats, StatsSnapshot};

/// Name and version of the protocol, as negotiated in TLS or QUIC.
pub const ALPN: &str = "atoll/shard/1";

/// CRC-64/NVME, the checksum that accompanies a shard from whoever made it to the medium and back. It finds rot and damage,
/// not forgery: that is the owner's tag.
#[must_use]
pub fn crc64(data: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, data)
}
