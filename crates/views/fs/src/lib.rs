//! A file system whose data and metadata live in zstor; its FUSE driver.
//!
//! A [`Volume`] is a POSIX file system of one owner. What is in its files lies in blobs (`atoll_engine::Blobs`); what its files are called, in a journal and
//! checkpoints that are blobs too; which of these count, in one small head that is swung by compare-and-set ([`HeadStore`]). So the machine that mounts it keeps
//! nothing, and another one mounts the same state after it died. One node at a time may write: mounting raises an epoch, and whoever mounted
//! earlier is refused at its next swing.
//!
//! What it is not: a cluster file system (one writer), a cache on disk (`fsync` means dispersed), a place for placement or shards.
//!
//! # Where to look
//!
//! | file | what |
//! |---|---|
//! | `tree` | the file system in memory, pure: operations make changes, changes are the journal |
//! | `head` | the head and the seam to whoever keeps it |
//! | `secret` | a volume's secret, configuration and descriptor |
//! | `volume` | mounting, flushing, reading, tidying, healing |
//! | `fuse`, `mounted` | the FUSE driver, mounting and unmounting it, and what a killed process left mounted |
//!
//! # Promises
//!
//! - After `fsync` (or [`Volume::sync`]) returns, everything done before it, in any file, survives the machine.
//! - What nobody synced is stored within [`VolumeOptions::flush_every`] (5 s) and the time that storing takes, so no more than that is lost with the machine:
//!   the bound that ext4 has by default (`commit=5`). `sync(2)` and `syncfs` return without waiting for that: the kernel tells them to virtiofs, not to file
//!   systems in user space (`fuse_sync_fs`). What is written through a shared memory map is the kernel's until it writes it back (`msync`, `sync`, or half a minute).
//! - A crash at any moment leaves the state of the last swing, whole: operations are never half there, and never out of order.
//! - A fenced mount cannot change the volume, whatever it still has in memory.
//! - A blob is deleted only after the head no longer leads to it.
//!
//! # What is refused
//!
//! POSIX ACLs and other `system.` attributes, `fallocate`, `copy_file_range` below the kernel's own copying, `O_TMPFILE`, `ioctl`: with `ENOTSUP` or `ENOSYS`.
//! Access times change by `utimensat` only. Locks (`flock`, `fcntl`) hold between the programs of the node that has the volume mounted, which is all there are.

mod errno;
mod fuse;
mod head;
mod mounted;
mod secret;
mod tree;
mod volume;

pub use atoll_engine::{BlobManifest, DomainLevel, EngineConfig, Homes, Pace, Policy};
pub use errno::Errno;
pub use head::{HEAD_BYTES_MAX, HeadError, HeadStore, KvHeadStore, StoredHead, decode_head};
pub use mounted::{FuseOptions, MountError, Mounted, clear_stale, unmount, unmount_below};
pub use secret::{BadVolumeName, VolumeConfig, VolumeDescriptor, VolumeName, VolumeSecret, WrappedSecret, WrongOwner};
pub use tree::change::{Attr, Ino, Kind, ROOT, SegmentError, Time, decode_segment};
pub use tree::ops::FILE_BYTES_MAX;
pub use tree::{Contradiction, INODES_MAX};
pub use volume::{HealProgress, HealReport, Volume, VolumeError, VolumeOptions, VolumeStatus};
