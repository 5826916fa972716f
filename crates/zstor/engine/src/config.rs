//! What can be set about an engine, with the reasons for the defaults.

use std::time::Duration;

use crate::error::OpenError;
use crate::health::HedgeRule;

/// Settings of an [`Engine`](crate::Engine).
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Stripes of one object that are on their way at once, in each direction. Twelve keep six nodes with a group flush of a few milliseconds busy at
    /// gigabytes per second; more only add memory.
    pub stripes_in_flight: usize,
    /// Bytes that all uploads together may hold (plaintext and shards). 32 MiB is twelve stripes at 4+2.
    pub put_bytes_max: usize,
    /// Bytes that all downloads together may hold. Apart from uploads', so that neither waits for the other: copying an object reads and
    /// writes at once.
    pub get_bytes_max: usize,
    /// When a spare node gets a shard because the first has not acknowledged it. A put contains a flush to a medium, which a busy disk may well take
    /// a quarter of a second for.
    pub put_hedge: HedgeRule,
    /// When another shard is asked for because one has not come. With the cap, a node that hangs costs a reader 50 ms once.
    pub get_hedge: HedgeRule,
    /// How long a node from which nothing comes at all is waited for when nobody else could answer in its place. A node that answers other
    /// requests, or to which bytes still move, is waited for longer: a slow line is not a failure.
    pub patience: Duration,
    /// How long a probe of a suspect node may take.
    pub probe_limit: Duration,
    /// How long the background collector waits before it tries again to delete shards on nodes that did not answer.
    pub collect_pause: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            stripes_in_flight: 12,
            put_bytes_max: 32 << 20,
            get_bytes_max: 32 << 20,
            put_hedge: HedgeRule { floor: ms(250), cap: ms(2000), factor: 4.0, assumed: ms(125) },
            get_hedge: HedgeRule { floor: ms(10), cap: ms(50), factor: 3.0, assumed: ms(50) },
            patience: Duration::from_secs(10),
            probe_limit: Duration::from_secs(1),
            collect_pause: Duration::from_secs(30),
        }
    }
}

impl EngineConfig {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |what, allowed, found: String| Err(OpenError::Config { what, allowed, found });
        if !(1..=256).contains(&self.stripes_in_flight) {
            return refuse("stripes_in_flight", "1 to 256", self.stripes_in_flight.to_string());
        }
        for (what, bytes) in [("put_bytes_max", self.put_bytes_max), ("get_bytes_max", self.get_bytes_max)] {
            if !(1 << 20..=1 << 40).contains(&bytes) {
                return refuse(what, "1 MiB to 1 TiB", bytes.to_string());
            }
        }
        for (what, rule) in [("put_hedge", self.put_hedge), ("get_hedge", self.get_hedge)] {
            if !(rule.factor.is_finite() && rule.factor >= 1.0 && rule.factor <= 1000.0) {
                return refuse(what, "a rule with a factor of 1 to 1000", format!("{rule:?}"));
            }
        }
        Ok(())
    }
}
