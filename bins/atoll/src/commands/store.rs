//! Commands about what is stored.

use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use atoll_control::{
    BucketRequest, Event, Events, GetRequest, HealRequest, ObjectInfo, ObjectKind, PutRequest, RemoveRequest, Source,
    Summary, TransferSummary,
};
use atoll_ids::ByteCount;
use futures_util::StreamExt as _;
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio_util::io::ReaderStream;

use super::Context;
use crate::args::{BucketCommand, Get, Heal, Ls, Output, Place, Put, Rm};
use crate::failure::advise;
use crate::output::{print, print_text, rate, table};
use crate::progress::Progress;

/// Read from standard input at once: as much as a pipe holds at most (`/proc/sys/fs/pipe-max-size`).
const STDIN_CHUNK_BYTES: usize = 1 << 20;

pub(super) async fn bucket(context: &Context, command: &BucketCommand) -> anyhow::Result<()> {
    let client = context.client();
    match command {
        BucketCommand::Create { name, policy } => {
            let info = client.create_bucket(name, &BucketRequest { policy: policy.clone() }).await?;
            print(context.output, &info, |info| format!("bucket {} made with policy {}\n", info.name, info.policy))
        }
        BucketCommand::Ls => list_buckets(context).await,
        BucketCommand::Rm { name } => Ok(client.remove_bucket(name).await?),
    }
}

async fn list_buckets(context: &Context) -> anyhow::Result<()> {
    let buckets = context.client().buckets().await?;
    print(context.output, &buckets, |buckets| {
        let row = |bucket: &atoll_control::BucketInfo| {
            vec![bucket.name.to_string(), bucket.policy.clone(), bucket.created.clone()]
        };
        table(&["BUCKET", "POLICY", "CREATED"], &buckets.iter().map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn put(context: &Context, put: &Put) -> anyhow::Result<()> {
    let Some((destination, sources)) = put.arguments.split_last() else {
        return Err(advise("nothing to store", "atoll put PATH… BUCKET/KEY"));
    };
    let destination: Place =
        destination.parse().map_err(|error| anyhow::anyhow!("{destination:?} is no BUCKET/KEY: {error}"))?;
    if sources == ["-"] {
        return put_stdin(context, &destination).await;
    }
    if sources.len() > 1 && !destination.is_prefix() {
        let message = format!("{} sources cannot all be stored under the one key {:?}", sources.len(), destination.key);
        return Err(advise(message, "end the destination with / to make it a prefix"));
    }
    let request = PutRequest {
        sources: sources.iter().map(|source| local_source(source)).collect::<anyhow::Result<_>>()?,
        bucket: destination.bucket,
        key: destination.key,
        force: put.force,
    };
    let events = context.client().put(&request).await?;
    transfer(context, events, "storing", "stored").await
}

/// Device and inode let the node find out that it sees another file under this path.
fn local_source(text: &str) -> anyhow::Result<Source> {
    if text == "-" {
        return Err(advise("standard input and files cannot be stored together", "store them one after the other"));
    }
    let metadata = std::fs::metadata(text).with_context(|| format!("cannot read {text}"))?;
    Ok(Source {
        path: std::path::absolute(text)?,
        device: metadata.dev(),
        inode: metadata.ino(),
        contents_only: text.ends_with('/') && metadata.is_dir(),
    })
}

async fn put_stdin(context: &Context, destination: &Place) -> anyhow::Result<()> {
    if destination.is_prefix() {
        return Err(advise("standard input needs a key to be stored under", "name it: atoll put - BUCKET/KEY"));
    }
    let progress = std::sync::Arc::new(Progress::new("storing standard input"));
    let counted = progress.clone();
    let content = ReaderStream::with_capacity(tokio::io::stdin(), STDIN_CHUNK_BYTES).inspect(move |chunk| {
        counted.bytes(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
    });
    let info = context.client().upload(&destination.bucket, &destination.key, Box::pin(content)).await?;
    progress.finish();
    print(context.output, &info, |info| format!("stored {} as {}/{}\n", ByteCount(info.size), info.bucket, info.key))
}

pub(super) async fn get(context: &Context, get: &Get) -> anyhow::Result<()> {
    let destination = get.destination.clone().unwrap_or_else(|| PathBuf::from("."));
    if destination.as_os_str() == "-" {
        return get_stdout(context, &get.source).await;
    }
    let absolute = std::path::absolute(&destination)?;
    let is_directory = absolute.is_dir() || destination.as_os_str().to_string_lossy().ends_with('/');
    let request = GetRequest {
        bucket: get.source.bucket.clone(),
        key: get.source.key.clone(),
        destination: match get.source.key.rsplit('/').next() {
            Some(name) if !get.source.is_prefix() && is_directory => absolute.join(name),
            _ => absolute,
        },
        force: get.force,
    };
    let events = context.client().get(&request).await?;
    transfer(context, events, "reading", "read").await
}

async fn get_stdout(context: &Context, source: &Place) -> anyhow::Result<()> {
    if source.is_prefix() {
        return Err(advise("standard output takes one object", "name it: atoll get BUCKET/KEY -"));
    }
    let mut body = context.client().download(&source.bucket, &source.key).await?;
    let progress = (!std::io::stdout().is_terminal()).then(|| Progress::new("reading"));
    let mut stdout = BufWriter::new(tokio::io::stdout());
    while let Some(chunk) = body.next().await? {
        stdout.write_all(&chunk).await?;
        if let Some(progress) = &progress {
            progress.bytes(chunk.len() as u64);
        }
    }
    Ok(stdout.flush().await?)
}

async fn transfer(context: &Context, events: Events, doing: &str, done: &str) -> anyhow::Result<()> {
    let progress = Progress::new(doing);
    let mut warned = false;
    let on_event = |event: &Event| {
        warned |= matches!(event, Event::Warning { .. });
        progress.event(event);
    };
    let Summary::Transfer(summary) = events.finish(on_event).await? else {
        anyhow::bail!("the node answered a transfer with something else");
    };
    progress.finish();
    print(context.output, &summary, |summary| transfer_line(summary, done))?;
    if summary.skipped > 0 {
        return Err(advise(format!("{} items were left out", summary.skipped), "see the warnings above"));
    }
    Ok(())
}

fn transfer_line(summary: &TransferSummary, done: &str) -> String {
    let unchanged = if summary.unchanged > 0 { format!(", {} unchanged", summary.unchanged) } else { String::new() };
    let rate = rate(summary.bytes, summary.seconds);
    let TransferSummary { items, bytes, seconds, .. } = summary;
    format!("{done} {items} items, {}{unchanged}, in {seconds:.2} s ({rate})\n", ByteCount(*bytes))
}

pub(super) async fn ls(context: &Context, ls: &Ls) -> anyhow::Result<()> {
    let Some(place) = &ls.place else { return list_buckets(context).await };
    let delimiter = (!ls.recursive).then_some('/');
    let client = context.client();
    let mut after = None;
    loop {
        let page = client.list(&place.bucket, &place.key, delimiter, after.as_deref()).await?;
        match context.output {
            Output::Json => page.objects.iter().try_for_each(crate::output::print_line)?,
            Output::Text => print_text(&page_text(&page.objects, &page.prefixes, ls.long))?,
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn page_text(objects: &[ObjectInfo], prefixes: &[String], long: bool) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    for prefix in prefixes {
        lines.push((prefix, if long { format!("{:>10}  {:20}  {prefix}\n", "-", "") } else { format!("{prefix}\n") }));
    }
    for object in objects {
        let time = object.modified.as_ref().unwrap_or(&object.created);
        let time = time.get(..19).unwrap_or(time);
        let line = if long {
            format!("{:>10}  {time:20}  {}\n", ByteCount(object.size).to_string(), object.key)
        } else {
            format!("{}\n", object.key)
        };
        lines.push((&object.key, line));
    }
    lines.sort_by_key(|(key, _)| *key);
    lines.into_iter().map(|(_, line)| line).collect()
}

pub(super) async fn rm(context: &Context, rm: &Rm) -> anyhow::Result<()> {
    if rm.place.is_prefix() && !rm.recursive {
        let message = format!("{}/{} names everything below a prefix", rm.place.bucket, rm.place.key);
        return Err(advise(message, "add --recursive if that is what you mean"));
    }
    let request = RemoveRequest { bucket: rm.place.bucket.clone(), key: rm.place.key.clone(), recursive: rm.recursive };
    let events = context.client().remove(&request).await?;
    transfer(context, events, "removing", "removed").await
}

pub(super) async fn stat(context: &Context, place: &Place) -> anyhow::Result<()> {
    let info = context.client().stat(&place.bucket, &place.key).await?;
    print(context.output, &info, stat_text)
}

fn stat_text(info: &ObjectInfo) -> String {
    let kind = match info.kind {
        ObjectKind::File => "file",
        ObjectKind::Symlink => "symbolic link",
        ObjectKind::Directory => "directory",
    };
    let mode = info.mode.map_or("-".into(), |mode| format!("{:04o}", mode & 0o7777));
    let lines = [
        ("key", format!("{}/{}", info.bucket, info.key)),
        ("kind", kind.to_owned()),
        ("size", format!("{} ({} bytes)", ByteCount(info.size), info.size)),
        ("stored", format!("{} in {} stripes under {}", ByteCount(info.stored), info.stripes, info.policy)),
        ("blake3", info.blake3.clone()),
        ("version", info.version.clone()),
        ("modified", info.modified.clone().unwrap_or_else(|| "-".into())),
        ("created", info.created.clone()),
        ("mode", mode),
    ];
    lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}

pub(super) async fn du(context: &Context, place: &Place) -> anyhow::Result<()> {
    let usage = context.client().usage(&place.bucket, &place.key).await?;
    print(context.output, &usage, |usage| {
        let row = vec![
            usage.objects.to_string(),
            usage.bytes.to_string(),
            usage.stored.to_string(),
            format!("{}/{}", place.bucket, place.key),
        ];
        table(&["OBJECTS", "BYTES", "STORED", "PLACE"], &[row])
    })
}

pub(super) async fn heal(context: &Context, heal: &Heal) -> anyhow::Result<()> {
    let request = HealRequest { bucket: heal.bucket.clone(), dry_run: heal.dry_run, deep: heal.deep };
    let events = context.client().heal(&request).await?;
    let progress = Progress::new(if heal.dry_run { "looking" } else { "healing" });
    let Summary::Heal(summary) = events.finish(|event| progress.event(event)).await? else {
        anyhow::bail!("the node answered a heal with something else");
    };
    progress.finish();
    print(context.output, &summary, |summary| {
        format!(
            "{} objects, {} stripes: {} shards missing, {} rotten, {} made again ({}) in {:.2} s\n",
            summary.objects,
            summary.stripes,
            summary.missing,
            summary.rotten,
            summary.rebuilt,
            ByteCount(summary.rebuilt_bytes),
            summary.seconds
        )
    })?;
    if summary.unrecoverable.is_empty() {
        return Ok(());
    }
    let message = format!("too few shards are left of {}", summary.unrecoverable.join(", "));
    Err(advise(message, "bring the nodes that are missing back: `atoll status` names them"))
}
