//! Keeps this owner's data whole by itself: when a node has been away for long, what it had is made again elsewhere.
//!
//! When is decided by [`Vigil`], which is pure; this drives it: looks at the homes whenever a peer was asked, heals objects and the file systems that are not
//! mounted (mounted ones do so by themselves, at the same pace), and says how it goes. It keeps nothing on disk: a restarted node looks again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_control::{AwayNode, HealingStatus};
use atoll_engine::{Call, Engine, HealOptions, HealProgress, Homes as _, Pace, Vigil};
use atoll_ids::{ByteCount, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::filesystems::Filesystems;
use crate::peer_table::PeerTable;

/// A look at the homes takes no time; this is for the case that there are no peers whose answers cause one.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is settled about healing.
#[derive(Debug, Clone)]
pub(crate) struct HealingConfig {
    /// How long a node may be away.
    pub(crate) after: Duration,
    /// How fast shards are made again.
    pub(crate) rate: ByteCount,
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Healing {
    inner: Arc<Inner>,
}

struct Inner {
    config: HealingConfig,
    pace: Arc<Pace>,
    engine: Engine,
    filesystems: Filesystems,
    peers: PeerTable,
    state: Mutex<State>,
    /// Heals that a person asked for and that are under way: they go first.
    manual: watch::Sender<u32>,
    rebuilt: AtomicU64,
    rebuilt_bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    running: bool,
    away: Vec<(NodeId, Instant)>,
    looked: Option<Instant>,
    last: HealProgress,
    unplaced: u64,
    beyond_repair: u64,
    problem: Option<String>,
}

/// While this is held, healing by itself rests.
pub(crate) struct ManualHeal(Healing);

impl Drop for ManualHeal {
    fn drop(&mut self) {
        self.0.inner.manual.send_modify(|count| *count -= 1);
    }
}

impl Healing {
    /// Healing of what `engine` and `filesystems` keep on `peers`; `pace` is that of the file systems, too.
    pub(crate) fn new(
        config: HealingConfig,
        pace: Arc<Pace>,
        engine: Engine,
        filesystems: Filesystems,
        peers: PeerTable,
    ) -> Self {
        let (state, manual) = (Mutex::default(), watch::Sender::new(0));
        let (rebuilt, rebuilt_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let inner = Inner { config, pace, engine, filesystems, peers, state, manual, rebuilt, rebuilt_bytes };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks off the heal that runs by itself, if one does, and keeps others from beginning.
    pub(crate) fn manual(&self) -> ManualHeal {
        self.inner.manual.send_modify(|count| *count += 1);
        ManualHeal(self.clone())
    }

    /// Looks and heals until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut answers = self.inner.peers.answers();
        let mut manual = self.inner.manual.subscribe();
        let mut vigil = Vigil::new(self.inner.config.after, Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = answers.changed() => {}
                Ok(()) = manual.changed() => vigil.again(Instant::now()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if *manual.borrow_and_update() > 0 {
                continue;
            }
            let called = Instant::now();
            let call = vigil.look(called, &self.inner.peers.list(), false);
            let since = |(node, away)| (node, called.checked_sub(away).unwrap_or(called));
            self.state().away = vigil.away(called).map(since).collect();
            let Call::Heal { spared } = call else { continue };
            let healed = tokio::select! {
                () = stop.cancelled() => return,
                Ok(_) = manual.wait_for(|count| *count > 0) => None,
                healed = self.heal(spared) => Some(healed),
            };
            self.state().running = false;
            let Some(healed) = healed else { continue };
            vigil.healed(called, Instant::now(), matches!(healed, Ok(true)));
            if let Err(problem) = &healed {
                tracing::warn!(problem, "the owner's data cannot be healed; it is tried again");
            }
            let mut state = self.state();
            state.problem = healed.err();
            state.looked = Some(Instant::now());
        }
    }

    /// One look at everything. Whether all is whole now.
    async fn heal(&self, spared: BTreeSet<NodeId>) -> Result<bool, String> {
        let inner = &self.inner;
        {
            let mut state = self.state();
            (state.running, state.last) = (true, HealProgress::default());
        }
        let buckets = inner.engine.buckets().await.map_err(|error| error.to_string())?;
        let (mut unplaced, mut lost) = (0, 0);
        if !buckets.is_empty() {
            let report = inner.engine.heal(self.options(spared)).await.map_err(|error| error.to_string())?;
            (unplaced, lost) = (report.unplaced, report.lost);
            let (degraded, mended, rebuilt) = (report.degraded, report.mended, report.rebuilt);
            if degraded > 0 || report.strays > 0 {
                let strays = report.strays;
                tracing::info!(stripes = report.stripes, degraded, mended, rebuilt, unplaced, lost, strays, "healed");
            }
        }
        let (report, _) = inner.filesystems.heal_idle().await.map_err(|error| error.to_string())?;
        inner.rebuilt.fetch_add(report.rebuilt, Ordering::Relaxed);
        (unplaced, lost) = (unplaced + report.unplaced, lost + report.lost);
        let mut state = self.state();
        (state.unplaced, state.beyond_repair) = (unplaced, lost);
        Ok(unplaced == 0 && lost == 0 && report.is_whole())
    }

    fn options(&self, spared: BTreeSet<NodeId>) -> HealOptions {
        let healing = self.clone();
        let progress = move |so_far: HealProgress| {
            let mut state = healing.state();
            // Several objects are healed at once, and their words may come in another order.
            if so_far.stripes < state.last.stripes || so_far.rebuilt < state.last.rebuilt {
                return;
            }
            let before = std::mem::replace(&mut state.last, so_far);
            let rebuilt = so_far.rebuilt.saturating_sub(before.rebuilt);
            let bytes = so_far.rebuilt_bytes.saturating_sub(before.rebuilt_bytes);
            healing.inner.rebuilt.fetch_add(rebuilt, Ordering::Relaxed);
            healing.inner.rebuilt_bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        let pace = Some(self.inner.pace.clone());
        HealOptions { progress: Some(Arc::new(progress)), pace, spared, ..HealOptions::default() }
    }

    /// How whole everything is, as far as is known.
    pub(crate) fn status(&self) -> HealingStatus {
        let names: Vec<_> = self.inner.peers.status().into_iter().map(|peer| (peer.node, peer.name)).collect();
        let name = |node: NodeId| names.iter().find(|(known, _)| *known == node).and_then(|(_, name)| name.clone());
        let state = self.state();
        let away = |&(node, since): &(NodeId, Instant)| AwayNode {
            node,
            name: name(node),
            seconds: since.elapsed().as_secs(),
        };
        HealingStatus {
            after_seconds: self.inner.config.after.as_secs(),
            rate: self.inner.config.rate,
            running: state.running,
            away: state.away.iter().map(away).collect(),
            looked_seconds: state.looked.map(|at| at.elapsed().as_secs()),
            stripes: state.last.stripes,
            degraded: state.last.degraded,
            mended: state.last.mended,
            unplaced: state.unplaced,
            beyond_repair: state.beyond_repair,
            rebuilt: self.inner.rebuilt.load(Ordering::Relaxed),
            rebuilt_bytes: ByteCount(self.inner.rebuilt_bytes.load(Ordering::Relaxed)),
            problem: state.problem.clone(),
        }
    }
}
