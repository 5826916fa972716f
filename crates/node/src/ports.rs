//! What a node chose at its first start and keeps: ports where the configuration leaves them open, and how much it lends.
//!
//! A peer that was away finds a node again at the address it last had, so a port that the system chose is asked for again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use atoll_ids::ByteCount;
use atoll_kv::{KeyValue, KvError, Mutation};
use atoll_link::AddressRecord;
use bytes::Bytes;

use crate::daemon::NodeError;

const QUIC_KEY: &[u8] = b"node/port/quic";
const LANE_KEY: &[u8] = b"node/port/lane";
const CAPACITY_KEY: &[u8] = b"node/capacity";

/// A node that is told nothing lends half of what is free when it first starts: the machine is its owner's first.
const SHARE_OF_FREE: u64 = 2;

/// Ports of the last run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) quic: Option<u16>,
    pub(crate) lane: Option<u16>,
}

/// Reads the ports of the last run.
pub(crate) async fn remembered(kv: &Arc<dyn KeyValue>) -> Result<Remembered, KvError> {
    Ok(Remembered { quic: number(kv, QUIC_KEY).await?, lane: number(kv, LANE_KEY).await? })
}

/// Writes the ports of this run down.
pub(crate) async fn remember(kv: &Arc<dyn KeyValue>, addresses: &AddressRecord) -> Result<(), KvError> {
    let port = |addresses: &[SocketAddr]| addresses.first().map(SocketAddr::port);
    let found = [(QUIC_KEY, port(&addresses.quic)), (LANE_KEY, port(&addresses.lane))];
    let mutations: Vec<Mutation> = found
        .into_iter()
        .filter_map(|(key, port)| Some(Mutation::Put { key: Bytes::from_static(key), value: text(port?) }))
        .collect();
    kv.commit(Vec::new(), mutations).await.map(drop)
}

fn text(number: impl std::fmt::Display) -> Bytes {
    Bytes::from(number.to_string())
}

async fn number<T: std::str::FromStr>(kv: &Arc<dyn KeyValue>, key: &[u8]) -> Result<Option<T>, KvError> {
    let entry = kv.get(key).await?;
    Ok(entry.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()))
}

/// Replaces port 0 by the remembered one.
fn prefer_one(address: SocketAddr, remembered: Option<u16>) -> SocketAddr {
    match remembered {
        Some(port) if address.port() == 0 => SocketAddr::new(address.ip(), port),
        _ => address,
    }
}

/// Replaces port 0 of every address by the remembered one.
pub(crate) fn prefer(addresses: &[SocketAddr], remembered: Option<u16>) -> Vec<SocketAddr> {
    addresses.iter().map(|&address| prefer_one(address, remembered)).collect()
}

/// How much is lent: what is configured, else what was decided at the first start.
pub(crate) async fn capacity(
    configured: Option<ByteCount>,
    folder: &Path,
    kv: &Arc<dyn KeyValue>,
) -> Result<ByteCount, NodeError> {
    if let Some(configured) = configured {
        return Ok(configured);
    }
    if let Some(decided) = number::<u64>(kv, CAPACITY_KEY).await? {
        return Ok(ByteCount(decided));
    }
    let io = |source: std::io::Error| NodeError::Io { what: format!("cannot use {}", folder.display()), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let system = rustix::fs::statvfs(folder).map_err(|errno| io(errno.into()))?;
    let decided = system.f_bavail * system.f_frsize / SHARE_OF_FREE;
    let mutation = Mutation::Put { key: Bytes::from_static(CAPACITY_KEY), value: text(decided) };
    kv.commit(Vec::new(), vec![mutation]).await?;
    Ok(ByteCount(decided))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_an_open_port_is_replaced() {
        let check = |address: &str, remembered: Option<u16>, expected: &str| {
            assert_eq!(prefer_one(address.parse().unwrap(), remembered).to_string(), expected);
        };
        check("127.0.0.1:0", Some(7), "127.0.0.1:7");
        check("127.0.0.1:0", None, "127.0.0.1:0");
        check("127.0.0.1:9", Some(7), "127.0.0.1:9");
    }
}
