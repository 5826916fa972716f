//! The inbox: what arrived and was not taken, who waits for what, and how much of it each peer may fill.
//!
//! A message that arrives twice is recognised by its position: a sender's positions rise, so the last one taken is all that has to be kept of a peer.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use atoll_ids::{MessageId, NodeId, OwnerId};

use super::{Effect, Filter, Hold, Now, Outputs, left};
use crate::frames::{Answer, Envelope, Refusal, Stop};
use crate::limits::{EXPIRED_AT_ONCE, Limits, MESSAGE_OVERHEAD_BYTES};
use crate::records::{InRecord, InState, Write};
use crate::rule::{Rules, Verdict};
use crate::topic::Topic;

#[derive(Debug)]
struct Unread {
    record: InRecord,
    /// In steady milliseconds.
    deadline: u64,
    /// The tag under which a consumer has it.
    held: Option<u64>,
}

/// Room taken in the inbox.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    messages: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Inbox {
    limits: Limits,
    unread: BTreeMap<u64, Unread>,
    done: BTreeMap<u64, InRecord>,
    marks: HashMap<NodeId, u64>,
    used: HashMap<NodeId, Used>,
    total: Used,
    /// Deadlines of what nobody holds.
    due: BTreeSet<(u64, u64)>,
    next_arrival: u64,
    tags: u64,
    waiters: VecDeque<(u64, Filter)>,
    asking: HashMap<MessageId, usize>,
    /// Whether something happened by which a waiter may get a message.
    stirred: bool,
}

/// What follows for a message that is no answer.
pub(super) fn judge(verdict: Verdict) -> Option<Stop> {
    match verdict {
        Verdict::Yes => None,
        Verdict::No => Some(Stop::Refused(Refusal::Topic)),
        Verdict::Unknown => Some(Stop::Later),
    }
}

/// What follows for an answer: who was asked may answer, and nobody else.
pub(super) fn judge_answer(asked: bool) -> Option<Stop> {
    (!asked).then_some(Stop::Refused(Refusal::NoQuestion))
}

impl Inbox {
    pub(super) fn load(limits: Limits, now: Now, records: Vec<InRecord>, marks: Vec<(NodeId, u64)>) -> Self {
        let next_arrival = records.last().map_or(1, |last| last.arrival + 1);
        let mut inbox = Self {
            limits,
            unread: BTreeMap::new(),
            done: BTreeMap::new(),
            marks: marks.into_iter().collect(),
            used: HashMap::new(),
            total: Used::default(),
            due: BTreeSet::new(),
            next_arrival,
            tags: 0,
            waiters: VecDeque::new(),
            asking: HashMap::new(),
            stirred: false,
        };
        for record in records {
            if record.state == InState::Unread {
                let deadline = now.steady + left(now, record.received, record.ttl);
                inbox.keep(record, deadline);
            } else {
                inbox.done.insert(record.arrival, record);
            }
        }
        inbox
    }

    pub(super) fn after(&mut self, given_up: &Self) {
        self.tags = given_up.tags;
        self.asking.clone_from(&given_up.asking);
    }

    fn keep(&mut self, record: InRecord, deadline: u64) {
        self.due.insert((deadline, record.arrival));
        let bytes = record.bytes as usize + MESSAGE_OVERHEAD_BYTES;
        for used in [self.used.entry(record.from).or_default(), &mut self.total] {
            used.messages += 1;
            used.bytes += bytes;
        }
        self.unread.insert(record.arrival, Unread { record, deadline, held: None });
        self.stirred = true;
    }

    /// The last position taken from a peer.
    pub(super) fn mark(&self, from: &NodeId) -> u64 {
        self.marks.get(from).copied().unwrap_or(0)
    }

    /// Takes in messages of a peer, in order, until one is in the way. The answer, and how many of them are new.
    pub(super) fn hear(
        &mut self,
        now: Now,
        (from, owner): (NodeId, Option<OwnerId>),
        batch: Vec<Envelope>,
        judge: impl Fn(Option<&MessageId>, &Topic) -> Option<Stop>,
        out: &mut Outputs,
    ) -> (Answer, u64) {
        let (mut taken, mut new) = (0, 0);
        let before = self.mark(&from);
        let mut mark = before;
        let mut stop = None;
        for envelope in batch {
            if envelope.position > mark {
                stop = judge(envelope.answers.as_ref(), &envelope.topic)
                    .or_else(|| (!self.has_room(&from, envelope.payload.0.len())).then_some(Stop::Full));
                if stop.is_some() {
                    break;
                }
                mark = envelope.position;
                self.take_in(now, from, owner, envelope, out);
                new += 1;
            }
            taken += 1;
        }
        if mark > before {
            self.marks.insert(from, mark);
            out.writes.push(Write::Mark(from, mark));
        }
        (Answer::Heard { taken, stop }, new)
    }

    /// A peer has room for as much as is its share, and for no more than is left for all others: so several that flood never fill it all.
    fn has_room(&self, from: &NodeId, payload: usize) -> bool {
        let used = self.used.get(from).copied().unwrap_or_default();
        let free_messages = self.limits.inbox_messages.saturating_sub(self.total.messages);
        let free_bytes = self.limits.inbox_bytes.saturating_sub(self.total.bytes);
        let bytes = used.bytes + payload + MESSAGE_OVERHEAD_BYTES;
        used.messages < self.limits.peer_messages.min(free_messages) && bytes <= self.limits.peer_bytes.min(free_bytes)
    }

    fn take_in(&mut self, now: Now, from: NodeId, owner: Option<OwnerId>, envelope: Envelope, out: &mut Outputs) {
        let Envelope { id, topic, answers, ttl, payload, .. } = envelope;
        let (arrival, state) = (self.next_arrival, InState::Unread);
        self.next_arrival += 1;
        let bytes = u32::try_from(payload.0.len()).unwrap_or(u32::MAX);
        let record = InRecord { arrival, from, owner, id, topic, answers, received: now.wall, ttl, bytes, state };
        out.writes.push(Write::PutIn(record.clone()));
        out.writes.push(Write::PutBody(arrival, payload.0));
        self.keep(record, now.steady + ttl);
    }

    pub(super) fn want(&mut self, waiter: u64, filter: Filter) {
        self.waiters.push_back((waiter, filter));
        self.stirred = true;
    }

    pub(super) fn gone(&mut self, waiter: u64) {
        self.waiters.retain(|(waiting, _)| *waiting != waiter);
    }

    pub(super) fn asking(&mut self, id: MessageId) {
        *self.asking.entry(id).or_default() += 1;
    }

    pub(super) fn asking_over(&mut self, id: MessageId) {
        if let Some(count) = self.asking.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.asking.remove(&id);
                self.stirred = true;
            }
        }
    }

    /// Gives messages to those who wait for them, who waited longest first.
    pub(super) fn hand_out(&mut self, rules: &Rules, out: &mut Outputs) {
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        let mut at = 0;
        while let Some((waiter, filter)) = self.waiters.get(at) {
            let Some(arrival) = self.first(filter, rules) else {
                at += 1;
                continue;
            };
            let waiter = *waiter;
            self.waiters.remove(at);
            let Some(unread) = self.unread.get_mut(&arrival) else { continue };
            self.tags += 1;
            unread.held = Some(self.tags);
            self.due.remove(&(unread.deadline, arrival));
            let hold = Hold { arrival, tag: self.tags };
            out.effects.push(Effect::Hand { waiter, hold, record: unread.record.clone() });
        }
    }

    fn first(&self, filter: &Filter, rules: &Rules) -> Option<u64> {
        let fits = |record: &InRecord| {
            let spoken_for = || record.answers.is_some_and(|id| self.asking.contains_key(&id));
            let asked = match filter.answers {
                Some(id) => record.answers == Some(id),
                None => !spoken_for(),
            };
            asked
                && filter.topics.matches(&record.topic)
                && filter.from.is_none_or(|who| rules.means(&who, &record.from, record.owner.as_ref()))
        };
        self.unread.values().find(|unread| unread.held.is_none() && fits(&unread.record)).map(|it| it.record.arrival)
    }

    fn is_held(&self, hold: Hold) -> bool {
        self.unread.get(&hold.arrival).is_some_and(|unread| unread.held == Some(hold.tag))
    }

    /// True if the consumer had it.
    pub(super) fn ack(&mut self, now: Now, hold: Hold, out: &mut Outputs) -> bool {
        let held = self.is_held(hold);
        if held {
            self.finish(hold.arrival, InState::Taken { at: now.wall }, out);
        }
        held
    }

    pub(super) fn release(&mut self, hold: Hold) {
        if self.is_held(hold)
            && let Some(unread) = self.unread.get_mut(&hold.arrival)
        {
            unread.held = None;
            self.due.insert((unread.deadline, hold.arrival));
            self.stirred = true;
        }
    }

    fn finish(&mut self, arrival: u64, state: InState, out: &mut Outputs) {
        let Some(Unread { mut record, deadline, .. }) = self.unread.remove(&arrival) else { return };
        self.due.remove(&(deadline, arrival));
        let bytes = record.bytes as usize + MESSAGE_OVERHEAD_BYTES;
        self.total.messages -= 1;
        self.total.bytes -= bytes;
        if let Some(used) = self.used.get_mut(&record.from) {
            used.messages -= 1;
            used.bytes -= bytes;
            if used.messages == 0 {
                self.used.remove(&record.from);
            }
        }
        record.state = state;
        out.writes.push(Write::DropBody(arrival));
        out.writes.push(Write::PutIn(record.clone()));
        self.done.insert(arrival, record);
        while self.done.len() > self.limits.remembered {
            let Some((arrival, _)) = self.done.pop_first() else { break };
            out.writes.push(Write::DropIn(arrival));
        }
    }

    /// Ends what nobody took in time; how many that were.
    pub(super) fn expire(&mut self, now: Now, out: &mut Outputs) -> u64 {
        let mut expired = 0;
        while let Some((_, arrival)) = self.due.first().copied().filter(|(deadline, _)| *deadline <= now.steady) {
            if expired as usize == EXPIRED_AT_ONCE {
                break;
            }
            self.finish(arrival, InState::Expired { at: now.wall }, out);
            expired += 1;
        }
        expired
    }

    pub(super) fn next_tick(&self) -> Option<u64> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn list(&self) -> impl Iterator<Item = &InRecord> {
        let mut all: Vec<&InRecord> = self.done.values().collect();
        all.extend(self.unread.values().map(|unread| &unread.record));
        all.sort_by_key(|record| record.arrival);
        all.into_iter()
    }

    pub(super) fn unread(&self) -> u64 {
        self.unread.len() as u64
    }
}
