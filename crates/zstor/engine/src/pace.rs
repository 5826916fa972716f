//! How fast healing may go, so that whoever stores and reads meanwhile keeps the greater part of disks and lines.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::inner::{lock, now};

/// A rate that several heals share: who has spent bytes makes the next one wait as long as these take.
pub struct Pace {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many bytes of rebuilt shards per second; at least one.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::default() }
    }

    /// Waits for the turn of so many bytes.
    pub async fn spend(&self, bytes: u64) {
        let pause = self.reserve(now(), bytes);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// How long to wait before so many bytes.
    fn reserve(&self, now: Instant, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = lock(&self.free_at);
        let turn = free_at.unwrap_or(now).max(now);
        *free_at = turn.checked_add(takes);
        turn.saturating_duration_since(now)
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pace({} bytes/s)", self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_at_the_rate_and_rest_is_not_saved_up() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        let waits: Vec<u128> = [500, 1000, 0].map(|bytes| pace.reserve(start, bytes).as_millis()).into();
        assert_eq!(waits, [0, 500, 1500]);
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.reserve(later, 1000), Duration::ZERO);
        assert_eq!(pace.reserve(later, 1000), Duration::from_secs(1));
    }
}
