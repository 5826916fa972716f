//! The relay's side: what is carried for whom, and in which order.
//!
//! Everybody whose frames wait has a queue of its own and gets a turn in rounds of bytes (deficit round robin), so one who sends much does not delay one who
//! sends little. A frame goes when both the user's bucket and that of all have room for it; a queue that is full refuses. Memory is bounded by
//! [`USERS_MAX`] queues of [`USER_QUEUE_BYTES_MAX`] and a total.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use bytes::Bytes;

use crate::awaited::GUESTS_MAX;
use crate::bucket::Bucket;
use crate::frame::{HEADER_BYTES, PAYLOAD_BYTES_MAX, Refusal};

/// Users that are kept at once. A relay serves its owner's peers; what they are beyond this waits until one of them has been quiet for a while.
pub const USERS_MAX: usize = 256;

/// Bytes that may wait for one user: at the default share an eighth of a second, which is a queue that TCP inside does not suffer from.
pub const USER_QUEUE_BYTES_MAX: usize = 64 << 10;

/// Bytes that may wait altogether.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Bytes per turn: more than the largest frame, so that every turn sends something.
const TURN_BYTES: usize = 2 * (PAYLOAD_BYTES_MAX + HEADER_BYTES);

/// A user that sent nothing for this long makes room for another.
const QUIET: Duration = Duration::from_secs(10);

/// What a bucket that has rested gives at once, in time at its rate: what comes in bursts, like QUIC's first flight, is not delayed.
const BURST: Duration = Duration::from_millis(250);

/// The least burst, in bytes: a few frames go even at a rate of a few KiB per second.
const BURST_LEAST: u64 = 8 * (PAYLOAD_BYTES_MAX + HEADER_BYTES) as u64;

/// What a stranger may send that is let through to who awaits it, in bytes per second: joining takes some 15 KiB, most of it at once.
const GUEST_RATE: u64 = 16 << 10;

/// The part of what is carried for all that strangers may have together, however many come one after the other: one in so many bytes.
const GUESTS_PART: u64 = 8;

/// What an owner lets a node carry for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// For all, in bytes per second.
    pub rate: u64,
    /// For each user, in bytes per second.
    pub rate_per_user: u64,
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames handed on.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
    /// Frames refused, for whatever reason.
    pub refused: u64,
    /// Those of them that were over the budget.
    pub refused_budget: u64,
    /// Users that sent something lately.
    pub users: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
}

#[derive(Debug)]
struct User {
    bucket: Bucket,
    /// Whether it is a stranger that is let through.
    guest: bool,
    queue: VecDeque<(NodeId, Bytes)>,
    bytes: usize,
    credit: usize,
    /// Whether it is its turn.
    on: bool,
    active: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Forwarder {
    budget: Budget,
    total: Bucket,
    /// What all strangers may send together. What is over that is refused and waits nowhere.
    guests: Bucket,
    users: BTreeMap<NodeId, User>,
    turns: VecDeque<NodeId>,
    waiting: usize,
    counts: Counts,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Hand this on.
    Send {
        /// From whom.
        from: NodeId,
        /// To whom.
        to: NodeId,
        /// What.
        payload: Bytes,
    },
    /// Ask again after this time: the budget is used up.
    Wait(Duration),
    /// Nothing waits.
    Nothing,
}

fn bucket(rate: u64) -> Bucket {
    let burst = u128::from(rate) * BURST.as_millis() / 1000;
    Bucket::new(rate, u64::try_from(burst).unwrap_or(u64::MAX).max(BURST_LEAST))
}

fn size(payload: &Bytes) -> usize {
    payload.len() + HEADER_BYTES
}

impl Forwarder {
    /// Nobody has sent anything yet.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            total: bucket(budget.rate),
            guests: bucket((budget.rate / GUESTS_PART).min(GUESTS_MAX as u64 * GUEST_RATE)),
            users: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            counts: Counts::default(),
        }
    }

    /// Takes something in to be handed on.
    ///
    /// # Errors
    ///
    /// [`Refusal::Budget`] when as much waits as may; [`Refusal::Crowded`] for one user too many.
    pub fn offer(&mut self, now: Instant, from: NodeId, to: NodeId, payload: Bytes) -> Result<(), Refusal> {
        self.offer_as(now, from, to, payload, false)
    }

    /// The same from a stranger that is let through, with less of a share; all of them together have a part of the budget, so that those who come and go by the dozen take
    /// nothing from others.
    ///
    /// # Errors
    ///
    /// As for [`Self::offer`].
    pub fn offer_from_guest(&mut self, now: Instant, from: NodeId, to: NodeId, payload: Bytes) -> Result<(), Refusal> {
        let size = size(&payload);
        if !self.guests.wait(now, size).is_zero() {
            return self.refuse(Refusal::Budget);
        }
        self.offer_as(now, from, to, payload, true)?;
        self.guests.take(now, size);
        Ok(())
    }

    /// A stranger is gone: what it left is not handed on, and its place is free.
    pub fn leave(&mut self, guest: &NodeId) {
        // Who became a peer in the meantime stays.
        if self.users.get(guest).is_some_and(|user| user.guest) {
            let waiting = self.users.remove(guest).map_or(0, |user| user.bytes);
            self.waiting = self.waiting.saturating_sub(waiting);
            self.turns.retain(|user| user != guest);
        }
    }

    fn offer_as(&mut self, now: Instant, from: NodeId, to: NodeId, payload: Bytes, guest: bool) -> Result<(), Refusal> {
        let size = size(&payload);
        let admitted = self.admit(now, from, guest);
        let Some(user) = self.users.get_mut(&from).filter(|_| admitted) else { return self.refuse(Refusal::Crowded) };
        user.active = now;
        if user.bytes + size > USER_QUEUE_BYTES_MAX || self.waiting + size > QUEUE_BYTES_MAX {
            return self.refuse(Refusal::Budget);
        }
        if user.queue.is_empty() {
            self.turns.push_back(from);
        }
        user.queue.push_back((to, payload));
        user.bytes += size;
        self.waiting += size;
        Ok(())
    }

    /// Counts a refusal for a reason that is not this core's.
    pub fn note_refused(&mut self) {
        self.counts.refused += 1;
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        self.counts.refused += 1;
        self.counts.refused_budget += u64::from(refusal == Refusal::Budget);
        Err(refusal)
    }

    /// Whether there is room for a user, or it is there.
    fn admit(&mut self, now: Instant, from: NodeId, guest: bool) -> bool {
        let rate = self.budget.rate_per_user;
        let rate = if guest { rate.min(GUEST_RATE) } else { rate };
        if let Some(user) = self.users.get_mut(&from) {
            if user.guest != guest {
                (user.bucket, user.guest) = (bucket(rate), guest);
            }
            return true;
        }
        if self.users.len() >= USERS_MAX {
            // Its bucket is full again after that long, so nobody gains by being forgotten.
            self.users.retain(|_, user| !user.queue.is_empty() || now.saturating_duration_since(user.active) < QUIET);
        }
        if self.users.len() >= USERS_MAX {
            return false;
        }
        let user =
            User { bucket: bucket(rate), guest, queue: VecDeque::new(), bytes: 0, credit: 0, on: false, active: now };
        self.users.insert(from, user);
        true
    }

    /// What to hand on next.
    pub fn next(&mut self, now: Instant) -> Next {
        let mut least: Option<Duration> = None;
        // Everybody who waits may be passed over once for the credit of the last turn, and once more for the budget.
        for _ in 0..2 * self.turns.len() {
            let Some(from) = self.turns.front().copied() else { break };
            let Some(user) = self.users.get_mut(&from) else {
                self.turns.pop_front();
                continue;
            };
            let Some(size) = user.queue.front().map(|(_, payload)| size(payload)) else {
                self.turns.pop_front();
                continue;
            };
            if !user.on {
                (user.on, user.credit) = (true, user.credit + TURN_BYTES);
            }
            let wait = user.bucket.wait(now, size);
            if user.credit < size || !wait.is_zero() {
                if !wait.is_zero() {
                    least = Some(least.map_or(wait, |least| least.min(wait)));
                    // Who waits for the budget does not save up turns meanwhile.
                    user.credit = 0;
                }
                user.on = false;
                self.turns.rotate_left(1);
                continue;
            }
            let wait = self.total.wait(now, size);
            if !wait.is_zero() {
                return Next::Wait(wait);
            }
            return self.hand_on(now, from);
        }
        least.map_or(Next::Nothing, Next::Wait)
    }

    fn hand_on(&mut self, now: Instant, from: NodeId) -> Next {
        let Some(user) = self.users.get_mut(&from) else { return Next::Nothing };
        let Some((to, payload)) = user.queue.pop_front() else { return Next::Nothing };
        let size = size(&payload);
        user.bucket.take(now, size);
        self.total.take(now, size);
        user.credit = user.credit.saturating_sub(size);
        user.bytes = user.bytes.saturating_sub(size);
        self.waiting = self.waiting.saturating_sub(size);
        if user.queue.is_empty() {
            (user.on, user.credit) = (false, 0);
            self.turns.pop_front();
        }
        self.counts.carried += 1;
        self.counts.carried_bytes += payload.len() as u64;
        Next::Send { from, to, payload }
    }

    /// What was done since the start, and what is there now.
    #[must_use]
    pub fn counts(&self, now: Instant) -> Counts {
        let lately = self.users.values().filter(|user| now.saturating_duration_since(user.active) < QUIET).count();
        Counts { users: lately as u64, waiting_bytes: self.waiting as u64, ..self.counts }
    }
}

#[cfg(test)]
mod tests;
