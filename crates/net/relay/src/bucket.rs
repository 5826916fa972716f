//! A token bucket: so many bytes per second on average, some at once.

use std::time::{Duration, Instant};

/// Nanoseconds in a second: levels are kept in billionths of a byte so that nothing is lost to rounding, however often somebody asks.
const NANOS: u128 = 1_000_000_000;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    burst: u64,
    level: u128,
    filled: Option<Instant>,
}

impl Bucket {
    /// A full one. `rate` is in bytes per second; `burst` is what may go at once after a rest, in bytes.
    #[must_use]
    pub fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst, level: u128::from(burst) * NANOS, filled: None }
    }

    fn fill(&mut self, now: Instant) {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        let more = since.as_nanos().saturating_mul(u128::from(self.rate));
        self.level = self.level.saturating_add(more).min(u128::from(self.burst) * NANOS);
        self.filled = Some(self.filled.map_or(now, |filled| filled.max(now)));
    }

    /// How long until `bytes` may go; nothing if they may go now. What is larger than the burst waits for a full bucket.
    pub fn wait(&mut self, now: Instant, bytes: usize) -> Duration {
        self.fill(now);
        let wanted = u128::from(self.burst.min(bytes as u64)) * NANOS;
        let missing = wanted.saturating_sub(self.level);
        if missing == 0 {
            return Duration::ZERO;
        }
        match self.rate {
            0 => Duration::MAX,
            rate => Duration::from_nanos(u64::try_from(missing.div_ceil(u128::from(rate))).unwrap_or(u64::MAX)),
        }
    }

    /// Takes `bytes` if they may go now.
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        if !self.wait(now, bytes).is_zero() {
            return false;
        }
        self.level = self.level.saturating_sub(bytes as u128 * NANOS);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_burst(steps in prop::collection::vec((0u64..200, 1usize..3000), 1..300)) {
            let (rate, burst, began) = (10_000, 5_000, Instant::now());
            let (mut bucket, mut now, mut went) = (Bucket::new(rate, burst), began, 0u64);
            for (pause, bytes) in steps {
                now += Duration::from_millis(pause);
                if bucket.take(now, bytes) {
                    went += bytes as u64;
                }
            }
            let allowed = burst as f64 + rate as f64 * (now - began).as_secs_f64();
            assert!(went as f64 <= allowed + 1.0, "{went} of {allowed}");
        }
    }

    #[test]
    fn what_waits_as_long_as_it_was_told_may_go() {
        let (mut bucket, now) = (Bucket::new(1000, 1000), Instant::now());
        assert!(bucket.take(now, 900));
        let wait = bucket.wait(now, 600);
        assert_eq!(wait, Duration::from_millis(500));
        assert!(!bucket.take(now + wait - Duration::from_millis(1), 600));
        assert!(bucket.take(now + wait, 600));
    }

    #[test]
    fn a_rate_of_nothing_is_never() {
        let (mut bucket, now) = (Bucket::new(0, 0), Instant::now());
        assert!(bucket.take(now, 0));
        let mut bucket = Bucket { rate: 0, burst: 10, level: 0, filled: None };
        assert_eq!(bucket.wait(now, 1), Duration::MAX);
    }
}
