//! Connections that are kept: one per peer and protocol, used from both ends, until nothing was open on it for a while.
//!
//! A connection without streams still costs: each probes its path every two seconds. Whoever dialled it ends it. If the peer opens a stream at that very moment, it
//! hears that the connection is closed before the stream was accepted, and dials itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_ids::NodeId;
use iroh::endpoint::{Connection, Side};
use tokio::time::{Instant, sleep};

use crate::quic::code;

/// A place for the kept connection of one protocol to one peer. Whoever dials holds it, so that others wait for the same connection instead of making more.
pub(crate) type Slot = Arc<tokio::sync::Mutex<Option<Arc<Kept>>>>;

/// One connection, and what is open on it.
pub(crate) struct Kept {
    connection: Connection,
    streams: Mutex<Streams>,
}

/// How many streams there are, and since when there are so many.
struct Streams {
    count: usize,
    since: Instant,
}

/// Counts one stream on a kept connection as long as it lives.
pub(crate) struct Busy(Arc<Kept>);

impl Kept {
    pub(crate) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self { connection, streams: Mutex::new(Streams { count: 0, since: Instant::now() }) })
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        self.change(|count| count + 1);
        Busy(self.clone())
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, to: impl FnOnce(usize) -> usize) {
        let mut streams = self.streams();
        *streams = Streams { count: to(streams.count), since: Instant::now() };
    }

    /// How much longer it is kept if nothing is opened.
    fn left(&self, keep_idle: Duration) -> Duration {
        let streams = self.streams();
        if streams.count > 0 { keep_idle } else { keep_idle.saturating_sub(streams.since.elapsed()) }
    }

    /// Returns when nothing was open for that long; never for a connection that the peer dialled.
    pub(crate) async fn idle(&self, keep_idle: Duration) {
        if self.connection.side() == Side::Server {
            std::future::pending::<()>().await;
        }
        loop {
            let left = self.left(keep_idle);
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl Busy {
    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|count| count.saturating_sub(1));
    }
}

/// The connections that are kept, by peer and protocol.
#[derive(Default)]
pub(crate) struct Connections {
    slots: Mutex<HashMap<(NodeId, &'static str), Slot>>,
}

impl Connections {
    pub(crate) fn slot(&self, peer: NodeId, protocol: &'static str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((peer, protocol)).or_default().clone()
    }

    /// Keeps a connection that the peer made, unless there is one already.
    pub(crate) fn offer(&self, peer: NodeId, protocol: &'static str, connection: &Arc<Kept>) {
        if let Ok(mut kept) = self.slot(peer, protocol).try_lock()
            && kept.as_ref().is_none_or(|kept| kept.connection.close_reason().is_some())
        {
            *kept = Some(connection.clone());
        }
    }

    /// Ends a connection on which nothing was open for `keep_idle`. False if something is by now.
    pub(crate) async fn end_idle(
        &self,
        (peer, protocol): (NodeId, &'static str),
        idle: &Arc<Kept>,
        keep_idle: Duration,
    ) -> bool {
        let slot = self.slot(peer, protocol);
        // Streams are counted while the slot is held: none can come to be in between.
        let mut kept = slot.lock().await;
        if !idle.left(keep_idle).is_zero() {
            return false;
        }
        kept.take_if(|kept| Arc::ptr_eq(kept, idle));
        idle.connection.close(code::DONE.into(), b"nothing to say");
        true
    }

    /// Closes all connections to a peer. One that is being dialled at this moment is new and stays.
    pub(crate) fn close(&self, peer: &NodeId, code: u32, reason: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, slot) in slots.extract_if(|(node, _), _| node == peer) {
            if let Ok(mut kept) = slot.try_lock()
                && let Some(kept) = kept.take()
            {
                kept.connection.close(code.into(), reason.as_bytes());
            }
        }
    }
}
