//! Images from the tenant's own node: `atoll/image/1`, so that no registry is needed.
//!
//! A member names an image, the tenant's node sends it as an OCI archive. What arrives is checked like any archive: every digest, every limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_agent::{Fetch, Problem, Registry};
use atoll_ids::NodeId;
use atoll_images::{Auth, Reference, Store};
use atoll_link::{BoxStream, LinkHandle, Traffic};
use atoll_wire::{Versioned, decode, encode, read_frame, write_frame};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The protocol's name.
pub const IMAGE_PROTOCOL: &str = "atoll/image/1";

/// An image's name, or a refusal in words.
const FRAME_BYTES_MAX: u32 = 4096;

/// The largest archive that is taken: what the image store's own limits allow, roughly. A node's disk is not a tenant's to fill.
const ARCHIVE_BYTES_MAX: u64 = 16 << 30;

/// A node that does not answer within this does not have it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What the tenant's node answers before the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Header {
    /// An archive of this many bytes follows.
    Archive(u64),
    /// There is none of this name.
    None,
    /// No, and why.
    Refused(String),
}

impl Versioned for Header {
    const VERSION: u16 = 1;
    const NAME: &'static str = "image header";
}

/// Sends images to members. Cheap to clone.
#[derive(Clone)]
pub struct ImageServer {
    store: Store,
    /// Where archives are made before they are sent.
    scratch: PathBuf,
}

impl ImageServer {
    /// Serves the images of `store`.
    pub fn new(store: Store, scratch: PathBuf) -> Self {
        Self { store, scratch }
    }

    /// Serves one stream of [`IMAGE_PROTOCOL`]; `entitled` says whether the peer is of an eVDC of this node's owner.
    pub async fn handle(&self, peer: NodeId, entitled: bool, mut stream: BoxStream) {
        if let Err(error) = self.send(entitled, &mut stream).await {
            tracing::debug!(peer = %peer.short(), error, "an image was not sent");
        }
    }

    async fn send(&self, entitled: bool, stream: &mut BoxStream) -> Result<(), String> {
        let frame = timeout(ANSWER_WITHIN, read_frame(stream, FRAME_BYTES_MAX)).await.map_err(|_| "it asks nothing")?;
        let frame = frame.map_err(|error| error.to_string())?.ok_or("it asks nothing")?;
        let name = std::str::from_utf8(&frame).map_err(|error| error.to_string())?.to_owned();
        let archive = if entitled { self.archive(name).await } else { Err("you are of no eVDC of mine".to_owned()) };
        let say = async |stream: &mut BoxStream, header: &Header| {
            write_frame(stream, &encode(header), FRAME_BYTES_MAX).await.map_err(|error| error.to_string())
        };
        match archive {
            Ok(Some(archive)) => {
                let mut file = tokio::fs::File::open(archive.path()).await.map_err(|error| error.to_string())?;
                let bytes = file.metadata().await.map_err(|error| error.to_string())?.len();
                say(stream, &Header::Archive(bytes)).await?;
                tokio::io::copy(&mut file, stream).await.map_err(|error| error.to_string())?;
            }
            Ok(None) => say(stream, &Header::None).await?,
            Err(why) => say(stream, &Header::Refused(why)).await?,
        }
        stream.shutdown().await.map_err(|error| error.to_string())
    }

    /// The image as an archive in a file that goes with the returned value.
    async fn archive(&self, name: String) -> Result<Option<tempfile::NamedTempFile>, String> {
        let (store, scratch) = (self.store.clone(), self.scratch.clone());
        let made = tokio::task::spawn_blocking(move || {
            let reference: Reference = name.parse().map_err(|error| format!("{error}"))?;
            if store.get(&reference).map_err(|error| error.to_string())?.is_none() {
                return Ok(None);
            }
            std::fs::create_dir_all(&scratch).map_err(|error| error.to_string())?;
            let file = tempfile::NamedTempFile::new_in(&scratch).map_err(|error| error.to_string())?;
            store.save(&reference, file.path()).map_err(|error| error.to_string())?;
            Ok(Some(file))
        });
        made.await.map_err(|error| error.to_string())?
    }
}

/// Fetches from the tenant's own node first, and what it does not have from the registry that the name says.
pub struct FromHome {
    link: LinkHandle,
    home: NodeId,
    scratch: PathBuf,
    registry: Registry,
}

impl FromHome {
    /// Fetches from `home`; archives lie in `scratch` until they are taken in.
    pub fn new(link: LinkHandle, home: NodeId, scratch: PathBuf) -> Self {
        Self { link, home, scratch, registry: Registry::default() }
    }

    /// The archive, or `None` if the home has no such image.
    async fn archive(&self, reference: &Reference) -> Result<Option<tempfile::NamedTempFile>, String> {
        let opened = self.link.open(self.home, IMAGE_PROTOCOL, Traffic::Bulk).await;
        let mut stream = opened.map_err(|error| error.to_string())?;
        let name = reference.to_string();
        write_frame(&mut stream, name.as_bytes(), FRAME_BYTES_MAX).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        let answer = timeout(ANSWER_WITHIN, read_frame(&mut stream, FRAME_BYTES_MAX)).await;
        let answer = answer.map_err(|_| "no answer")?.map_err(|error| error.to_string())?.ok_or("no answer")?;
        let bytes = match decode(&answer).map_err(|error| error.to_string())? {
            Header::Archive(bytes) if bytes <= ARCHIVE_BYTES_MAX => bytes,
            Header::Archive(bytes) => {
                return Err(format!("the image has {bytes} bytes; {ARCHIVE_BYTES_MAX} are taken"));
            }
            Header::None => return Ok(None),
            Header::Refused(why) => return Err(why),
        };
        std::fs::create_dir_all(&self.scratch).map_err(|error| error.to_string())?;
        let file = tempfile::NamedTempFile::new_in(&self.scratch).map_err(|error| error.to_string())?;
        let mut out = tokio::fs::File::from_std(file.reopen().map_err(|error| error.to_string())?);
        let copied = tokio::io::copy(&mut stream.take(bytes), &mut out).await.map_err(|error| error.to_string())?;
        out.flush().await.map_err(|error| error.to_string())?;
        if copied != bytes {
            return Err(format!("the image broke off after {copied} of {bytes} bytes"));
        }
        Ok(Some(file))
    }
}

impl Fetch for FromHome {
    fn fetch<'a>(
        &'a self,
        store: &'a Store,
        reference: &'a Reference,
        auth: &'a [Auth],
    ) -> BoxFuture<'a, Result<(), Problem>> {
        async move {
            let from_home = self.archive(reference).await;
            match from_home {
                Ok(Some(file)) => {
                    let (store, reference) = (store.clone(), reference.clone());
                    let loaded = tokio::task::spawn_blocking(move || store.load(file.path(), Some(&reference)));
                    let loaded = loaded.await.map_err(|error| Problem(error.to_string()))?;
                    loaded.map(drop).map_err(|error| Problem(error.to_string()))
                }
                Ok(None) => self.registry.fetch(store, reference, auth).await,
                Err(why) => {
                    tracing::debug!(%reference, why, "the tenant's node did not send an image");
                    let fetched = self.registry.fetch(store, reference, auth).await;
                    fetched.map_err(|error| Problem(format!("the tenant's node: {why}; the registry: {error}")))
                }
            }
        }
        .boxed()
    }
}

/// What this is used as by agents.
pub(crate) fn from_home(link: LinkHandle, home: NodeId, scratch: PathBuf) -> Arc<dyn Fetch> {
    Arc::new(FromHome::new(link, home, scratch))
}
