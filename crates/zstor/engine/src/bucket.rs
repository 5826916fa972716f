//! Buckets: made, listed, removed when empty.
//!
//! Removing takes two commits so that no object can slip in between the look and the removal: the first marks the bucket as closing, which changes its
//! record, and publishing an object is conditional on an unchanged record. What a crash leaves closing is settled when the engine opens.

use atoll_ids::BucketName;
use atoll_kv::Condition;
use bytes::Bytes;
use jiff::Timestamp;

use crate::error::{BucketError, MetaError};
use crate::info::{BucketInfo, BucketSettings};
use crate::inner::Inner;
use crate::keyspace;
use crate::record::{BucketRecord, ObjectRecord};
use crate::store::{SCAN_STEP, Stored, delete, is_conflict};

impl Inner {
    pub(crate) async fn create_bucket(
        &self,
        name: &BucketName,
        settings: BucketSettings,
    ) -> Result<BucketInfo, BucketError> {
        let key = keyspace::bucket(name);
        let BucketSettings { policy, level } = settings;
        let record = BucketRecord { policy, level, created: Timestamp::now(), closing: false };
        let put = self.store.put(key.clone(), &record);
        match self.store.commit(vec![Condition::Absent { key: key.clone() }], vec![put]).await {
            Ok(_) => Ok(BucketInfo::new(name.clone(), &record)),
            Err(error) if is_conflict(&error) => {
                let policy = self.store.get::<BucketRecord>(key).await?.map_or(policy, |found| found.value.policy);
                Err(BucketError::Exists { bucket: name.clone(), policy })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn bucket(&self, name: &BucketName) -> Result<BucketInfo, BucketError> {
        let found: Option<Stored<BucketRecord>> = self.store.get(keyspace::bucket(name)).await?;
        let open = found.filter(|bucket| !bucket.value.closing);
        let bucket = open.ok_or_else(|| BucketError::NoSuchBucket { bucket: name.clone() })?;
        Ok(BucketInfo::new(name.clone(), &bucket.value))
    }

    pub(crate) async fn buckets(&self) -> Result<Vec<BucketInfo>, MetaError> {
        let all = self.all_buckets().await?.into_iter().filter(|(_, bucket)| !bucket.value.closing);
        Ok(all.map(|(name, bucket)| BucketInfo::new(name, &bucket.value)).collect())
    }

    pub(crate) async fn remove_bucket(&self, name: &BucketName) -> Result<(), BucketError> {
        let missing = || BucketError::NoSuchBucket { bucket: name.clone() };
        let found: Stored<BucketRecord> = self.store.get(keyspace::bucket(name)).await?.ok_or_else(missing)?;
        // Before anything changes: the ordinary case of a bucket in use is answered without disturbing those who store in it.
        if let Some(example) = self.any_object(name).await? {
            return Err(BucketError::NotEmpty { bucket: name.clone(), example });
        }
        let closing = BucketRecord { closing: true, ..found.value.clone() };
        let put = self.store.put(found.key.clone(), &closing);
        match self.store.commit(vec![found.unchanged()], vec![put]).await {
            Ok(revision) => {
                let closing = Stored { key: found.key, value: closing, revision };
                match self.finish_closing(name, closing).await? {
                    None => Ok(()),
                    Some(example) => Err(BucketError::NotEmpty { bucket: name.clone(), example }),
                }
            }
            Err(error) if is_conflict(&error) => Err(missing()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a closing bucket if it is empty, and otherwise opens it again; then the key of an object in it is returned.
    async fn finish_closing(
        &self,
        name: &BucketName,
        closing: Stored<BucketRecord>,
    ) -> Result<Option<String>, MetaError> {
        let example = self.any_object(name).await?;
        let change = match example {
            None => delete(closing.key.clone()),
            Some(_) => self.store.put(closing.key.clone(), &BucketRecord { closing: false, ..closing.value.clone() }),
        };
        match self.store.commit(vec![closing.unchanged()], vec![change]).await {
            Ok(_) => Ok(example),
            // Somebody else finished it.
            Err(error) if is_conflict(&error) => Ok(example),
            Err(error) => Err(error),
        }
    }

    /// Finishes removals that a crash interrupted.
    pub(crate) async fn settle_buckets(&self) -> Result<(), MetaError> {
        for (name, bucket) in self.all_buckets().await?.into_iter().filter(|(_, bucket)| bucket.value.closing) {
            self.finish_closing(&name, bucket).await?;
        }
        Ok(())
    }

    pub(crate) async fn all_buckets(&self) -> Result<Vec<(BucketName, Stored<BucketRecord>)>, MetaError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<Stored<BucketRecord>> =
                self.store.scan(Bytes::from_static(keyspace::BUCKETS), after, SCAN_STEP).await?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.key.clone());
            for bucket in page {
                let name = keyspace::split_bucket(&bucket.key)
                    .ok_or_else(|| MetaError::Tampered { what: bucket.key.escape_ascii().to_string() })?;
                all.push((name, bucket));
            }
        }
    }

    /// The key of some object of a bucket.
    async fn any_object(&self, name: &BucketName) -> Result<Option<String>, MetaError> {
        let first: Vec<Stored<ObjectRecord>> = self.store.scan(keyspace::object(name, ""), None, 1).await?;
        Ok(first.first().and_then(|found| keyspace::split_object(&found.key)).map(|(_, key)| key))
    }
}
