//! Reading an object: stripes in order, each authenticated, a bounded number fetched ahead.
//!
//! What is handed out is exactly what was stored, in order, and the end is reported only after the last byte: each stripe's length is what its place in
//! an object of the recorded size demands, and its tag binds it to its run and counter, which the (authenticated) manifest binds to its
//! place. After an error the reader gives nothing more.
//!
//! The version that is read stays until the reader is dropped, also if it is replaced or removed meanwhile.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use atoll_codec::{Opener, STRIPE_BYTES};
use atoll_ids::{BucketName, ObjectId};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use crate::chart::seed;
use crate::error::{GetError, ReadError};
use crate::garbage::holders;
use crate::gather::{self, Wanted};
use crate::info::ObjectInfo;
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::pipeline::together;
use crate::pool::stripe_bytes;
use crate::record::{Body, BucketRecord, ManifestPage, ObjectRecord, PAGE_STRIPES, StripeEntry};
use crate::store::Stored;

/// How long a reader waits for its share of memory before it goes on with one stripe of its own. Longer than the budget is ever held by readers
/// whose consumers take what they ask for.
const BUDGET_GRACE: Duration = Duration::from_secs(1);

/// A few stripes, and the memory they hold until they are handed on.
struct Fetched {
    stripes: VecDeque<Result<Bytes, ReadError>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Gives an object's content, stripe by stripe.
pub struct ObjectReader {
    info: ObjectInfo,
    version: Arc<Version>,
    range: Range<u64>,
    /// The next stripe to fetch, and the one after the last.
    next: u64,
    end: u64,
    page: Option<(u32, ManifestPage)>,
    /// What has come and was not handed on.
    fetched: Option<Fetched>,
    flights: VecDeque<AbortOnDropHandle<Fetched>>,
    /// The number of the stripe that is handed on next.
    front: u64,
    failed: bool,
}

/// A version that is being read; keeps it from being collected.
struct Version {
    inner: Arc<Inner>,
    id: ObjectId,
    size: u64,
    body: Body,
    openers: Vec<Arc<Opener>>,
}

impl Drop for Version {
    fn drop(&mut self) {
        let mut reading = lock(&self.inner.reading);
        let Some(readers) = reading.versions.get_mut(&self.id) else { return };
        *readers -= 1;
        if *readers == 0 {
            reading.versions.remove(&self.id);
            if std::mem::take(&mut reading.awaited) {
                self.inner.wake.notify_one();
            }
        }
    }
}

impl Inner {
    /// The record of an object.
    pub(crate) async fn find(&self, bucket: &BucketName, key: &str) -> Result<Stored<ObjectRecord>, GetError> {
        if let Some(found) = self.store.get(keyspace::object(bucket, key)).await? {
            return Ok(found);
        }
        let exists: Option<Stored<BucketRecord>> = self.store.get(keyspace::bucket(bucket)).await?;
        Err(match exists {
            Some(_) => GetError::NotFound { bucket: bucket.clone(), key: key.to_owned() },
            None => GetError::NoSuchBucket { bucket: bucket.clone() },
        })
    }

    pub(crate) async fn get(
        self: &Arc<Self>,
        bucket: &BucketName,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<ObjectReader, GetError> {
        loop {
            let found = self.find(bucket, key).await?;
            let id = found.value.id;
            *lock(&self.reading).versions.entry(id).or_insert(0) += 1;
            let ObjectRecord { size, ref body, .. } = found.value;
            let mut version = Version { inner: self.clone(), id, size, body: body.clone(), openers: Vec::new() };
            // Look again now that it is held: had it been replaced in between, its shards might be gone already.
            let again = self.find(bucket, key).await?;
            if again.value.id != id {
                continue;
            }
            version.openers = self.openers(id, body)?;
            let info = ObjectInfo::new(bucket.clone(), key.to_owned(), &found.value);
            return ObjectReader::new(info, version, range);
        }
    }
}

impl ObjectReader {
    fn new(info: ObjectInfo, version: Version, range: Option<Range<u64>>) -> Result<Self, GetError> {
        let size = version.size;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.start > size {
            return Err(GetError::Range { start: range.start, end: range.end, size });
        }
        if size.div_ceil(STRIPE_BYTES as u64) != version.body.stripes {
            return Err(GetError::Tampered { what: format!("object \"{}\"", info.key) });
        }
        let range = range.start..range.end.min(size);
        let (next, end) = if range.is_empty() {
            (0, 0)
        } else {
            (range.start / STRIPE_BYTES as u64, range.end.div_ceil(STRIPE_BYTES as u64))
        };
        let (version, flights) = (Arc::new(version), VecDeque::new());
        Ok(Self { info, version, range, next, end, page: None, fetched: None, flights, front: next, failed: false })
    }

    /// What is being read.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// The part of it that will be given, in bytes of content: the range asked for, cut to the object's size.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The next bytes: a stripe, or the part of one that lies in the range. `None` after the last, and after an error.
    ///
    /// May be dropped while waiting and called again; nothing is lost.
    ///
    /// # Errors
    /// [`ReadError`]; what was given before is right.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.failed {
            return None;
        }
        let outcome = self.advance().await;
        self.failed = matches!(outcome, Some(Err(_)));
        if self.failed {
            self.fetched = None;
            self.flights.clear();
        }
        outcome
    }

    async fn advance(&mut self) -> Option<Result<Bytes, ReadError>> {
        if let Err(error) = self.fetch_ahead().await {
            return Some(Err(error));
        }
        if self.fetched.is_none() {
            let fetched = self.flights.front_mut()?.await;
            self.flights.pop_front();
            match fetched {
                Ok(fetched) => self.fetched = Some(fetched),
                Err(error) => return Some(Err(ReadError::Stopped { why: error.to_string() })),
            }
        }
        let stripes = &mut self.fetched.as_mut()?.stripes;
        let outcome = stripes.pop_front()?;
        if stripes.is_empty() {
            self.fetched = None;
        }
        let stripe = self.front;
        self.front += 1;
        Some(outcome.map(|plain| self.cut(stripe, plain)))
    }

    /// The part of a stripe that lies in the range.
    fn cut(&self, stripe: u64, plain: Bytes) -> Bytes {
        let first = stripe * STRIPE_BYTES as u64;
        let within = |at: u64| usize::try_from(at.saturating_sub(first)).unwrap_or(usize::MAX).min(plain.len());
        plain.slice(within(self.range.start)..within(self.range.end))
    }

    async fn fetch_ahead(&mut self) -> Result<(), ReadError> {
        let in_flight = self.version.inner.config.stripes_in_flight;
        let together = together(in_flight) as u64;
        while self.next < self.end {
            let begun = usize::try_from(self.next - self.front).unwrap_or(usize::MAX);
            let mut stripes = self.next..self.end.min(self.next + together);
            if begun > 0 && begun + together as usize > in_flight {
                break;
            }
            let budget = self.version.inner.clone();
            let mut permit = budget.get_budget.try_take(self.bytes(stripes.clone()));
            if permit.is_none() && begun > 0 {
                break;
            }
            if permit.is_none() {
                stripes.end = stripes.start + 1;
                permit = budget.get_budget.take_or_go_on(self.bytes(stripes.clone()), BUDGET_GRACE).await;
            }
            let mut wanted = Vec::new();
            for stripe in stripes.clone() {
                wanted.push(self.wanted(stripe).await?);
            }
            let inner = self.version.inner.clone();
            let fetch = async move { Fetched { stripes: gather::read(&inner, &wanted).await.into(), _permit: permit } };
            self.flights.push_back(AbortOnDropHandle::new(tokio::spawn(fetch)));
            self.next = stripes.end;
        }
        Ok(())
    }

    /// The memory that some stripes take.
    fn bytes(&self, stripes: Range<u64>) -> usize {
        stripes.map(|stripe| stripe_bytes(self.version.body.policy, self.expected_len(stripe))).sum()
    }

    /// The bytes that a stripe at this place has.
    fn expected_len(&self, stripe: u64) -> usize {
        let rest = self.version.size - stripe * STRIPE_BYTES as u64;
        usize::try_from(rest).unwrap_or(STRIPE_BYTES).min(STRIPE_BYTES)
    }

    async fn wanted(&mut self, stripe: u64) -> Result<Wanted, ReadError> {
        let damaged = || ReadError::Tampered { what: format!("the manifest of \"{}\"", self.info.key) };
        let entry = match self.version.body.inline.get(usize::try_from(stripe).map_err(|_| damaged())?) {
            Some(entry) => entry.clone(),
            None => self.entry(stripe).await?,
        };
        let damaged = || ReadError::Tampered { what: format!("the manifest of \"{}\"", self.info.key) };
        if entry.record.plain_len() as usize != self.expected_len(stripe) {
            return Err(damaged());
        }
        let Version { inner, id, body, openers, .. } = self.version.as_ref();
        let opener = openers.get(usize::from(entry.run)).ok_or_else(damaged)?.clone();
        let chart = inner.charts.load(&inner.store, body.map(&entry).ok_or_else(damaged)?).await?;
        let holders = holders(&chart, body, &entry, &seed(*id, stripe)).ok_or_else(damaged)?;
        Ok(Wanted { stripe, entry, holders, opener })
    }

    /// A stripe's entry, from its page.
    async fn entry(&mut self, stripe: u64) -> Result<StripeEntry, ReadError> {
        let damaged = || ReadError::Tampered { what: "a page of the manifest".to_owned() };
        let number = u32::try_from(stripe / PAGE_STRIPES as u64).map_err(|_| damaged())?;
        if self.page.as_ref().is_none_or(|(at, _)| *at != number) {
            let key = keyspace::page(self.version.id, number);
            match self.version.inner.store.get::<ManifestPage>(key).await? {
                Some(page) => self.page = Some((number, page.value)),
                None => return Err(self.why_missing().await),
            }
        }
        let within = usize::try_from(stripe % PAGE_STRIPES as u64).map_err(|_| damaged())?;
        let entry = self.page.as_ref().and_then(|(_, page)| page.stripes.get(within));
        entry.cloned().ok_or_else(damaged)
    }

    /// Why a page of the manifest is not there.
    async fn why_missing(&self) -> ReadError {
        match self.version.inner.find(&self.info.bucket, &self.info.key).await {
            Ok(found) if found.value.id == self.version.id => {
                ReadError::Tampered { what: format!("the manifest of \"{}\"", self.info.key) }
            }
            _ => ReadError::Removed,
        }
    }
}
