//! Reading blobs: stripes in order, each authenticated, a few fetched ahead.
//!
//! As with objects, what is handed out is exactly what was stored: each stripe's length is what its place demands, and its tag binds it to its blob and
//! counter, which the authenticated manifest binds to its place. After an error a reader gives nothing more.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use atoll_codec::{Opener, STRIPE_BYTES};
use atoll_ids::NodeId;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::{BlobManifest, BlobRecord, BlobStripe, Blobs};
use crate::error::ReadError;
use crate::gather::{self, Wanted};
use crate::pool::stripe_bytes;
use crate::record::StripeEntry;

/// How long a reader waits for its share of memory before it goes on with one stripe of its own, as for objects.
const BUDGET_GRACE: Duration = Duration::from_secs(1);

type Fetched = (Result<Bytes, ReadError>, Option<OwnedSemaphorePermit>);

/// Gives a blob's content, stripe by stripe.
pub struct BlobReader {
    blobs: Blobs,
    record: BlobRecord,
    opener: Arc<Opener>,
    range: Range<u64>,
    next: u64,
    end: u64,
    front: u64,
    flights: VecDeque<AbortOnDropHandle<Fetched>>,
    failed: bool,
}

impl Blobs {
    /// Begins to read a range of a blob in bytes, which is cut to its size.
    ///
    /// # Errors
    /// [`ReadError::Tampered`]
    pub fn reader(&self, manifest: &BlobManifest, range: Range<u64>) -> Result<BlobReader, ReadError> {
        let record = self.open(manifest)?;
        let opener = self.opener(&record)?;
        let range = range.start.min(record.size)..range.end.min(record.size);
        let stripe = STRIPE_BYTES as u64;
        let (next, end) = if range.is_empty() { (0, 0) } else { (range.start / stripe, range.end.div_ceil(stripe)) };
        let flights = VecDeque::new();
        Ok(BlobReader { blobs: self.clone(), record, opener, range, next, end, front: next, flights, failed: false })
    }

    /// A range of a blob in one piece. For ranges that fit the memory of whoever asks.
    ///
    /// # Errors
    /// [`ReadError`]
    pub async fn read(&self, manifest: &BlobManifest, range: Range<u64>) -> Result<Bytes, ReadError> {
        let mut reader = self.reader(manifest, range)?;
        let Some(first) = reader.next().await else { return Ok(Bytes::new()) };
        let first = first?;
        let Some(second) = reader.next().await else { return Ok(first) };
        let mut all = Vec::with_capacity(usize::try_from(reader.range.end - reader.range.start).unwrap_or(0));
        all.extend_from_slice(&first);
        all.extend_from_slice(&second?);
        while let Some(more) = reader.next().await {
            all.extend_from_slice(&more?);
        }
        Ok(all.into())
    }
}

impl BlobRecord {
    /// All that is needed to fetch a stripe, and the shards that are nowhere.
    pub(super) fn wanted(&self, stripe: u64, entry: &BlobStripe, opener: &Arc<Opener>) -> (Wanted, Vec<usize>) {
        let holders = self.holders(entry);
        let absent = (0..holders.len()).filter(|&index| holders[index].is_none()).collect();
        let nobody = NodeId::from_bytes([0; 32]);
        let holders = holders.into_iter().map(|node| node.unwrap_or(nobody)).collect();
        let record = entry.record.clone();
        let entry = StripeEntry { run: 0, map: 0, record, moved: Vec::new(), strays: Vec::new() };
        (Wanted { stripe, entry, holders, opener: opener.clone() }, absent)
    }
}

impl BlobReader {
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
            self.flights.clear();
        }
        outcome
    }

    async fn advance(&mut self) -> Option<Result<Bytes, ReadError>> {
        if let Err(error) = self.fetch_ahead().await {
            return Some(Err(error));
        }
        let fetched = self.flights.front_mut()?.await;
        self.flights.pop_front();
        let stripe = self.front;
        self.front += 1;
        Some(match fetched {
            Ok((Ok(plain), _permit)) => Ok(self.cut(stripe, &plain)),
            Ok((Err(error), _)) => Err(error),
            Err(error) => Err(ReadError::Stopped { why: error.to_string() }),
        })
    }

    fn cut(&self, stripe: u64, plain: &Bytes) -> Bytes {
        let first = stripe * STRIPE_BYTES as u64;
        let within = |at: u64| usize::try_from(at.saturating_sub(first)).unwrap_or(usize::MAX).min(plain.len());
        plain.slice(within(self.range.start)..within(self.range.end))
    }

    async fn fetch_ahead(&mut self) -> Result<(), ReadError> {
        let inner = self.blobs.inner.clone();
        while self.next < self.end && self.flights.len() < inner.config.stripes_in_flight {
            let damaged = || ReadError::Tampered { what: "the manifest of a blob".to_owned() };
            let at = usize::try_from(self.next).map_err(|_| damaged())?;
            let entry = self.record.stripes.get(at).ok_or_else(damaged)?;
            let rest = self.record.size - self.next * STRIPE_BYTES as u64;
            let expected = usize::try_from(rest).unwrap_or(STRIPE_BYTES).min(STRIPE_BYTES);
            if entry.record.plain_len() as usize != expected {
                return Err(damaged());
            }
            let (wanted, absent) = self.record.wanted(self.next, entry, &self.opener);
            let bytes = stripe_bytes(self.record.policy, expected);
            let permit = if self.flights.is_empty() {
                inner.get_budget.take_or_go_on(bytes, BUDGET_GRACE).await
            } else {
                match inner.get_budget.try_take(bytes) {
                    Some(permit) => Some(permit),
                    None => break,
                }
            };
            let inner = inner.clone();
            let task = tokio::spawn(async move { (gather::read_without(&inner, &wanted, &absent).await, permit) });
            self.flights.push_back(AbortOnDropHandle::new(task));
            self.next += 1;
        }
        Ok(())
    }
}
