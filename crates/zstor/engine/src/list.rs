//! Finding objects by name: pages of a listing, sums over a prefix, removal.

use atoll_ids::BucketName;
use bytes::Bytes;

use crate::error::{GetError, ListError, MetaError, RemoveError};
use crate::info::ObjectInfo;
use crate::inner::Inner;
use crate::keyspace;
use crate::record::{BucketRecord, ObjectRecord};
use crate::store::{SCAN_STEP, Stored, delete, is_conflict};

/// Entries of a listing's page, at most, whatever was asked for: S3's limit.
pub const LIST_MAX: usize = 1000;
/// How often a removal is tried when others store under the same key at the same time.
const REMOVE_TRIES: usize = 32;

/// Which objects to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that go on beyond the next such character after the prefix are represented by one common prefix up to it.
    pub delimiter: Option<char>,
    /// Only what comes after this: [`Listing::next`] of the page before.
    pub after: Option<String>,
    /// Entries wanted, at most [`LIST_MAX`]; 0 means [`LIST_MAX`].
    pub limit: usize,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects, in the order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// Common prefixes, each ending with the delimiter, in order.
    pub common_prefixes: Vec<String>,
    /// What to ask for after, if there is more.
    pub next: Option<String>,
}

/// Sums over objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many.
    pub objects: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of shards.
    pub stored: u64,
}

/// The common prefix that stands for `key`, if the delimiter occurs after the prefix.
fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: Option<char>) -> Option<&'a str> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len_utf8())
}

/// A scan position behind every key that starts with `common`: 0xFF does not occur in UTF-8.
fn behind(bucket: &BucketName, common: &str) -> Bytes {
    let mut position = keyspace::object(bucket, common).to_vec();
    position.push(0xff);
    position.into()
}

impl Inner {
    pub(crate) async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<Listing, ListError> {
        self.expect_bucket(bucket).await?;
        let limit = if query.limit == 0 { LIST_MAX } else { query.limit.min(LIST_MAX) };
        let start = |after: &String| match common_prefix(after, &query.prefix, query.delimiter) {
            Some(common) => behind(bucket, common),
            None => keyspace::object(bucket, after),
        };
        let mut position = query.after.as_ref().map(start);
        let mut listing = Listing::default();
        let mut last = String::new();
        let mut count = 0;
        'pages: loop {
            let step = SCAN_STEP.min(limit - count + 1);
            let page = self.scan_objects(bucket, &query.prefix, position.take(), step).await?;
            let is_last = page.len() < step;
            for (at, key, record) in page {
                if count == limit {
                    listing.next = Some(last);
                    return Ok(listing);
                }
                count += 1;
                if let Some(common) = common_prefix(&key, &query.prefix, query.delimiter) {
                    common.clone_into(&mut last);
                    listing.common_prefixes.push(last.clone());
                    position = Some(behind(bucket, common));
                    continue 'pages;
                }
                last.clone_from(&key);
                listing.objects.push(ObjectInfo::new(bucket.clone(), key, &record));
                position = Some(at);
            }
            if is_last {
                return Ok(listing);
            }
        }
    }

    pub(crate) async fn usage(&self, bucket: &BucketName, prefix: &str) -> Result<Usage, ListError> {
        self.expect_bucket(bucket).await?;
        let (mut usage, mut position) = (Usage::default(), None);
        loop {
            let page = self.scan_objects(bucket, prefix, position, SCAN_STEP).await?;
            let Some((at, ..)) = page.last() else { return Ok(usage) };
            position = Some(at.clone());
            for (_, _, record) in page {
                usage.objects += 1;
                usage.bytes += record.size;
                usage.stored += record.body.stored;
            }
        }
    }

    pub(crate) async fn remove(&self, bucket: &BucketName, key: &str) -> Result<ObjectInfo, RemoveError> {
        for _ in 0..REMOVE_TRIES {
            let found = match self.find(bucket, key).await {
                Ok(found) => found,
                Err(error) => return Err(not_found(error, bucket, key)),
            };
            let info = ObjectInfo::new(bucket.clone(), key.to_owned(), &found.value);
            let was = found.unchanged();
            let mut changes = vec![delete(found.key.clone())];
            let garbage = self.bury(found.value, &mut changes);
            match self.store.commit(vec![was], changes).await {
                Ok(_) => {
                    if garbage {
                        self.wake.notify_one();
                    }
                    return Ok(info);
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RemoveError::Contended { key: key.to_owned() })
    }

    /// Objects of a bucket with their scan positions.
    pub(crate) async fn scan_objects(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<Vec<(Bytes, String, ObjectRecord)>, MetaError> {
        let page: Vec<Stored<ObjectRecord>> = self.store.scan(keyspace::object(bucket, prefix), after, limit).await?;
        let split = |found: Stored<ObjectRecord>| match keyspace::split_object(&found.key) {
            Some((_, key)) => Ok((found.key, key, found.value)),
            None => Err(MetaError::Tampered { what: found.key.escape_ascii().to_string() }),
        };
        page.into_iter().map(split).collect()
    }

    async fn expect_bucket(&self, bucket: &BucketName) -> Result<(), ListError> {
        let found: Option<Stored<BucketRecord>> = self.store.get(keyspace::bucket(bucket)).await?;
        found.map(|_| ()).ok_or_else(|| ListError::NoSuchBucket { bucket: bucket.clone() })
    }
}

fn not_found(error: GetError, bucket: &BucketName, key: &str) -> RemoveError {
    match error {
        GetError::WrongKey { stored_for, ours } => MetaError::WrongKey { stored_for, ours }.into(),
        GetError::Tampered { what } => MetaError::Tampered { what }.into(),
        GetError::Meta(error) => error.into(),
        GetError::NotFound { .. } | GetError::NoSuchBucket { .. } | GetError::Range { .. } => {
            RemoveError::NotFound { bucket: bucket.clone(), key: key.to_owned() }
        }
    }
}
