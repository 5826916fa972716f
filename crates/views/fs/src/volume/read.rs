//! Reading a file: from memory, from holes, from blobs.

use std::time::Duration;

use atoll_engine::{BlobManifest, Kind, ReadError};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::cache::STRIPE_BYTES;
use crate::errno::Errno;
use crate::tree::change::Ino;
use crate::tree::extents::{BlobId, Extent, Place};

/// Pause before shards that could not be had are asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// A part of a read and the blob it is in, if it is in one.
type Piece = (u64, Extent, Option<BlobManifest>);

impl Shared {
    /// Bytes of a file from `at` on; fewer than `len` at its end.
    ///
    /// # Errors
    /// [`Errno::Io`] when the nodes do not give them within the volume's patience, or what they give is forged.
    pub(crate) async fn read(&self, ino: Ino, at: u64, len: u64) -> Result<Bytes, Errno> {
        let deadline = Instant::now() + self.options.patience;
        loop {
            // Looked up anew each time: what was moved to another blob in between is found there.
            let (pieces, end) = self.pieces(ino, at, len)?;
            match self.gather(&pieces, at, end).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == Kind::Unavailable && Instant::now() < deadline => {
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    let same = self.pieces(ino, at, len).is_ok_and(|(now, _)| now == pieces);
                    if same || Instant::now() >= deadline {
                        tracing::warn!(target: "atoll::fs", volume = %self.config.name, ino, at, %error, "cannot be read");
                        return Err(Errno::Io);
                    }
                }
            }
        }
    }

    fn pieces(&self, ino: Ino, at: u64, len: u64) -> Result<(Vec<Piece>, u64), Errno> {
        let tree = self.tree();
        let (extents, end) = tree.read(ino, at, len)?;
        let with_manifest = |(at, extent): (u64, Extent)| {
            let manifest = match extent.place {
                Place::Memory(_) => None,
                Place::Stored { blob, .. } => Some(tree.blobs.get(&blob).ok_or(Errno::Io)?.manifest.clone()),
            };
            Ok((at, extent, manifest))
        };
        Ok((extents.into_iter().map(with_manifest).collect::<Result<_, Errno>>()?, end))
    }

    async fn gather(&self, pieces: &[Piece], at: u64, end: u64) -> Result<Bytes, ReadError> {
        let mut all = Vec::with_capacity(usize::try_from(end - at).unwrap_or(0));
        for (start, extent, manifest) in pieces {
            all.resize(usize::try_from(start - at).unwrap_or(usize::MAX), 0);
            match (&extent.place, manifest) {
                (Place::Stored { blob, from }, Some(manifest)) => {
                    self.fetch(*blob, manifest, *from, extent.len, &mut all).await?;
                }
                (Place::Memory(bytes), _) => all.extend_from_slice(bytes),
                (Place::Stored { .. }, None) => {}
            }
        }
        all.resize(usize::try_from(end - at).unwrap_or(usize::MAX), 0);
        Ok(all.into())
    }

    /// Appends bytes of a blob.
    pub(super) async fn fetch(
        &self,
        blob: BlobId,
        manifest: &BlobManifest,
        from: u64,
        len: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let (mut at, end) = (from, from + len);
        while at < end {
            let stripe = at / STRIPE_BYTES;
            let first = stripe * STRIPE_BYTES;
            let cell = self.cache.cell((blob, stripe));
            let fetch = || self.blobs.read(manifest, first..first + STRIPE_BYTES);
            let bytes = cell.get_or_try_init(fetch).await?;
            let until = end.min(first + STRIPE_BYTES);
            let within = |at: u64| usize::try_from(at - first).unwrap_or(usize::MAX);
            let part = bytes.get(within(at)..within(until));
            into.extend_from_slice(part.ok_or_else(|| ReadError::Tampered { what: format!("blob {blob}") })?);
            at = until;
        }
        Ok(())
    }
}
