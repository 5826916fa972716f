//! A story that is hunted: in the middle of every step the program of some node is killed and started again, and the story goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::machines::{MACHINES, Machines, STRANGER_NAME};
use crate::GridError;

/// A strike comes this late into its step at the most: most of what can be in the middle of something is by then.
const DELAY_MS_MAX: u64 = 6000;

/// Whom to strike and when, drawn by a seed.
#[derive(Debug)]
pub(super) struct Hunt {
    seed: u64,
    drawn: AtomicU64,
}

impl Hunt {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }

    fn draw(&self, below: u64) -> u64 {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::hash(&[self.seed.to_le_bytes(), number.to_le_bytes()].concat());
        let word = hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes);
        word % below.max(1)
    }

    /// Kills one node that runs, but for those in `spared`, and starts it again. Gives its name.
    pub(super) async fn strike(&self, machines: &Machines, spared: &[&str]) -> Result<&'static str, GridError> {
        let delay = Duration::from_millis(self.draw(DELAY_MS_MAX));
        let may = |name: &&str| *name != STRANGER_NAME && !spared.contains(name) && machines.node(name).is_started();
        let running: Vec<&'static str> = MACHINES.iter().map(|machine| machine.name).filter(may).collect();
        let index = usize::try_from(self.draw(running.len() as u64)).unwrap_or(0);
        let victim = running.get(index).copied();
        let victim = victim.ok_or_else(|| GridError::Wrong("no node runs that could be killed".into()))?;
        tokio::time::sleep(delay).await;
        machines.node(victim).replace().await?;
        Ok(victim)
    }
}
