//! Opening a store: reads every record header and builds the index from them.
//!
//! Nothing is written but what is surely garbage removed: superfluous spares. What a segment holds is decided by three
//! numbers. Its *end*: the length its successor's header gives it, else that of its file. *durable*: the last
//! acknowledged record in it, as its successor's header says, else as its own records bear witness to. Up to `durable`
//! a record with a sound header is taken in as it is (a rotten payload shows when it is read), and a gap is damage.
//! Beyond it lies what a crash may have torn: there a record counts only if its payload is sound too, and a gap is
//! nothing but the crash. Records taken in from beyond were never acknowledged; keeping them is right (a shard is what
//! its id says or nothing) and every later recovery decides the same way.
//!
//! No segment is ever appended to again after recovery: the next record opens a new one. So what the crash left behind
//! the tail cannot be taken for something written later.

use crate::aligned::Recycled;
use crate::catalog::{Catalog, Location, SegmentEntry, SegmentFile};
use crate::config::SegmentsConfig;
use crate::disk::Disk;
use crate::error::{DiskError, OpenError};
use crate::format::scan::{Found, Walk, walk};
use crate::format::{DATA_START, HeaderError, PreviousSegment, RecordKind, SegmentHeader};
use crate::keeper::Spare;
use crate::log::Resume;
use crate::names;
use crate::read::{ReadError, Wanted, read_shards};
use crate::sync::lock;
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod source;

use source::FileSource;

/// Segments scanned at the same time: where shards are large, a scan is one small read after the other, and a disk
/// serves eight of those in the time of one.
const SCANNERS: usize = 8;

/// Records handed on at once, and how many such chunks may wait: what a scanner that is ahead may hold, 400 KiB.
const CHUNK_RECORDS: usize = 1024;
const CHUNKS: usize = 4;

/// What opening a store found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Segments read.
    pub segments: u64,
    /// Live shards.
    pub shards: u64,
    /// Sound records, live or not.
    pub records: u64,
    /// Stretches within acknowledged data where no sound record header stood. Shards are lost there.
    pub damaged_regions: u64,
    /// Their length in bytes.
    pub damaged_bytes: u64,
    /// Records a crash tore before they were acknowledged. Nothing is lost with them.
    pub torn_records: u64,
    /// Segments both of whose headers are gone, and all of their shards.
    pub lost_segments: u64,
    /// Blocks of 4 KiB the disk could not read.
    pub unreadable_blocks: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// A store as it was found.
pub(crate) struct Recovered {
    pub(crate) catalog: Catalog,
    pub(crate) resume: Resume,
    pub(crate) spare: Option<Spare>,
    pub(crate) report: OpenReport,
}

/// A segment file with a sound header.
struct Opened {
    segment: Arc<SegmentFile>,
    file_bytes: u64,
}

/// How the scan of one segment ended.
struct Scanned {
    walk: Walk,
    end: u64,
    durable: u64,
    torn: u64,
    unreadable: u64,
}

/// What a scanner sends: records in the order of the log, and at last how it ended.
enum Message {
    Records(Vec<Found>),
    End(Result<Scanned, DiskError>),
}

/// Reads the store on `disk`.
pub(crate) fn recover(disk: &dyn Disk, config: &SegmentsConfig) -> Result<Recovered, OpenError> {
    let start = Instant::now();
    let names = disk.list().map_err(|e| DiskError::new("listing the shard directory", e))?;
    let mut recovered = Recovered {
        catalog: Catalog::new(config),
        resume: Resume { previous: None, next_segment: 1, next_sequence: 1 },
        spare: None,
        report: OpenReport::default(),
    };
    let opened = open_segments(disk, &names, &mut recovered)?;
    scan_all(&opened, &mut recovered)?;
    recovered.spare = open_spare(disk, &names, config)?;
    recovered.report.shards = recovered.catalog.totals().shards;
    recovered.report.elapsed = start.elapsed();
    say(&recovered.report);
    Ok(recovered)
}

fn say(report: &OpenReport) {
    if report.damaged_regions + report.lost_segments + report.unreadable_blocks > 0 {
        tracing::warn!(?report, "the segment log is damaged; shards in the damaged places are lost to this node");
    } else {
        tracing::info!(shards = report.shards, segments = report.segments, elapsed = ?report.elapsed, "segment log opened");
    }
}

/// Opens all segment files in the order of the log.
fn open_segments(disk: &dyn Disk, names: &[String], recovered: &mut Recovered) -> Result<Vec<Opened>, OpenError> {
    let mut sequences: Vec<u32> = names.iter().filter_map(|n| names::segment_sequence(n)).collect();
    sequences.sort_unstable();
    let mut opened = Vec::new();
    for sequence in sequences {
        let name = names::segment(sequence);
        recovered.resume.next_segment = sequence + 1;
        let failed = |e| DiskError::new("opening a segment", e);
        let file = disk.open(&name).map_err(failed)?;
        let file_bytes = file.length().map_err(failed)?;
        let mut source = FileSource::new(file.as_ref(), file_bytes);
        match SegmentHeader::decode_either(source.head().map_err(failed)?) {
            Ok(header) if header.sequence == sequence => {
                recovered.report.segments += 1;
                opened.push(Opened { segment: Arc::new(SegmentFile { header, file }), file_bytes });
            }
            Err(source @ HeaderError::Version { .. }) => return Err(OpenError::Newer { name, source }),
            _ => {
                recovered.report.lost_segments += 1;
                recovered.catalog.add_lost(sequence, file_bytes);
            }
        }
    }
    Ok(opened)
}

/// Scans all segments, several at a time, and takes in what they hold in the order of the log.
fn scan_all(opened: &[Opened], recovered: &mut Recovered) -> Result<(), OpenError> {
    let (senders, receivers): (Vec<_>, Vec<_>) = opened.iter().map(|_| sync_channel(CHUNKS)).unzip();
    let work = Mutex::new(opened.iter().enumerate().zip(senders));
    std::thread::scope(|scope| {
        for _ in 0..SCANNERS.min(opened.len()) {
            scope.spawn(|| {
                loop {
                    let Some(((i, segment), sender)) = lock(&work).next() else { return };
                    let next = opened.get(i + 1).and_then(|n| n.segment.header.previous);
                    let end = scan(segment, next, &sender);
                    // Whoever does not listen any more has met an error and needs no further ones.
                    let _ = sender.send(Message::End(end));
                }
            });
        }
        let mut result = Ok(());
        for (i, receiver) in receivers.into_iter().enumerate() {
            if result.is_ok() {
                result = take_in(recovered, &opened[i], &receiver, i + 1 == opened.len());
            }
        }
        result
    })
}

/// Reads one segment; `next` is what its successor's header says of its predecessor, which may be another one.
fn scan(opened: &Opened, next: Option<PreviousSegment>, out: &SyncSender<Message>) -> Result<Scanned, DiskError> {
    let segment = &opened.segment;
    let told = next.filter(|n| n.sequence == segment.header.sequence);
    let end = told.map_or(opened.file_bytes, |n| n.tail.clamp(DATA_START, opened.file_bytes.max(DATA_START)));
    let mut source = FileSource::new(segment.file.as_ref(), opened.file_bytes);
    let mut chunk = Vec::with_capacity(CHUNK_RECORDS);
    let mut doubtful = VecDeque::new();
    let mut durable = told.or(segment.header.previous).map_or(0, |n| n.durable);
    let walk = walk(&mut source, &segment.header, end, |found| {
        if told.is_none() {
            durable = durable.max(found.header.durable);
        }
        doubtful.push_back(found);
        while doubtful.front().is_some_and(|f: &Found| f.header.sequence <= durable) {
            chunk.extend(doubtful.pop_front());
            if chunk.len() == CHUNK_RECORDS {
                let _ = out.send(Message::Records(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_RECORDS))));
            }
        }
    })
    .map_err(|e| DiskError::new("reading a segment", e))?;
    let mut unreadable = source.unreadable_blocks();
    let before = doubtful.len();
    doubtful.retain(|found| is_whole(segment, found, &mut unreadable));
    let torn = (before - doubtful.len()) as u64;
    chunk.extend(doubtful);
    let _ = out.send(Message::Records(chunk));
    // A file shorter than its successor knows it to have been has lost its end.
    let end = told.map_or(end, |n| end.max(n.tail));
    Ok(Scanned { walk, end, durable, torn, unreadable })
}

/// Whether a record that may be torn is not. One that cannot be read is kept: who asks for it learns why it is not to
/// be had.
fn is_whole(segment: &Arc<SegmentFile>, found: &Found, unreadable: &mut u64) -> bool {
    if found.header.kind == RecordKind::Tombstone {
        return true;
    }
    let (owner, shard) = (found.header.owner, found.header.shard);
    let wanted = Wanted { segment: segment.clone(), at: location(segment, found), owner, shard };
    match read_shards(&[wanted], &Recycled::default()).pop() {
        Some(Ok(_)) => true,
        Some(Err(ReadError::Rotten)) | None => false,
        Some(Err(ReadError::Disk(_))) => {
            *unreadable += 1;
            true
        }
    }
}

fn location(segment: &SegmentFile, found: &Found) -> Location {
    // Segments are shorter than 4 GiB (SEGMENT_BYTES_MAX).
    Location { segment: segment.header.sequence, offset: found.offset as u32, len: found.header.len }
}

/// Enters a segment's records into the index as its scanner sends them.
fn take_in(
    recovered: &mut Recovered,
    opened: &Opened,
    scanner: &Receiver<Message>,
    is_last: bool,
) -> Result<(), OpenError> {
    let mut entry = SegmentEntry::new(opened.segment.clone(), opened.file_bytes);
    entry.sealed = true;
    recovered.catalog.add_segment(entry);
    loop {
        match scanner.recv() {
            Ok(Message::Records(records)) => {
                recovered.report.records += records.len() as u64;
                for found in records {
                    let at = location(&opened.segment, &found);
                    recovered.catalog.apply(found.header.kind, found.header.owner, found.header.shard, at);
                }
            }
            Ok(Message::End(scanned)) => return finish_segment(recovered, opened, &scanned?, is_last),
            Err(_) => return Err(DiskError::new("reading a segment", io::Error::other("its scanner panicked")).into()),
        }
    }
}

fn finish_segment(
    recovered: &mut Recovered,
    opened: &Opened,
    scanned: &Scanned,
    is_last: bool,
) -> Result<(), OpenError> {
    let Scanned { walk, end, durable, torn, unreadable } = scanned;
    let report = &mut recovered.report;
    report.torn_records += torn;
    report.unreadable_blocks += unreadable;
    for gap in walk.gaps.iter().filter(|g| g.after < *durable) {
        report.damaged_regions += 1;
        report.damaged_bytes += gap.end - gap.start;
    }
    // The end of an older segment is known, and so is what should stand before it.
    if !is_last && walk.last_sequence < *durable && walk.tail < *end {
        report.damaged_regions += 1;
        report.damaged_bytes += end - walk.tail;
    }
    let sequence = opened.segment.header.sequence;
    let tail = if is_last { walk.tail } else { (*end).min(opened.file_bytes) };
    recovered.catalog.settle_segment(sequence, tail, *unreadable > 0);
    recovered.resume.next_sequence = recovered.resume.next_sequence.max(walk.last_sequence + 1).max(durable + 1);
    if is_last {
        // What a killed process left in the page cache or the drive's cache is read back as if it were durable. From
        // now on it is.
        opened.segment.file.sync().map_err(|e| DiskError::new("syncing the last segment", e))?;
        recovered.resume.previous = Some(PreviousSegment { sequence, tail, durable: *durable });
    }
    Ok(())
}

/// Keeps one spare, a fully written one if there is any, and removes the others.
fn open_spare(disk: &dyn Disk, names: &[String], config: &SegmentsConfig) -> Result<Option<Spare>, OpenError> {
    let mut spares: Vec<(bool, u64, &String)> =
        names.iter().filter_map(|n| names::spare_number(n).map(|number| (names::is_ready(n), number, n))).collect();
    spares.sort_unstable();
    let mut spare = None;
    if config.spare_ahead
        && let Some((ready, _, name)) = spares.pop()
    {
        let failed = |e| DiskError::new("opening a spare segment", e);
        let file = disk.open(name).map_err(failed)?;
        if file.length().map_err(failed)? == config.segment_bytes {
            spare = Some(Spare { name: name.clone(), file, written: if ready { config.segment_bytes } else { 0 } });
        } else {
            disk.remove(name).map_err(failed)?;
        }
    }
    for (_, _, name) in spares {
        disk.remove(name).map_err(|e| DiskError::new("removing a spare segment", e))?;
    }
    Ok(spare)
}
