//! One path to one peer: what seals, what opens, and the watch over where it goes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use atoll_fast::{Opener, Run, Sealer, Side, Size, Watch, Way};
use atoll_ids::NodeId;
use tokio::sync::Notify;

use crate::meter::Meter;
use crate::packets::halves::Halves;

/// What seals, and where to. Held for a burst of packets.
pub(super) struct Sending {
    pub(super) sealer: Sealer,
    /// Which way the watch says that packets arrive.
    pub(super) target: Option<Way>,
    /// The largest packet that goes that way whole, in bytes.
    pub(super) carries: usize,
    /// Larger ones were tried in vain.
    pub(super) is_narrow: bool,
    /// Bursts so far, also of what had to take the connection.
    pub(super) bursts: u64,
    pub(super) runs: Vec<Run>,
}

/// What opens. Held for what the kernel joined to one buffer.
pub(super) struct Receiving {
    pub(super) opener: Opener,
    pub(super) halves: Halves,
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
        // Who sends packets has to know that they fit; who only wants to be found does not.
        let most = if side == Side::Dialler { Size::Most } else { Size::Floor };
        let (target, runs) = (None, Vec::new());
        Self {
            peer,
            side,
            index,
            began: Instant::now(),
            meter,
            receiving: Mutex::new(Receiving { opener, halves: Halves::default(), source: None, heard: None }),
            watch: Mutex::new(Watch::new(most)),
            sending: Mutex::new(Sending { sealer, target, carries: 0, is_narrow: false, bursts: 0, runs }),
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
        let mut sending = self.sending();
        sending.target = watch.target();
        (sending.carries, sending.is_narrow) = (watch.size().bytes(), watch.is_narrow());
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

    /// The largest packet that goes that way whole, in bytes.
    pub(crate) fn carries(&self) -> Option<usize> {
        let sending = self.sending();
        sending.target.map(|_| sending.carries)
    }

    /// The same, if larger ones were tried in vain.
    pub(crate) fn narrow(&self) -> Option<usize> {
        let sending = self.sending();
        sending.is_narrow.then_some(sending.carries)
    }

    /// Something flows: the watch has to be quick again.
    pub(super) fn rouse(&self) {
        if self.dozing.load(Ordering::Relaxed) && self.dozing.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// The peer opened what was sealed in this epoch, and answered the probe of this number.
    pub(super) fn answered(&self, number: u64, epoch: u32) {
        let now = Instant::now();
        let is_news = self.watching(|watch| watch.answered(now, number));
        let mut sending = self.sending();
        sending.sealer.confirm(epoch);
        sending.sealer.turn(now);
        drop(sending);
        if is_news {
            self.wake.notify_one();
        }
    }
}
