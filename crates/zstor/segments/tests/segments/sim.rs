//! A simulated disk. What was written and not synced is kept apart, and a crash keeps an arbitrary part of it, in
//! sectors of 512 bytes. Operations can be made to fail from the n-th on, once or for ever, and the space can run out.
//!
//! A failed sync is as mean as the real thing: what it should have made durable may or may not be, a later sync that
//! succeeds does not cover it, and reads see it all the same.

use atoll_segments::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

const SECTOR: usize = 512;

/// Randomness with a seed that can be printed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Sync,
    Names,
    Allocate,
    Truncate,
}

/// When and how operations fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Operations of these kinds count; none: all do.
    pub(crate) kinds: Vec<Kind>,
    /// This many succeed first.
    pub(crate) after: u64,
    /// Then this many fail.
    pub(crate) count: u64,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Default)]
struct FileState {
    /// What reads see.
    now: Vec<u8>,
    /// What was durable before the first of `changes`.
    base: Vec<u8>,
    /// What was done since, in order, and what became of it.
    changes: Vec<(Change, Fate)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not synced yet: may or may not survive a crash.
    Unsynced,
    /// A sync of it failed: the same, and no later sync changes it.
    Limbo,
    /// Survives.
    Durable,
}

impl FileState {
    fn of(image: Vec<u8>) -> Self {
        Self { now: image.clone(), base: image, changes: Vec::new() }
    }

    fn change(&mut self, change: Change) {
        self.changes.push((change, Fate::Unsynced));
    }

    fn synced(&mut self, fate: Fate) {
        for (_, was) in &mut self.changes {
            if *was == Fate::Unsynced {
                *was = fate;
            }
        }
        if self.changes.iter().all(|(_, fate)| *fate == Fate::Durable) {
            *self = Self::of(std::mem::take(&mut self.now));
        }
    }
}

#[derive(Clone, Default)]
struct World {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<String, u64>,
    durable_names: Vec<BTreeMap<String, u64>>,
    next_file: u64,
    next_id: u64,
    ops: u64,
    faults: Option<Faults>,
    space: Option<u64>,
    gate: Option<Gate>,
}

/// Holds up one sync until it is told how that ends.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<Option<bool>>, Condvar)>);

impl Gate {
    /// Lets the sync go, well or not.
    pub(crate) fn release(&self, well: bool) {
        *self.0.0.lock().unwrap() = Some(well);
        self.0.1.notify_all();
    }

    fn pass(&self) -> bool {
        let released = self.0.1.wait_while(self.0.0.lock().unwrap(), |r| r.is_none()).unwrap();
        (*released).unwrap()
    }
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<World>>);

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl SimDisk {
    fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    /// Operations so far.
    pub(crate) fn ops(&self) -> u64 {
        self.with(|w| w.ops)
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.with(|w| w.faults = Some(faults));
    }

    pub(crate) fn heal(&self) {
        self.with(|w| w.faults = None);
    }

    /// Holds up the next sync of a file.
    pub(crate) fn hold_next_sync(&self) -> Gate {
        let gate = Gate::default();
        self.with(|w| w.gate = Some(gate.clone()));
        gate
    }

    /// Whether the sync to be held up has begun.
    pub(crate) fn is_holding(&self) -> bool {
        self.with(|w| w.gate.is_none())
    }

    /// Lets the files take at most so much together.
    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.with(|w| w.space = bytes);
    }

    /// What a crash leaves of the disk right now.
    pub(crate) fn crash(&self, random: &mut Random) -> Self {
        let world = self.with(|w| w.clone());
        // Directory changes become durable in order: any number of them may have.
        let named = &world.durable_names;
        let kept = if named.is_empty() { 0 } else { random.below(named.len() as u64) as usize };
        let names = named.get(kept).cloned().unwrap_or_default();
        let mood = random.below(MOODS);
        let mut after = World { next_file: world.next_file, next_id: world.next_id + 1000, ..World::default() };
        for (file, state) in &world.files {
            let mut image = state.base.clone();
            for (change, fate) in &state.changes {
                survive(&mut image, change, if *fate == Fate::Durable { ALL } else { mood }, random);
            }
            after.files.insert(*file, FileState::of(image));
        }
        after.names = names.clone();
        after.durable_names = vec![names];
        Self(Arc::new(Mutex::new(after)))
    }

    /// The disk with everything on it durable: a clean power-off.
    pub(crate) fn settled(&self) -> Self {
        let mut world = self.with(|w| w.clone());
        for state in world.files.values_mut() {
            *state = FileState::of(std::mem::take(&mut state.now));
        }
        world.durable_names = vec![world.names.clone()];
        world.faults = None;
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.with(|w| w.names.keys().cloned().collect())
    }

    pub(crate) fn image(&self, name: &str) -> Vec<u8> {
        self.with(|w| w.files[&w.names[name]].now.clone())
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn tamper(&self, name: &str, f: impl FnOnce(&mut Vec<u8>)) {
        self.with(|w| {
            let state = w.files.get_mut(&w.names[name]).unwrap();
            f(&mut state.now);
            *state = FileState::of(std::mem::take(&mut state.now));
        });
    }

    fn op<T>(&self, kind: Kind, f: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        self.with(|w| {
            w.ops += 1;
            if w.fails(kind) { Err(io::Error::other(format!("simulated failure of {kind:?}"))) } else { f(w) }
        })
    }
}

/// Moods of a crash: nothing that was not synced survives, or all of it; otherwise a beginning, or any sectors.
const NOTHING: u64 = 0;
const ALL: u64 = 1;
const BEGINNING: u64 = 2;
const MOODS: u64 = 4;

/// Which part of one change is found after a crash.
fn survive(image: &mut Vec<u8>, change: &Change, mood: u64, random: &mut Random) {
    match change {
        Change::Length(len) => {
            if mood == ALL || (mood != NOTHING && random.below(2) == 0) {
                image.resize(*len as usize, 0);
            }
        }
        Change::Write(offset, bytes) => {
            let prefix = random.below(bytes.len() as u64 / SECTOR as u64 + 1) as usize;
            for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                let kept = match mood {
                    NOTHING => false,
                    ALL => true,
                    BEGINNING => i < prefix,
                    _ => random.below(2) == 0,
                };
                let at = *offset as usize + i * SECTOR;
                if kept {
                    if image.len() < at + sector.len() {
                        image.resize(at + sector.len(), 0);
                    }
                    image[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }
}

impl World {
    fn fails(&mut self, kind: Kind) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        if !faults.kinds.is_empty() && !faults.kinds.contains(&kind) {
            return false;
        }
        if faults.after > 0 {
            faults.after -= 1;
            return false;
        }
        faults.count = faults.count.saturating_sub(1);
        let over = faults.count == 0;
        if over {
            self.faults = None;
        }
        true
    }

    fn renamed(&mut self) {
        let names = self.names.clone();
        self.durable_names.push(names);
    }

    fn taken(&self) -> u64 {
        self.names.values().map(|f| self.files[f].now.len() as u64).sum()
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.op(Kind::Names, |w| Ok(w.names.keys().cloned().collect()))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let disk = self.clone();
        self.op(Kind::Names, |w| {
            let file = *w.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(Arc::new(SimFile { disk, file }) as Arc<dyn DiskFile>)
        })
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let disk = self.clone();
        self.op(Kind::Names, |w| {
            if w.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = w.next_file;
            w.next_file += 1;
            w.files.insert(file, FileState::default());
            w.names.insert(name.to_owned(), file);
            w.renamed();
            Ok(Arc::new(SimFile { disk, file }) as Arc<dyn DiskFile>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.op(Kind::Names, |w| {
            let file = w.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            assert!(w.names.insert(to.to_owned(), file).is_none(), "{to} was replaced");
            w.renamed();
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.op(Kind::Names, |w| {
            w.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            w.renamed();
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.op(Kind::Sync, |w| {
            w.durable_names = vec![w.names.clone()];
            Ok(())
        })
    }

    fn segment_id(&self) -> io::Result<[u8; 16]> {
        self.with(|w| {
            w.next_id += 1;
            Ok(u128::from(w.next_id).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes())
        })
    }
}

impl SimFile {
    fn op<T>(&self, kind: Kind, f: impl FnOnce(&mut FileState) -> io::Result<T>) -> io::Result<T> {
        self.disk.op(kind, |w| f(w.files.get_mut(&self.file).unwrap()))
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        self.op(Kind::Names, |s| Ok(s.now.len() as u64))
    }

    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(
            buffer.len().is_multiple_of(4096) && offset.is_multiple_of(4096) && buffer.as_ptr().align_offset(4096) == 0
        );
        self.op(Kind::Read, |s| {
            let start = (offset as usize).min(s.now.len());
            let end = (start + buffer.len()).min(s.now.len());
            buffer[..end - start].copy_from_slice(&s.now[start..end]);
            Ok(end - start)
        })
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(
            bytes.len().is_multiple_of(4096) && offset.is_multiple_of(4096) && bytes.as_ptr().align_offset(4096) == 0
        );
        let write = |s: &mut FileState, bytes: &[u8]| {
            let end = offset as usize + bytes.len();
            if s.now.len() < end {
                s.now.resize(end, 0);
            }
            s.now[offset as usize..end].copy_from_slice(bytes);
            s.change(Change::Write(offset, bytes.to_vec()));
        };
        let result = self.op(Kind::Write, |s| {
            write(s, bytes);
            Ok(())
        });
        if result.is_err() {
            // Part of it got through all the same.
            let part = bytes.len() / 2 / SECTOR * SECTOR;
            self.disk.with(|w| write(w.files.get_mut(&self.file).unwrap(), &bytes[..part]));
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let gate = self.disk.with(|w| w.gate.take());
        let well = gate.is_none_or(|gate| gate.pass());
        let result = self.op(Kind::Sync, |s| {
            if !well {
                return Err(io::Error::other("simulated failure of a sync held up"));
            }
            s.synced(Fate::Durable);
            Ok(())
        });
        if result.is_err() {
            self.disk.with(|w| w.files.get_mut(&self.file).unwrap().synced(Fate::Limbo));
        }
        result
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.op(Kind::Allocate, |w| {
            let grows = bytes.saturating_sub(w.files[&self.file].now.len() as u64);
            if w.space.is_some_and(|space| w.taken() + grows > space) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let state = w.files.get_mut(&self.file).unwrap();
            if grows > 0 {
                state.now.resize(bytes as usize, 0);
                state.change(Change::Length(bytes));
            }
            Ok(())
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.op(Kind::Truncate, |s| {
            s.now.truncate(bytes as usize);
            s.change(Change::Length(bytes));
            Ok(())
        })
    }
}
