//! Commands about the node itself.

use anyhow::Context as _;
use atoll_control::{ClientError, ConfigEntry, HealingStatus, InviteRequest, JoinRequest, NodeStatus, PeerStatus};
use atoll_ids::{ByteCount, NodeId};
use atoll_node::{Config, Node, SettingOverride};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::args::{ConfigCommand, Down, Invite, Output, SettingFlags, Up};
use crate::output::{print, print_line, print_text, table};

pub(super) async fn up(context: &Context, up: &Up) -> anyhow::Result<()> {
    let config = load_config(context, up.config.as_deref(), &up.settings)?;
    config.telemetry()?;
    // What a node is made of is large before it is in its place.
    let node = Box::pin(Node::start(config)).await?;
    let status = node.status().await;
    match context.output {
        Output::Json => print_line(&status)?,
        Output::Text => print_text(&greeting(&status))?,
    }
    let stop = node.stop_handle();
    let until_stdin_closes = up.until_stdin_closes;
    tokio::spawn(async move {
        wait_for_end(until_stdin_closes).await;
        stop.stop();
    });
    Ok(node.run().await?)
}

fn greeting(status: &NodeStatus) -> String {
    let mut text = format!("node {} is up, owner {}\n", status.node.short(), status.owner.short());
    for address in &status.addresses {
        text.push_str(&format!("  reachable at {address}\n"));
    }
    for role in &status.roles {
        let state = if role.active { "on" } else { "off" };
        let note = role.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        text.push_str(&format!("  {} {state}{note}\n", role.role));
    }
    text.push_str("  the owner's key lies in this node: write its 24 words down with `atoll id phrase`\n");
    text
}

async fn wait_for_end(until_stdin_closes: bool) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::error!("signals cannot be received; stop this node with `atoll down`");
        return std::future::pending().await;
    };
    let stdin_closed = async {
        if !until_stdin_closes {
            return std::future::pending().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut byte = [0];
        while matches!(stdin.read(&mut byte).await, Ok(1..)) {}
    };
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("interrupted"),
        _ = terminate.recv() => tracing::info!("told to terminate"),
        () = stdin_closed => tracing::info!("standard input closed"),
    }
}

pub(super) async fn down(context: &Context, down: &Down) -> anyhow::Result<()> {
    match context.client().shutdown().await {
        // What a node that was killed left is cleared as well; one that is just ending is waited for.
        Err(ClientError::NotRunning { .. } | ClientError::Gone(_)) if down.clear => {}
        done => done?,
    }
    // The lock is free once the node is gone.
    let path = context.data_dir.clone();
    tokio::task::spawn_blocking(move || atoll_node::wait_until_unlocked(&path)).await??;
    if !down.clear {
        return print(context.output, &serde_json::json!({ "stopped": true }), |_| "stopped\n".into());
    }
    let cleared = atoll_node::clear(&context.data_dir).await?;
    print(context.output, &cleared, |cleared| {
        let put_back = if cleared.resolv_conf { "; resolv.conf is as it was" } else { "" };
        format!("stopped; {} pods ended and {} mounts removed{put_back}\n", cleared.pods, cleared.mounts)
    })
}

fn load_config(context: &Context, file: Option<&std::path::Path>, flags: &SettingFlags) -> anyhow::Result<Config> {
    Ok(Config::load(&context.data_dir, file, std::env::vars_os(), overrides(flags)?)?)
}

fn overrides(flags: &SettingFlags) -> anyhow::Result<Vec<SettingOverride>> {
    let named = [
        ("node.name", "--name", &flags.name),
        ("storage.capacity", "--capacity", &flags.capacity),
        ("network.bind", "--bind", &flags.bind),
    ];
    let mut overrides: Vec<SettingOverride> = named
        .into_iter()
        .filter_map(|(key, flag, value)| Some(SettingOverride::new(key, value.as_ref()?, flag)))
        .collect();
    for setting in &flags.set {
        let (key, value) =
            setting.split_once('=').with_context(|| format!("--set takes KEY=VALUE, not {setting:?}"))?;
        overrides.push(SettingOverride::new(key, value, "--set"));
    }
    Ok(overrides)
}

pub(super) async fn config(context: &Context, command: &ConfigCommand) -> anyhow::Result<()> {
    let ConfigCommand::Show { config, settings } = command;
    let asked = config.is_some() || !overrides(settings)?.is_empty();
    let entries = match context.client().config().await {
        // What the running node goes by, unless the question is what would hold.
        Ok(entries) if !asked => entries,
        _ => load_config(context, config.as_deref(), settings)?.entries(),
    };
    print(context.output, &entries, |entries| {
        let value = |entry: &ConfigEntry| if entry.value.is_empty() { "-".into() } else { entry.value.clone() };
        let row = |entry: &ConfigEntry| vec![entry.key.clone(), value(entry), entry.origin.clone(), entry.doc.clone()];
        table(&["KEY", "VALUE", "FROM", "WHAT IT IS"], &entries.iter().map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn invite(context: &Context, invite: &Invite) -> anyhow::Result<()> {
    let request = InviteRequest { ttl_seconds: invite.ttl, uses: invite.uses };
    let invited = context.client().invite(&request).await?;
    print(context.output, &invited, |invited| format!("{}\n", invited.ticket))
}

pub(super) async fn join(context: &Context, ticket: String) -> anyhow::Result<()> {
    let joined = context.client().join(&JoinRequest { ticket: ticket.trim().to_owned() }).await?;
    print(context.output, &joined, |joined| format!("joined {}\n", joined.peer.node))?;
    if let Some(relay) = joined.through {
        eprintln!(
            "joined through relay {relay}, which is no peer of this node and carries no more than that. Unless the two come to reach each other \
             directly, have this node join that one, or another that both reach: peers relay for each other."
        );
    }
    Ok(())
}

pub(super) async fn forget(context: &Context, node: NodeId) -> anyhow::Result<()> {
    context.client().forget(node).await?;
    print(context.output, &serde_json::json!({ "forgotten": node }), |_| format!("forgot {node}\n"))
}

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let status = context.client().status().await?;
    print(context.output, &status, status_text)
}

fn status_text(status: &NodeStatus) -> String {
    let name = status.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    let mut lines = vec![
        ("node", format!("{}{name}", status.node)),
        ("owner", status.owner.to_string()),
        ("address", status.planetary_address.clone()),
        ("version", format!("{}, process {}, up {} s", status.version, status.pid, status.uptime_seconds)),
        ("data", status.data_dir.clone()),
    ];
    lines.extend(status.addresses.iter().map(|address| ("reachable", address.clone())));
    lines.extend(status.metrics.iter().map(|address| ("metrics", format!("http://{address}/metrics"))));
    for role in &status.roles {
        let note = role.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        lines.push(("role", format!("{} {}{note}", role.role, if role.active { "on" } else { "off" })));
    }
    if let Some(storage) = &status.storage {
        let text = format!("{} of {} used by {} shards", storage.used, storage.capacity, storage.shards);
        lines.push(("storage", text));
    }
    if let Some(healing) = &status.healing {
        lines.extend(wholeness(healing).into_iter().map(|line| ("whole", line)));
    }
    for volume in &status.volumes {
        let mounted = &volume.mounted;
        let (below, lost, rebuilt) = (mounted.degraded, mounted.beyond_repair, mounted.rebuilt);
        let text = format!(
            "{}: {below} parts below full, {lost} stripes beyond repair, {rebuilt} shards made again",
            volume.name
        );
        lines.push(("volume", text));
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    text.push('\n');
    text.push_str(&peers_text(&status.peers));
    text
}

/// How whole the owner's data is, and what is done about it.
fn wholeness(healing: &HealingStatus) -> Vec<String> {
    let below = healing.below_full();
    let state = match (healing.running, healing.looked_seconds) {
        (true, _) => format!("healing: {below} of {} stripes looked at are below full", healing.stripes),
        (false, None) => "not looked yet".to_owned(),
        (false, Some(ago)) => format!("{below} of {} stripes below full, seen {ago} s ago", healing.stripes),
    };
    let mut lines = vec![format!(
        "{state}; {} beyond repair, {} shards without a node, {} made again since the start",
        healing.beyond_repair, healing.unplaced, healing.rebuilt
    )];
    for away in &healing.away {
        let name = away.name.clone().unwrap_or_else(|| away.node.short().to_string());
        let left = healing.after_seconds.saturating_sub(away.seconds);
        let then =
            if left > 0 { format!("made again elsewhere in {left} s") } else { "made again elsewhere".to_owned() };
        lines.push(format!("{name} is away for {} s; what it keeps is {then}", away.seconds));
    }
    lines.extend(healing.problem.iter().map(|problem| format!("healing failed: {problem}")));
    lines
}

fn peers_text(peers: &[PeerStatus]) -> String {
    if peers.is_empty() {
        return "no peers yet: `atoll invite` makes a ticket for another node, `atoll join` uses one\n".into();
    }
    let row = |peer: &PeerStatus| {
        let free = peer.storage.map(|storage| ByteCount(storage.capacity.0.saturating_sub(storage.used.0)));
        vec![
            peer.node.short().to_string(),
            peer.name.clone().unwrap_or_else(|| "-".into()),
            if peer.reachable { "yes" } else { "no" }.into(),
            peer.rtt_ms.map_or("-".into(), |rtt| format!("{rtt:.1} ms")),
            peer.last_seen_seconds.map_or("never".into(), |seconds| format!("{seconds} s ago")),
            peer.storage.map_or("-".into(), |storage| storage.capacity.to_string()),
            free.map_or("-".into(), |free| free.to_string()),
        ]
    };
    let heading = ["PEER", "NAME", "REACHABLE", "ROUND TRIP", "LAST SEEN", "LENDS", "FREE"];
    table(&heading, &peers.iter().map(row).collect::<Vec<_>>())
}
