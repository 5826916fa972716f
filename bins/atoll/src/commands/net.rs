//! Commands about the planetary network.

mod top;

use std::time::Duration;

use atoll_control::{NeighbourStatus, NetPeer, NetStatus};

use super::Context;
use crate::args::NetCommand;
use crate::output::{print, table};

pub(super) async fn run(context: &Context, command: &NetCommand) -> anyhow::Result<()> {
    match command {
        NetCommand::Top { every, count } => {
            return top::run(context, Duration::from_secs((*every).max(1)), *count).await;
        }
        NetCommand::Bus(command) => return super::bus::run(context, command).await,
        _ => {}
    }
    let status = context.client().net().await?;
    match command {
        NetCommand::Top { .. } | NetCommand::Bus(_) => Ok(()),
        NetCommand::Peers => print(context.output, &status.peers, |peers| match peers.as_slice() {
            [] => "no peers yet: `atoll invite` prints a ticket, `atoll join` takes one\n".into(),
            peers => top::carried_text(peers),
        }),
        NetCommand::Status => print(context.output, &status, status_text),
        NetCommand::Rules => {
            let rules = status.interface.map(|interface| interface.rules).unwrap_or_default();
            print(context.output, &rules, |rules| match rules.as_slice() {
                [] => "nothing may come in but answers\n".into(),
                rules => rules.iter().map(|rule| format!("{rule}\n")).collect(),
            })
        }
    }
}

fn status_text(status: &NetStatus) -> String {
    let mut lines = vec![("address", status.address.clone()), ("network", status.note.clone())];
    if let Some(interface) = &status.interface {
        lines.push(("mtu", format!("{} bytes", interface.mtu)));
        let (sent, received, flows) = (interface.packets_sent, interface.packets_received, interface.flows);
        lines.push(("packets", format!("{sent} sent, {received} received, {flows} conversations")));
        let dropped = interface.packets_dropped.iter().map(|dropped| format!("{} {}", dropped.packets, dropped.reason));
        let dropped: Vec<String> = dropped.collect();
        lines.push(("dropped", if dropped.is_empty() { "none".into() } else { dropped.join(", ") }));
        for route in &interface.routes {
            let at = route.node.map_or("here".to_owned(), |node| node.short().to_string());
            lines.push(("pods", format!("{} at {at}", route.prefix)));
        }
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    if !status.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers_text(&status.peers));
    }
    if !status.neighbours.is_empty() {
        text.push_str("\nseen on the local network, not peers:\n");
        text.push_str(&neighbours_text(&status.neighbours));
    }
    text
}

fn peers_text(peers: &[NetPeer]) -> String {
    let row = |peer: &NetPeer| {
        vec![
            peer.node.short().to_string(),
            peer.name.clone().unwrap_or_else(|| "-".into()),
            peer.address.clone(),
            peer.path.clone().unwrap_or_else(|| "-".into()),
            peer.rtt_ms.map_or("-".into(), |rtt| format!("{rtt:.1} ms")),
        ]
    };
    table(&["PEER", "NAME", "ADDRESS", "PATH", "ROUND TRIP"], &peers.iter().map(row).collect::<Vec<_>>())
}

fn neighbours_text(neighbours: &[NeighbourStatus]) -> String {
    let row = |neighbour: &NeighbourStatus| {
        vec![neighbour.node.to_string(), neighbour.addresses.join(" "), format!("{} s ago", neighbour.heard_seconds)]
    };
    table(&["NODE", "ADDRESSES", "HEARD"], &neighbours.iter().map(row).collect::<Vec<_>>())
}
