//! Commands about file systems.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use atoll_control::{FsMountRequest, FsRequest, FsStatus};
use atoll_ids::ByteCount;

use super::Context;
use crate::args::FsCommand;
use crate::output::{print, table};

pub(super) async fn run(context: &Context, command: &FsCommand) -> anyhow::Result<()> {
    let client = context.client();
    match command {
        FsCommand::Create { name, policy, capacity } => {
            let request = FsRequest { policy: policy.clone(), capacity: *capacity };
            let made = client.create_filesystem(name, &request).await?;
            print(context.output, &made, |made| format!("made file system {} with policy {}\n", made.name, made.policy))
        }
        FsCommand::Ls => print(context.output, &client.filesystems().await?, |all| list(all)),
        FsCommand::Show { name } => print(context.output, &client.filesystem(name).await?, describe),
        FsCommand::Rm { name } => {
            let removed = client.remove_filesystem(name).await?;
            print(context.output, &removed, |removed| match removed.left {
                0 => format!("{name} was removed\n"),
                left => format!("{name} was removed; {left} of its shards stay on nodes that do not answer\n"),
            })
        }
        FsCommand::Mount { name, dir } => {
            let mounted = client.mount_filesystem(name, &place(dir)?).await?;
            print(context.output, &mounted, |_| format!("{name} is mounted on {}\n", dir.display()))
        }
        FsCommand::Umount { place } => {
            let all = client.filesystems().await?;
            let name = named(&all, place).unwrap_or(place);
            client.unmount_filesystem(name).await?;
            print(context.output, &serde_json::json!({"unmounted": name}), |_| format!("{name} was unmounted\n"))
        }
    }
}

/// The directory as the node can check that it sees the same.
fn place(dir: &Path) -> anyhow::Result<FsMountRequest> {
    let problem = || format!("cannot mount on {}", dir.display());
    let found = std::fs::metadata(dir).with_context(problem)?;
    anyhow::ensure!(found.is_dir(), "cannot mount on {}: it is no directory", dir.display());
    let path = std::path::absolute(dir)?;
    Ok(FsMountRequest { path, device: found.dev(), inode: found.ino() })
}

/// The file system that is mounted on a directory.
fn named<'a>(all: &'a [FsStatus], place: &str) -> Option<&'a str> {
    let asked = std::path::absolute(place).ok()?;
    // Not by looking at it: a dead mount does not answer.
    let whole = asked.parent().and_then(|parent| parent.canonicalize().ok()).zip(asked.file_name());
    let whole = whole.map_or_else(|| asked.clone(), |(parent, name)| parent.join(name));
    let there = |path: &Path| path == asked || path == whole;
    all.iter().find(|it| it.path.as_deref().is_some_and(there)).map(|it| it.name.as_str())
}

fn list(all: &[FsStatus]) -> String {
    if all.is_empty() {
        return "no file systems yet: `atoll fs create NAME` makes one\n".into();
    }
    let row = |it: &FsStatus| {
        let path = it.path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
        let used = it.mounted.as_ref().map_or_else(|| "-".to_owned(), |mounted| mounted.used.to_string());
        vec![it.name.clone(), it.policy.clone(), state(it).to_owned(), used, path]
    };
    table(&["NAME", "POLICY", "STATE", "USED", "PATH"], &all.iter().map(row).collect::<Vec<_>>())
}

fn state(it: &FsStatus) -> &'static str {
    match (&it.mounted, &it.path) {
        (Some(_), _) => "mounted",
        (None, Some(_)) => "to be mounted",
        (None, None) => "not mounted",
    }
}

fn describe(it: &FsStatus) -> String {
    let mut lines = vec![
        ("name", it.name.clone()),
        ("policy", format!("{}; fsync returns when {} shards of each stripe are durable", it.policy, it.least)),
        ("capacity", it.capacity.as_ref().map_or_else(|| "what the nodes take".to_owned(), ByteCount::to_string)),
        ("state", format!("{}, mounted {} times, stored {} times", state(it), it.epoch, it.sequence)),
    ];
    lines.extend(it.path.iter().map(|path| ("path", path.display().to_string())));
    lines.extend(it.problem.iter().map(|problem| ("problem", problem.clone())));
    if let Some(mounted) = &it.mounted {
        lines.push(("holds", format!("{} in {} files and directories", mounted.used, mounted.inodes)));
        let stored = if mounted.stored { "everything" } else { "not all yet" };
        lines.push(("stored", format!("{stored}; {} written and not dispersed", mounted.dirty)));
        let (below, lost) = (mounted.degraded, mounted.beyond_repair);
        lines.push(("wholeness", format!("{below} parts below full, {lost} stripes beyond repair")));
        lines.extend(mounted.failing.iter().map(|why| ("failing", why.clone())));
    }
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}
