//! [`Engine`]: the handle through which everything is done. The work itself is in the other modules.

use std::ops::Range;
use std::sync::Arc;

use atoll_ids::{BucketName, ObjectId};
use atoll_keys::OwnerKey;
use atoll_kv::KeyValue;
use bytes::Bytes;

use crate::config::EngineConfig;
use crate::error::{BucketError, GetError, ListError, MetaError, OpenError, PutError, RemoveError};
use crate::feed::Source;
use crate::garbage::{self, CollectReport};
use crate::get::ObjectReader;
use crate::heal::{HealOptions, HealReport};
use crate::homes::Homes;
use crate::info::{BucketInfo, BucketSettings, ObjectInfo, UploadInfo};
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::list::{ListQuery, Listing, Usage};
use crate::put::PutOptions;
use crate::record::UploadRecord;
use crate::store::{SCAN_STEP, Store, Stored, is_conflict};

/// Buckets and objects of one owner. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Ends the collector when the last handle is gone.
    _waker: Arc<Waker>,
}

/// Wakes the collector for the last time.
struct Waker(Arc<tokio::sync::Notify>);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Engine {
    /// Opens an owner's metadata and starts deleting what an earlier engine left half-done. Needs a tokio runtime.
    ///
    /// A store that was begun by another owner opens as well, but every operation on it fails with `WrongKey`.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(
        config: EngineConfig,
        kv: Arc<dyn KeyValue>,
        owner: Arc<OwnerKey>,
        homes: Arc<dyn Homes>,
    ) -> Result<Self, OpenError> {
        config.check()?;
        let store = Store::open(kv, &owner).await?;
        let inner = Arc::new(Inner::new(config, store, &owner, homes));
        match inner.recover().await {
            Ok(()) | Err(MetaError::WrongKey { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let waker = Arc::new(Waker(inner.wake.clone()));
        tokio::spawn(garbage::run(Arc::downgrade(&inner), inner.wake.clone()));
        inner.wake.notify_one();
        Ok(Self { inner, _waker: waker })
    }

    /// Gives up what was prepared for objects to come. Without it, the next engine has more to tidy; nothing is lost.
    ///
    /// # Errors
    /// [`MetaError`]
    pub async fn close(&self) -> Result<(), MetaError> {
        self.inner.release_reservations().await
    }

    /// Makes a bucket with this policy: `4+2` on different nodes, or with a failure domain by [`BucketSettings`].
    ///
    /// # Errors
    /// [`BucketError::Exists`]
    pub async fn create_bucket(
        &self,
        name: &BucketName,
        settings: impl Into<BucketSettings>,
    ) -> Result<BucketInfo, BucketError> {
        self.inner.create_bucket(name, settings.into()).await
    }

    /// All buckets, by name.
    ///
    /// # Errors
    /// [`MetaError`]
    pub async fn buckets(&self) -> Result<Vec<BucketInfo>, MetaError> {
        self.inner.buckets().await
    }

    /// One bucket.
    ///
    /// # Errors
    /// [`BucketError::NoSuchBucket`]
    pub async fn bucket(&self, name: &BucketName) -> Result<BucketInfo, BucketError> {
        self.inner.bucket(name).await
    }

    /// Removes an empty bucket.
    ///
    /// # Errors
    /// [`BucketError::NotEmpty`], [`BucketError::NoSuchBucket`]
    pub async fn remove_bucket(&self, name: &BucketName) -> Result<(), BucketError> {
        self.inner.remove_bucket(name).await
    }

    /// Stores an object, replacing what is under the key. Returns when it is durable. A local file whose upload was interrupted is continued where
    /// it was, if the file has not changed.
    ///
    /// May be dropped: then nothing is stored, and what was sent is deleted in the background (of a file: kept to be continued).
    ///
    /// # Errors
    /// [`PutError`]
    pub async fn put(
        &self,
        bucket: &BucketName,
        key: &str,
        source: Source,
        options: PutOptions,
    ) -> Result<ObjectInfo, PutError> {
        self.inner.put(bucket, key, source, options).await
    }

    /// Begins to read an object, or a range of it in bytes, which is cut to the object's size.
    ///
    /// # Errors
    /// [`GetError`]
    pub async fn get(
        &self,
        bucket: &BucketName,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<ObjectReader, GetError> {
        self.inner.get(bucket, key, range).await
    }

    /// What is known of an object, without reading it.
    ///
    /// # Errors
    /// [`GetError`]
    pub async fn stat(&self, bucket: &BucketName, key: &str) -> Result<ObjectInfo, GetError> {
        let found = self.inner.find(bucket, key).await?;
        Ok(ObjectInfo::new(bucket.clone(), key.to_owned(), &found.value))
    }

    /// One page of the objects of a bucket, in the order of their keys (as bytes of UTF-8).
    ///
    /// # Errors
    /// [`ListError`]
    pub async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<Listing, ListError> {
        self.inner.list(bucket, query).await
    }

    /// Sums over the objects whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`ListError`]
    pub async fn usage(&self, bucket: &BucketName, prefix: &str) -> Result<Usage, ListError> {
        self.inner.usage(bucket, prefix).await
    }

    /// Removes an object. Its shards are deleted in the background, once nobody reads it.
    ///
    /// # Errors
    /// [`RemoveError`]
    pub async fn remove(&self, bucket: &BucketName, key: &str) -> Result<ObjectInfo, RemoveError> {
        self.inner.remove(bucket, key).await
    }

    /// Uploads that are under way or were interrupted and can be continued.
    ///
    /// # Errors
    /// [`MetaError`]
    pub async fn uploads(&self) -> Result<Vec<UploadInfo>, MetaError> {
        let (mut uploads, mut after) = (Vec::new(), None);
        loop {
            let page = self.upload_page(after).await?;
            let Some(last) = page.last() else { return Ok(uploads) };
            after = Some(last.key.clone());
            let active = lock(&self.inner.uploading);
            let is_active = |found: &Stored<UploadRecord>| active.get(&found.value.id) == Some(&false);
            uploads.extend(page.iter().map(|found| UploadInfo::new(&found.value, is_active(found))));
        }
    }

    /// Gives up an interrupted upload; what was stored of it is deleted. `false` if there is none of this id, or someone works on it.
    ///
    /// # Errors
    /// [`MetaError`]
    pub async fn abort_upload(&self, id: ObjectId) -> Result<bool, MetaError> {
        let mut after = None;
        loop {
            let page = self.upload_page(after).await?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.key.clone());
            let Some(found) = page.into_iter().find(|found| found.value.id == id) else { continue };
            let Some(_claim) = self.inner.claim(id).await else { return Ok(false) };
            let (unchanged, mut changes) = (found.unchanged(), Vec::new());
            self.inner.bury_upload(&found.key, found.value, &mut changes);
            return match self.inner.store.commit(vec![unchanged], changes).await {
                Ok(_) => {
                    self.inner.wake.notify_one();
                    Ok(true)
                }
                // Someone has taken it up in the meantime.
                Err(error) if is_conflict(&error) => Ok(false),
                Err(error) => Err(error),
            };
        }
    }

    /// Deletes the shards of removed and replaced objects now, as far as nodes answer. The engine does this by itself in the background.
    ///
    /// # Errors
    /// [`MetaError`]
    pub async fn collect_garbage(&self) -> Result<CollectReport, MetaError> {
        self.inner.collect().await
    }

    /// Looks for lost and rotten shards and rebuilds them on other nodes. Can be interrupted and run again at any time.
    ///
    /// # Errors
    /// [`ListError`]; stripes that cannot be rebuilt are not an error but listed in the report.
    pub async fn heal(&self, options: HealOptions) -> Result<HealReport, ListError> {
        self.inner.heal(options).await
    }

    async fn upload_page(&self, after: Option<Bytes>) -> Result<Vec<Stored<UploadRecord>>, MetaError> {
        self.inner.store.scan(Bytes::from_static(keyspace::UPLOADS), after, SCAN_STEP).await
    }
}
