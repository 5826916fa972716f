//! Images from a registry.

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use crate::archive::choose;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::fetch::{PullOptions, Repository};
use crate::format::{self, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, Manifest, Platform};
use crate::reference::Reference;
use crate::store::{Image, Store};

/// Blobs fetched at once, as Docker does: more gains nothing at one registry.
const BLOBS_AT_ONCE: usize = 3;
/// Pieces between the network and the disk, each at most a TLS record or a few: memory per blob stays under a megabyte.
const PIECES_MAX: usize = 16;

impl Store {
    /// Fetches an image: the variant for this machine, only the blobs that are not here, each checked against its digest while it is
    /// written. The name is given last, so an interrupted pull leaves no image, and what it fetched in full is not fetched again.
    pub async fn pull(&self, reference: &Reference, options: &PullOptions) -> Result<Image, ImageError> {
        let _ingest = self.inner.ingest();
        let repository = Repository::new(reference, options)?;
        let limits = &self.inner.limits;
        let mut bytes = self.fetch_manifest(&repository, &reference.wanted(), reference.digest()).await?;
        let mut manifest = format::parse_manifest(&bytes, limits)?;
        if let Manifest::Index(index) = &manifest {
            let digest = choose(index, &Platform::current(), &reference.to_string())?.digest;
            bytes = self.fetch_manifest(&repository, &digest.to_string(), Some(digest)).await?;
            manifest = format::parse_manifest(&bytes, limits)?;
        }
        let Manifest::Image(manifest) = manifest else {
            return Err(ImageError::refused(reference.to_string(), "its index names another index"));
        };
        let blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
        let fetches: Vec<_> = blobs.map(|blob| self.fetch_blob(&repository, blob)).collect();
        stream::iter(fetches).buffer_unordered(BLOBS_AT_ONCE).try_collect::<()>().await?;
        let (store, reference) = (self.clone(), reference.clone());
        blocking(move || {
            let digest = store.inner.blobs.put_bytes(&bytes)?;
            store.commit(&reference, digest)
        })
        .await
    }

    async fn fetch_manifest(
        &self,
        repository: &Repository,
        wanted: &str,
        expected: Option<Digest>,
    ) -> Result<Vec<u8>, ImageError> {
        let accept = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        let response = repository.get(&format!("manifests/{wanted}"), &accept).await?;
        let bytes = repository.body(response, self.inner.limits.manifest_bytes_max.0).await?;
        let found = Digest::of(&bytes);
        match expected.filter(|&expected| expected != found) {
            Some(expected) => Err(ImageError::WrongDigest { subject: format!("manifest {wanted}"), expected, found }),
            None => Ok(bytes),
        }
    }

    async fn fetch_blob(&self, repository: &Repository, blob: &Descriptor) -> Result<(), ImageError> {
        if self.inner.blobs.has(blob.digest) {
            return Ok(());
        }
        let mut response = repository.get(&format!("blobs/{}", blob.digest), "").await?;
        let (sender, mut pieces) = mpsc::channel::<Result<_, ImageError>>(PIECES_MAX);
        let (store, digest, size) = (self.clone(), blob.digest, blob.size);
        let writing = blocking(move || {
            let mut writer = store.inner.blobs.writer(size)?;
            // A closed channel is the end of the blob or a cancelled pull; the digest tells them apart.
            while let Some(piece) = pieces.blocking_recv() {
                let piece = piece?;
                writer.append(AsRef::<[u8]>::as_ref(&piece))?;
            }
            writer.commit(Some(digest)).map(drop)
        });
        let reading = async {
            loop {
                let piece = repository.chunk(&mut response).await.transpose();
                let Some(piece) = piece else { break };
                // The writer has given up and says why itself.
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        let (written, ()) = tokio::join!(writing, reading);
        written
    }
}

/// File work, off the threads that serve the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::refused("an image", format!("the work on it was abandoned: {error}"))),
    }
}
