//! The zstor engine: buckets and objects of one owner, dispersed over nodes.
//!
//! An [`Engine`] stores objects as stripes of 1 MiB, each sealed into k+m shards (`atoll-codec`) that go to nodes of their own
//! (`atoll-placement`) through [`ShardHome`](atoll_shard::ShardHome)s. What is where, under which key, is metadata in a
//! [`KeyValue`](atoll_kv::KeyValue) store, encrypted for the owner. It reads with hedging, authenticates everything, heals what was lost and deletes
//! what is no longer referred to.
//!
//! What it is not: a file system view, a network (the [`Homes`] seam hands it connections), a place for anyone's secret but this owner's.
//!
//! # Where to look
//!
//! | file | what |
//! |---|---|
//! | `keyspace`, `record`, `vault`, `store` | metadata: keys, records, encryption, typed access |
//! | `plan`, `health` | pure decisions: who gets a shard, whom to ask, when to stop waiting |
//! | `scatter`, `gather` | their drivers: one stripe to and from the nodes |
//! | `put`, `upload`, `pipeline`, `reserve`, `feed`, `digest` | storing |
//! | `get` | reading |
//! | `bucket`, `list` | names |
//! | `garbage` | deleting |
//! | `heal` | finding and rebuilding lost shards |
//! | `vigil`, `pace` | when to heal by itself (pure), and how fast |
//! | `blob` | content without a name, for views such as the file system |
//!
//! # Promises
//!
//! - A put that returned is durable: all k+m shards of every stripe were acknowledged, then the manifest was committed.
//! - An object changes in one commit. Readers see the old or the new version whole; the version being read stays until its readers are done.
//! - No byte is handed out before it was authenticated under the owner's key, and none is missing or out of order when the end is reported.
//! - Nothing leaks: shards that exist without an object are named by a journal, a reservation or a garbage record, and are deleted.
//! - Memory is bounded by [`EngineConfig`], whatever the size and number of objects.
//!
//! # One engine per store
//!
//! An engine takes over what an earlier one left when it opens. Two engines on one key-value store at the same time would take each other's
//! uploads for remains; the embedded store's lock rules that out.

mod blob;
mod bucket;
mod chart;
mod config;
mod digest;
mod engine;
mod error;
mod feed;
mod garbage;
mod gather;
mod get;
mod heal;
mod health;
mod homes;
mod info;
mod inner;
mod keyspace;
mod list;
mod pace;
mod pipeline;
mod plan;
mod pool;
mod put;
mod record;
mod reserve;
mod scatter;
mod store;
pub mod testing;
mod upload;
mod vault;
mod vigil;

pub use atoll_codec::Policy;
pub use atoll_placement::DomainLevel;
pub use blob::heal::{BlobHealer, HealedBlob};
pub use blob::read::BlobReader;
pub use blob::{BLOB_BYTES_MAX, BlobInfo, BlobManifest, Blobs, BlobsConfig};
pub use config::EngineConfig;
pub use engine::Engine;
pub use error::{
    BucketError, GetError, Kind, ListError, MetaError, NodeFault, OpenError, PutError, ReadError, RemoveError,
};
pub use feed::{ByteStream, Source};
pub use garbage::CollectReport;
pub use get::ObjectReader;
pub use heal::{HealOptions, HealProgress, HealProgressFn, HealReport, Lost};
pub use health::HedgeRule;
pub use homes::{HomeInfo, Homes};
pub use info::{BucketInfo, BucketSettings, ObjectInfo, UploadInfo};
pub use keyspace::KEY_BYTES_MAX;
pub use list::{LIST_MAX, ListQuery, Listing, Usage};
pub use pace::Pace;
pub use put::{Progress, ProgressFn, PutOptions};
pub use record::{ObjectKind, ObjectMeta, decode_any};
pub use vigil::{Call, Vigil};
