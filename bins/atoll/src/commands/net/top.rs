//! What is being carried to and from each peer: two looks at the counters make a rate.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use atoll_control::NetPeer;
use atoll_ids::{ByteCount, NodeId};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::super::Context;
use crate::args::Output;
use crate::output::{print, rate, table};

/// Puts the cursor to the upper left and clears what was there (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// A peer as it was between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Busy {
    node: NodeId,
    name: Option<String>,
    path: Option<String>,
    rtt_ms: Option<f64>,
    sent_bytes_per_second: u64,
    received_bytes_per_second: u64,
}

/// Looks again and again, until the user ends it or it was done `count` times.
pub(super) async fn run(context: &Context, every_seconds: u64, count: Option<u64>) -> anyhow::Result<()> {
    let client = context.client();
    let mut ticks = interval(Duration::from_secs(every_seconds.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut before, mut since) = (client.net().await?.peers, Instant::now());
    let mut left = count;
    while left != Some(0) {
        ticks.tick().await;
        let now = client.net().await?.peers;
        let busy = busy(&before, &now, since.elapsed());
        (before, since) = (now, Instant::now());
        show(context, &busy)?;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn show(context: &Context, busy: &[Busy]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match context.output {
        // A line for each look, so that it can be read as it comes.
        Output::Json => writeln!(out, "{}", serde_json::to_string(busy)?)?,
        Output::Text => {
            if out.is_terminal() {
                write!(out, "{CLEAR}")?;
            }
            writeln!(out, "{}", busy_text(busy))?;
        }
    }
    Ok(out.flush()?)
}

/// The busiest first; a node that was started anew meanwhile counts from nothing.
fn busy(before: &[NetPeer], now: &[NetPeer], elapsed: Duration) -> Vec<Busy> {
    let before: BTreeMap<NodeId, &NetPeer> = before.iter().map(|peer| (peer.node, peer)).collect();
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let per_second = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now).saturating_mul(1000) / millis;
    let peer = |peer: &NetPeer| {
        let last = before.get(&peer.node).map_or((0, 0), |last| (last.sent_bytes, last.received_bytes));
        Busy {
            node: peer.node,
            name: peer.name.clone(),
            path: peer.path.clone(),
            rtt_ms: peer.rtt_ms,
            sent_bytes_per_second: per_second(peer.sent_bytes, last.0),
            received_bytes_per_second: per_second(peer.received_bytes, last.1),
        }
    };
    let mut all: Vec<Busy> = now.iter().map(peer).collect();
    let of = |busy: &Busy| busy.sent_bytes_per_second.saturating_add(busy.received_bytes_per_second);
    all.sort_by_key(|busy| (std::cmp::Reverse(of(busy)), busy.node));
    all
}

fn busy_text(busy: &[Busy]) -> String {
    let row = |busy: &Busy| {
        vec![
            busy.node.short().to_string(),
            busy.name.clone().unwrap_or_else(|| "-".into()),
            rate(busy.sent_bytes_per_second, 1.0),
            rate(busy.received_bytes_per_second, 1.0),
            round_trip(busy.rtt_ms),
            busy.path.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    let heads = ["PEER", "NAME", "SENT", "RECEIVED", "ROUND TRIP", "PATH"];
    table(&heads, &busy.iter().map(row).collect::<Vec<_>>())
}

/// The peers with what was carried since the start.
pub(super) async fn peers(context: &Context) -> anyhow::Result<()> {
    let peers = context.client().net().await?.peers;
    print(context.output, &peers, |peers| match peers.as_slice() {
        [] => "no peers yet: `atoll invite` prints a ticket, `atoll join` takes one\n".into(),
        peers => carried_text(peers),
    })
}

fn carried_text(peers: &[NetPeer]) -> String {
    let row = |peer: &NetPeer| {
        vec![
            peer.node.short().to_string(),
            peer.name.clone().unwrap_or_else(|| "-".into()),
            peer.address.clone(),
            ByteCount(peer.sent_bytes).to_string(),
            ByteCount(peer.received_bytes).to_string(),
            round_trip(peer.rtt_ms),
            peer.path.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    let heads = ["PEER", "NAME", "ADDRESS", "SENT", "RECEIVED", "ROUND TRIP", "PATH"];
    table(&heads, &peers.iter().map(row).collect::<Vec<_>>())
}

fn round_trip(rtt_ms: Option<f64>) -> String {
    rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt:.1} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8, sent_bytes: u64, received_bytes: u64) -> NetPeer {
        let node = NodeId::from_bytes([number; 32]);
        let address = node.planetary_address().to_string();
        NetPeer {
            node,
            name: None,
            address,
            path: None,
            rtt_ms: None,
            mtu: None,
            sent_bytes,
            received_bytes,
            fast: None,
        }
    }

    #[test]
    fn the_busiest_come_first_and_a_restart_counts_from_nothing() {
        let before = [peer(1, 1000, 0), peer(2, 500, 500), peer(3, 9000, 9000)];
        let now = [peer(1, 1200, 0), peer(2, 4500, 500), peer(3, 100, 0), peer(4, 0, 10)];
        let busy = busy(&before, &now, Duration::from_secs(2));
        let seen: Vec<(u8, u64, u64)> = busy
            .iter()
            .map(|it| (it.node.as_bytes()[0], it.sent_bytes_per_second, it.received_bytes_per_second))
            .collect();
        assert_eq!(seen, [(2, 2000, 0), (1, 100, 0), (3, 50, 0), (4, 0, 5)]);
    }
}
