//! What a client observes of its node: smoothed latencies and failures. Approximate under concurrency (a sample may be
//! lost when two arrive at once), which hedging does not mind; never blocking.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::home::{Health, HomeError};
use crate::protocol::{Answer, Kind};

/// An exponentially weighted mean of durations in nanoseconds, 0 before the first sample. A new sample weighs 1/8, as
/// in TCP's estimate of the round trip: ten samples forget most of the past, one outlier changes little.
#[derive(Debug, Default)]
struct Smoothed(AtomicU64);

impl Smoothed {
    fn add(&self, sample: Duration) {
        let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.0.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.0.store(new.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    get: Smoothed,
    put: Smoothed,
    failures: AtomicU64,
    failures_in_a_row: AtomicU64,
}

impl Meter {
    /// Takes note of how a request went.
    pub(super) fn record(&self, kind: Kind, took: Duration, result: &Result<Answer, HomeError>) {
        if result.as_ref().is_err_and(HomeError::is_no_answer) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        match (kind, result) {
            (Kind::Get, Ok(_)) => self.get.add(took),
            (Kind::Put, Ok(_)) => self.put.add(took),
            _ => {}
        }
    }

    /// A health with the measured part filled in.
    pub(super) fn health(&self) -> Health {
        Health {
            get_latency: self.get.get(),
            put_latency: self.put.get(),
            failures: self.failures.load(Ordering::Relaxed),
            failures_in_a_row: self.failures_in_a_row.load(Ordering::Relaxed),
            ..Health::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooths() {
        let smoothed = Smoothed::default();
        assert_eq!(smoothed.get(), None);
        smoothed.add(Duration::from_micros(800));
        assert_eq!(smoothed.get(), Some(Duration::from_micros(800)));
        smoothed.add(Duration::from_micros(1600));
        assert_eq!(smoothed.get(), Some(Duration::from_micros(900)));
        smoothed.add(Duration::MAX);
        assert!(smoothed.get() > Some(Duration::from_secs(60)));
    }
}
