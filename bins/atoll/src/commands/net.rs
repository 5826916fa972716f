//! Commands about the planetary network.

mod names;
mod top;

use atoll_control::{NeighbourStatus, NetPath, NetPaths, NetPeer, NetStatus};

use super::{Context, proxy, rules};
use crate::args::NetCommand;
use crate::output::{print, table};

pub(super) async fn run(context: &Context, command: &NetCommand) -> anyhow::Result<()> {
    match command {
        NetCommand::Peers => top::peers(context).await,
        NetCommand::Top { every, count } => top::run(context, *every, *count).await,
        NetCommand::Names => names::list(context).await,
        NetCommand::Resolve { name } => names::resolve(context, name).await,
        NetCommand::Name(command) => names::change(context, command).await,
        NetCommand::Status => print(context.output, &context.client().net().await?, status_text),
        NetCommand::Rules => rules::list(context).await,
        NetCommand::Allow(allow) => rules::allow(context, allow).await,
        NetCommand::Deny(deny) => rules::deny(context, deny).await,
        NetCommand::Check(check) => rules::check(context, check).await.map(drop),
        NetCommand::Proxy(asked) => proxy::show(context, asked).await,
        NetCommand::Connect(asked) => proxy::connect(context, asked).await,
        NetCommand::Bus(command) => super::bus::run(context, command).await,
        NetCommand::Path { node } => print(context.output, &context.client().net_path(node).await?, paths_text),
    }
}

fn paths_text(paths: &NetPaths) -> String {
    let row = |path: &NetPath| {
        let by = match (&path.via, &path.address) {
            (Some(via), _) => {
                path.via_name.as_ref().map_or_else(|| via.short().to_string(), |name| format!("{} {name}", via.short()))
            }
            (None, address) => address.clone().unwrap_or_else(|| "-".into()),
        };
        vec![
            if path.used { "*" } else { "" }.to_owned(),
            path.kind.clone(),
            by,
            path.rtt_ms.map_or("-".into(), |rtt| format!("{rtt:.1} ms")),
            path.loss.map_or("-".into(), |loss| format!("{:.0} %", loss * 100.0)),
            path.silent_seconds.map_or("-".into(), |silent| format!("{silent:.1} s ago")),
            path.state.clone(),
        ]
    };
    let rows: Vec<_> = paths.candidates.iter().map(row).collect();
    let name = paths.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let heading = ["USED", "KIND", "BY", "ROUND TRIP", "LOSS", "HEARD", "STATE"];
    format!("{}{name}: {}\n{}", paths.node.short(), paths.why, table(&heading, &rows))
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
        if let Some(fast) = &status.fast {
            let refused = [
                (fast.packets_replayed, "replayed"),
                (fast.packets_forged, "forged"),
                (fast.packets_stray, "stray"),
                (fast.packets_congested, "lost to congestion"),
            ];
            let refused = refused.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!(", {count} {why}"));
            let refused: String = refused.collect();
            lines.push((
                "fast path",
                format!("{} sealed, {} opened{refused}", fast.packets_sealed, fast.packets_opened),
            ));
        }
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
            peer.fast.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    table(&["PEER", "NAME", "ADDRESS", "PATH", "ROUND TRIP", "FAST PATH"], &peers.iter().map(row).collect::<Vec<_>>())
}

fn neighbours_text(neighbours: &[NeighbourStatus]) -> String {
    let row = |neighbour: &NeighbourStatus| {
        vec![neighbour.node.to_string(), neighbour.addresses.join(" "), format!("{} s ago", neighbour.heard_seconds)]
    };
    table(&["NODE", "ADDRESSES", "HEARD"], &neighbours.iter().map(row).collect::<Vec<_>>())
}
