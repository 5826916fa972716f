//! Decisions about one stripe, without any I/O: who gets which shard ([`write`]) and which shards to ask for ([`read`]). The drivers in
//! `store.rs` and `fetch.rs` carry them out.

pub(crate) mod read;
pub(crate) mod write;
