//! One connection as callers see it: a queue in front, the requests sent and not answered, and whether it is worth trying.
//!
//! Pure bookkeeping under one short lock; the task in [`connection`](super::connection) does the I/O. Invariants: at
//! most one task serves a slot (`Phase::Running`); a request is in the queue or pending, never both; request ids are
//! never reused within a slot, so not within a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_ids::ShardId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Room;
use crate::frame::Progress;
use crate::home::{Health, HomeError};
use crate::limits::{BACK_OFF_FIRST, BACK_OFF_MAX};
use crate::protocol::{Answer, Kind, Request};

pub(super) type AnswerSender = oneshot::Sender<Result<Answer, HomeError>>;

pub(super) struct Slot {
    state: Mutex<State>,
    /// Something was queued, or an answer made room to send.
    pub(super) wake: Notify,
}

struct State {
    phase: Phase,
    queue: VecDeque<Queued>,
    pending: HashMap<u64, Pending>,
    next_id: u64,
    /// Present while a connection is up and welcomed.
    progress: Option<Arc<Progress>>,
}

enum Phase {
    /// No connection and no task.
    Idle,
    /// A task connects or serves.
    Running,
    /// The last attempts failed.
    BackOff { until: Instant, attempt: u32, error: HomeError },
}

struct Queued {
    ticket: u64,
    request: Request,
    answer: AnswerSender,
    room: Room,
}

/// A request that was sent.
pub(super) struct Pending {
    pub(super) request: Kind,
    /// The shard it is about; of a listing, the one after which it starts.
    pub(super) shard: Option<ShardId>,
    /// The most entries it asked for, if it is a listing.
    pub(super) limit: u32,
    pub(super) answer: AnswerSender,
}

/// A request that is to be sent now.
pub(super) struct Outgoing {
    pub(super) id: u64,
    pub(super) request: Request,
    pub(super) room: Room,
}

/// Whether a slot takes requests.
pub(super) enum Standing {
    Open { load: usize },
    BackOff { remaining: Duration, error: HomeError },
}

impl Slot {
    pub(super) fn new() -> Self {
        let state =
            State { phase: Phase::Idle, queue: VecDeque::new(), pending: HashMap::new(), next_id: 1, progress: None };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state();
        let load = state.queue.len() + state.pending.len();
        match &state.phase {
            Phase::BackOff { until, error, .. } => {
                let remaining = until.saturating_duration_since(Instant::now());
                if remaining.is_zero() {
                    Standing::Open { load }
                } else {
                    Standing::BackOff { remaining, error: error.clone() }
                }
            }
            Phase::Idle | Phase::Running => Standing::Open { load },
        }
    }

    pub(super) fn end_back_off(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::BackOff { .. }) {
            state.phase = Phase::Idle;
        }
    }

    /// Queues a request. Returns its ticket, and the number of failed attempts before it if the caller must start the
    /// slot's task.
    pub(super) fn push(&self, request: Request, answer: AnswerSender, room: Room) -> (u64, Option<u32>) {
        let mut state = self.state();
        let ticket = state.next_id;
        state.next_id += 1;
        state.queue.push_back(Queued { ticket, request, answer, room });
        let start = match state.phase {
            Phase::Running => None,
            Phase::Idle => Some(0),
            Phase::BackOff { attempt, .. } => Some(attempt),
        };
        state.phase = Phase::Running;
        drop(state);
        self.wake.notify_one();
        (ticket, start)
    }

    /// Removes a request that was not sent yet.
    pub(super) fn withdraw(&self, ticket: u64) {
        let mut state = self.state();
        // Tickets ascend along the queue.
        if let Ok(at) = state.queue.binary_search_by_key(&ticket, |queued| queued.ticket) {
            state.queue.remove(at);
        }
    }

    /// The next request to send, now pending; `None` if there is none or `in_flight_max` are unanswered.
    pub(super) fn next(&self, in_flight_max: usize) -> Option<Outgoing> {
        let mut state = self.state();
        if state.pending.len() >= in_flight_max {
            return None;
        }
        let Queued { ticket, request, answer, room } = state.queue.pop_front()?;
        if state.pending.is_empty()
            && let Some(progress) = &state.progress
        {
            // The clock for silence starts now, not when something last moved.
            progress.touch();
        }
        let (shard, limit) = match &request {
            Request::List { after, limit } => (*after, *limit),
            other => (other.shard(), 0),
        };
        let pending = Pending { request: request.kind(), shard, limit, answer };
        state.pending.insert(ticket, pending);
        Some(Outgoing { id: ticket, request, room })
    }

    /// The kind of a pending request.
    pub(super) fn asked(&self, id: u64) -> Option<Kind> {
        self.state().pending.get(&id).map(|pending| pending.request)
    }

    /// Takes a pending request whose answer came.
    pub(super) fn answered(&self, id: u64) -> Option<Pending> {
        let pending = self.state().pending.remove(&id);
        self.wake.notify_one();
        pending
    }

    /// Whether requests are unanswered.
    pub(super) fn is_waiting(&self) -> bool {
        !self.state().pending.is_empty()
    }

    /// Whether nothing is queued or unanswered.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.queue.is_empty() && state.pending.is_empty()
    }

    /// A connection is up.
    pub(super) fn connected(&self, progress: Arc<Progress>) {
        self.state().progress = Some(progress);
    }

    /// The connection is gone: what was sent fails.
    pub(super) fn disconnected(&self, error: &HomeError) {
        let pending = {
            let mut state = self.state();
            state.progress = None;
            std::mem::take(&mut state.pending)
        };
        for (_, pending) in pending {
            // The caller may have lost interest; then nobody is to be told.
            let _ = pending.answer.send(Err(error.clone()));
        }
    }

    /// The task wants to end because nothing is to be done. False if something came meanwhile, and it must go on.
    pub(super) fn rest(&self) -> bool {
        let mut state = self.state();
        if !state.queue.is_empty() {
            return false;
        }
        state.phase = Phase::Idle;
        true
    }

    /// The task ends because it could not connect: what is queued fails, and everything else until the pause is over.
    /// `random` is uniform over all of `u32` and spreads clients that lost the same node.
    pub(super) fn back_off(&self, attempt: u32, error: HomeError, random: u32) {
        let queue = {
            let mut state = self.state();
            let until = Instant::now() + pause(attempt, random);
            state.phase = Phase::BackOff { until, attempt, error: error.clone() };
            std::mem::take(&mut state.queue)
        };
        for queued in queue {
            let _ = queued.answer.send(Err(error.clone()));
        }
    }

    /// Adds this connection to what is known of the node.
    pub(super) fn add_to(&self, health: &mut Health) {
        let state = self.state();
        health.connected |= state.progress.is_some();
        health.in_flight += state.pending.len();
        health.queued += state.queue.len();
        if let Some(progress) = &state.progress
            && !state.pending.is_empty()
        {
            health.silent = health.silent.max(progress.last().elapsed());
        }
    }
}

/// How long to wait after the `attempt`th failure in a row (from 1): doubling up to a maximum, of which half is random.
fn pause(attempt: u32, random: u32) -> Duration {
    let full = BACK_OFF_FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACK_OFF_MAX);
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let millis = |attempt, random| pause(attempt, random).as_millis();
        let check = |attempt, least, most| assert_eq!((millis(attempt, 0), millis(attempt, u32::MAX)), (least, most));
        check(1, 25, 50);
        check(2, 50, 100);
        check(3, 100, 200);
        check(8, 2500, 5000);
        check(u32::MAX, 2500, 5000);
    }
}
