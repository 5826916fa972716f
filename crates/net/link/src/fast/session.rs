//! One path to one peer, as long as the connection beside which it runs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use atoll_fast::{Opener, Run, Sealer, Side, Watch, Way};
use atoll_ids::NodeId;
use tokio::sync::Notify;

use crate::meter::Meter;

/// What seals, and where to. Held for a burst of packets.
pub(super) struct Sending {
    pub(super) sealer: Sealer,
    /// Which way the watch says that packets arrive.
    pub(super) target: Option<Way>,
    /// Bursts so far, also of what had to take the connection.
    pub(super) bursts: u64,
    pub(super) runs: Vec<Run>,
}

/// What opens. Held for what the kernel joined to one buffer.
pub(super) struct Receiving {
    pub(super) opener: Opener,
    /// Where the last genuine packet came from.
    pub(super) source: Option<SocketAddr>,
    /// When it came, or one by a relay.
    pub(super) heard: Option<Instant>,
}

/// A path. Locks are taken in the order in which they stand here, and never over anything that waits.
pub(crate) struct Session {
    pub(crate) peer: NodeId,
    pub(super) side: Side,
    /// What the peer calls us.
    pub(super) index: u32,
    pub(super) began: Instant,
    pub(super) meter: Arc<Meter>,
    receiving: Mutex<Receiving>,
    watch: Mutex<Watch>,
    sending: Mutex<Sending>,
    /// Rung when the watch may have something to do.
    pub(super) wake: Notify,
    /// Whether who looks after the path sleeps until something flows.
    pub(super) dozing: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(
        peer: NodeId,
        side: Side,
        index: u32,
        meter: Arc<Meter>,
        (sealer, opener): (Sealer, Opener),
    ) -> Self {
        Self {
            peer,
            side,
            index,
            began: Instant::now(),
            meter,
            receiving: Mutex::new(Receiving { opener, source: None, heard: None }),
            watch: Mutex::default(),
            sending: Mutex::new(Sending { sealer, target: None, bursts: 0, runs: Vec::new() }),
            wake: Notify::new(),
            dozing: AtomicBool::new(false),
        }
    }

    pub(super) fn receiving(&self) -> MutexGuard<'_, Receiving> {
        lock(&self.receiving)
    }

    pub(super) fn sending(&self) -> MutexGuard<'_, Sending> {
        lock(&self.sending)
    }

    /// Has the watch look at something, and does what it says about where packets go.
    pub(super) fn watching<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> T {
        let mut watch = lock(&self.watch);
        let seen = look(&mut watch);
        self.sending().target = watch.target();
        seen
    }

    /// When something genuine of the peer came last.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.receiving().heard
    }

    /// Which way packets go now; `None` while they do not arrive.
    pub(crate) fn target(&self) -> Option<Way> {
        self.sending().target
    }

    /// Something flows: the watch has to be quick again.
    pub(super) fn rouse(&self) {
        if self.dozing.load(Ordering::Relaxed) && self.dozing.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// The peer opened what was sealed in this epoch, and answered the probe of this number.
    pub(super) fn answered(&self, number: u64, epoch: u32) {
        self.watching(|watch| watch.answered(number));
        let mut sending = self.sending();
        sending.sealer.confirm(epoch);
        sending.sealer.turn(Instant::now());
    }
}
