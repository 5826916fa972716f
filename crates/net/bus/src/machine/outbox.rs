//! The outbox: what waits for which node, in order, and when it is tried.
//!
//! Towards each node one exchange is under way at a time, so messages arrive in the order in which they were accepted. A node that does not answer is left
//! alone for longer and longer, until it is heard of again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use atoll_ids::{MessageId, NodeId};

use super::{Ask, Effect, Now, OutStatus, Outgoing, Outputs, SendRefusal, left};
use crate::frames::{Answer, Stop};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, EXCHANGES_MAX, EXPIRED_AT_ONCE, FAR_EXCHANGES_MAX, Limits, PAYLOAD_BYTES_MAX,
    RECIPIENTS_MAX, RETRY_FIRST_MS, RETRY_LAST_MS, RETRY_THERE_MS, TTL_MS_MAX, TTL_MS_MIN,
};
use crate::records::{OutRecord, OutState, Write};

/// Characters kept of what went wrong with a node: a line.
const PROBLEM_CHARS_MAX: usize = 200;

const NOT_YET: &str = "it cannot take messages of this node yet";

#[derive(Debug)]
struct Waiting {
    record: OutRecord,
    /// In steady milliseconds.
    deadline: u64,
}

/// An exchange under way.
#[derive(Debug)]
struct Flight {
    exchange: u64,
    /// What is in it.
    positions: Vec<u64>,
    /// See [`Line::near`], when it began.
    near: bool,
}

/// What there is with one node.
#[derive(Debug)]
struct Line {
    /// Positions, in order.
    queue: BTreeSet<u64>,
    /// Whether it has told in this run what it has of us.
    met: bool,
    flight: Option<Flight>,
    /// Most messages in the next batch: few after a failure, which may be due to a way too slow for more.
    most: usize,
    /// It was heard of, and has not failed since.
    near: bool,
    pause: u64,
    next_try: u64,
    /// When it had its last turn among all nodes.
    turn: u64,
    problem: Option<String>,
    /// It was there but did not take it: hearing of it again is no news.
    there: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            queue: BTreeSet::new(),
            met: false,
            flight: None,
            most: BATCH_MESSAGES_MAX,
            near: false,
            pause: 0,
            next_try: 0,
            turn: 0,
            problem: None,
            there: false,
        }
    }
}

impl Line {
    /// Whether it can be spoken to, once its time has come.
    fn is_idle(&self, far: usize) -> bool {
        self.flight.is_none() && !self.queue.is_empty() && (self.near || far < FAR_EXCHANGES_MAX)
    }
}

#[derive(Debug)]
pub(super) struct Outbox {
    limits: Limits,
    waiting: BTreeMap<u64, Waiting>,
    finished: BTreeMap<u64, OutRecord>,
    by_id: BTreeSet<(MessageId, u64)>,
    /// For how many nodes a payload is still kept.
    bodies: HashMap<MessageId, usize>,
    bytes: usize,
    lines: BTreeMap<NodeId, Line>,
    /// Deadlines of what waits and is not on its way.
    due: BTreeSet<(u64, u64)>,
    /// The highest position given out.
    high: u64,
    /// What that was when this run began.
    opened_at: u64,
    flights: usize,
    /// Those with nodes that were not near.
    far: usize,
    /// Counts exchanges, which are also turns.
    exchanges: u64,
    delivered: u64,
    seed: u64,
}

impl Outbox {
    pub(super) fn load(limits: Limits, seed: u64, now: Now, high: u64, records: Vec<OutRecord>) -> Self {
        let high = records.last().map_or(high, |last| high.max(last.position));
        let mut outbox = Self {
            limits,
            waiting: BTreeMap::new(),
            finished: BTreeMap::new(),
            by_id: BTreeSet::new(),
            bodies: HashMap::new(),
            bytes: 0,
            lines: BTreeMap::new(),
            due: BTreeSet::new(),
            high,
            opened_at: high,
            flights: 0,
            far: 0,
            exchanges: 0,
            delivered: 0,
            seed,
        };
        for record in records {
            outbox.by_id.insert((record.id, record.position));
            if record.state == OutState::Waiting {
                let deadline = now.steady + left(now, record.accepted, record.ttl);
                outbox.wait(record, deadline, now);
            } else {
                outbox.finished.insert(record.position, record);
            }
        }
        outbox
    }

    pub(super) fn after(&mut self, given_up: &Self) {
        self.exchanges = given_up.exchanges;
        self.delivered = given_up.delivered;
        for (node, _) in given_up.lines.iter().filter(|(_, line)| line.near) {
            self.lines.entry(*node).or_default().near = true;
        }
    }

    /// Puts a record among those that wait.
    fn wait(&mut self, record: OutRecord, deadline: u64, now: Now) {
        let (position, to) = (record.position, record.to);
        let copies = self.bodies.entry(record.id).or_default();
        if *copies == 0 {
            self.bytes += record.bytes as usize;
        }
        *copies += 1;
        self.due.insert((deadline, position));
        let line = self.lines.entry(to).or_default();
        if line.queue.is_empty() && line.flight.is_none() && line.problem.is_none() {
            line.next_try = now.steady;
        }
        line.queue.insert(position);
        self.waiting.insert(position, Waiting { record, deadline });
    }

    pub(super) fn send(&mut self, now: Now, message: Outgoing, out: &mut Outputs) -> Result<(), SendRefusal> {
        let Outgoing { id, to, topic, answers, ttl, payload } = message;
        let to: BTreeSet<NodeId> = to.into_iter().collect();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SendRefusal::TooLarge { bytes: payload.len(), max: PAYLOAD_BYTES_MAX });
        }
        if to.is_empty() || to.len() > RECIPIENTS_MAX {
            return Err(SendRefusal::Recipients { count: to.len(), max: RECIPIENTS_MAX });
        }
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl) {
            return Err(SendRefusal::Ttl);
        }
        if self.records(&id).next().is_some() {
            return Err(SendRefusal::Twice);
        }
        let full = self.waiting.len() + to.len() > self.limits.outbox_messages;
        if full || self.bytes + payload.len() > self.limits.outbox_bytes {
            return Err(SendRefusal::Full { messages: self.waiting.len(), bytes: self.bytes });
        }
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        out.writes.push(Write::PutSent(id, payload));
        for to in to {
            self.high += 1;
            let (position, accepted, state) = (self.high, now.wall, OutState::Waiting);
            let record = OutRecord { position, to, id, topic: topic.clone(), answers, accepted, ttl, bytes, state };
            out.writes.push(Write::PutOut(record.clone()));
            self.by_id.insert((id, position));
            self.wait(record, now.steady + ttl, now);
        }
        out.writes.push(Write::High(self.high));
        Ok(())
    }

    pub(super) fn reachable(&mut self, now: Now, node: &NodeId) {
        let line = self.lines.entry(*node).or_default();
        line.near = true;
        if !line.there {
            line.pause = 0;
            line.next_try = line.next_try.min(now.steady);
        }
    }

    /// Begins exchanges with nodes whose turn it is; with those first that are known to be there.
    pub(super) fn pump(&mut self, now: Now, out: &mut Outputs) {
        while self.flights < EXCHANGES_MAX {
            let ready = |line: &Line| line.is_idle(self.far) && line.next_try <= now.steady;
            let ready = self.lines.iter().filter(|(_, line)| ready(line));
            let Some(to) = ready.min_by_key(|(_, line)| (!line.near, line.turn)).map(|(to, _)| *to) else { return };
            self.begin(now, to, out);
        }
    }

    fn begin(&mut self, now: Now, to: NodeId, out: &mut Outputs) {
        let Some(line) = self.lines.get_mut(&to) else { return };
        self.exchanges += 1;
        self.flights += 1;
        self.far += usize::from(!line.near);
        line.turn = self.exchanges;
        let mut batch = Vec::new();
        if line.met {
            let mut bytes = 0;
            for position in line.queue.iter().take(line.most) {
                let Some(waiting) = self.waiting.get(position) else { continue };
                bytes += waiting.record.bytes as usize;
                if bytes > BATCH_BYTES_MAX {
                    break;
                }
                self.due.remove(&(waiting.deadline, *position));
                batch.push((waiting.record.clone(), waiting.deadline.saturating_sub(now.steady).max(1)));
            }
        }
        let positions = batch.iter().map(|(record, _)| record.position).collect();
        line.flight = Some(Flight { exchange: self.exchanges, positions, near: line.near });
        let ask = if line.met { Ask::Deliver(batch) } else { Ask::Hello };
        out.effects.push(Effect::Exchange { to, exchange: self.exchanges, ask });
    }

    pub(super) fn exchanged(
        &mut self,
        now: Now,
        to: NodeId,
        exchange: u64,
        result: Result<Answer, String>,
        out: &mut Outputs,
    ) {
        let Some(line) = self.lines.get_mut(&to) else { return };
        let Some(flight) = line.flight.take_if(|flight| flight.exchange == exchange) else { return };
        self.flights -= 1;
        self.far -= usize::from(!flight.near);
        let batch = flight.positions;
        line.there = false;
        match &result {
            Ok(_) => line.most = (line.most * 4).min(BATCH_MESSAGES_MAX),
            Err(_) => (line.most, line.near) = (1, false),
        }
        let problem = match result {
            Ok(Answer::Known(last)) if batch.is_empty() => {
                line.met = true;
                if last > self.opened_at {
                    self.renumber(&to, last, out);
                }
                None
            }
            Ok(Answer::Heard { taken, stop }) if sensible(batch.len(), taken, stop) => {
                self.heard(now, &to, &batch, taken as usize, stop, out)
            }
            Ok(Answer::Heard { taken: 0, stop: Some(Stop::Later) }) => Some(NOT_YET.to_owned()),
            Ok(_) => Some("it answers something that was not asked".to_owned()),
            Err(why) => Some(why.chars().take(PROBLEM_CHARS_MAX).collect()),
        };
        for position in &batch {
            if let Some(waiting) = self.waiting.get(position) {
                self.due.insert((waiting.deadline, *position));
            }
        }
        self.rest(now, &to, problem);
    }

    /// A batch was heard. What is in the way of the rest of it, if something is.
    fn heard(
        &mut self,
        now: Now,
        to: &NodeId,
        batch: &[u64],
        taken: usize,
        stop: Option<Stop>,
        out: &mut Outputs,
    ) -> Option<String> {
        for position in &batch[..taken] {
            self.finish(*position, OutState::Delivered { at: now.wall }, out);
            self.delivered += 1;
        }
        if taken > 0
            && let Some(line) = self.lines.get_mut(to)
        {
            line.pause = 0;
        }
        let problem = match stop? {
            Stop::Refused(why) => {
                self.finish(batch[taken], OutState::Refused { at: now.wall, why }, out);
                return None;
            }
            Stop::Full => "full: its inbox has no room for more of this node",
            Stop::Later => NOT_YET,
        };
        if let Some(line) = self.lines.get_mut(to) {
            line.there = true;
        }
        Some(problem.to_owned())
    }

    /// When a node is spoken to next: at once if all went well.
    fn rest(&mut self, now: Now, to: &NodeId, problem: Option<String>) {
        let random = splitmix(self.seed ^ self.exchanges);
        let Some(line) = self.lines.get_mut(to) else { return };
        if problem.is_none() {
            line.pause = 0;
            line.next_try = now.steady;
        } else {
            let longest = if line.there { RETRY_THERE_MS } else { RETRY_LAST_MS };
            line.pause = (line.pause * 2).clamp(RETRY_FIRST_MS, longest);
            // Nodes that were cut off together do not come back all at once.
            line.next_try = now.steady + line.pause / 2 + random % (line.pause / 2 + 1);
        }
        line.problem = problem;
    }

    /// Gives everything that waits for a node new positions above `last`: the node has seen positions of ours that we do not know of, because our memory is
    /// gone or is an older one. Under the old ones it would take our messages for ones that it has.
    fn renumber(&mut self, to: &NodeId, last: u64, out: &mut Outputs) {
        let Some(line) = self.lines.get_mut(to) else { return };
        self.high = self.high.max(last);
        for old in std::mem::take(&mut line.queue) {
            let Some(mut waiting) = self.waiting.remove(&old) else { continue };
            self.high += 1;
            let new = self.high;
            waiting.record.position = new;
            self.due.remove(&(waiting.deadline, old));
            self.due.insert((waiting.deadline, new));
            self.by_id.remove(&(waiting.record.id, old));
            self.by_id.insert((waiting.record.id, new));
            line.queue.insert(new);
            out.writes.push(Write::DropOut(old));
            out.writes.push(Write::PutOut(waiting.record.clone()));
            self.waiting.insert(new, waiting);
        }
        out.writes.push(Write::High(self.high));
    }

    fn finish(&mut self, position: u64, state: OutState, out: &mut Outputs) {
        let Some(Waiting { mut record, deadline }) = self.waiting.remove(&position) else { return };
        self.due.remove(&(deadline, position));
        if let Some(line) = self.lines.get_mut(&record.to) {
            line.queue.remove(&position);
        }
        if let Some(copies) = self.bodies.get_mut(&record.id) {
            *copies -= 1;
            if *copies == 0 {
                self.bodies.remove(&record.id);
                self.bytes -= record.bytes as usize;
                out.writes.push(Write::DropSent(record.id));
            }
        }
        record.state = state;
        out.writes.push(Write::PutOut(record.clone()));
        out.effects.push(Effect::Settled(record.id));
        self.finished.insert(position, record);
        while self.finished.len() > self.limits.remembered {
            let Some((position, oldest)) = self.finished.pop_first() else { break };
            self.by_id.remove(&(oldest.id, position));
            out.writes.push(Write::DropOut(position));
        }
    }

    /// Ends what has waited for too long; how many that were.
    pub(super) fn expire(&mut self, now: Now, out: &mut Outputs) -> u64 {
        let mut expired = 0;
        while let Some((_, position)) = self.due.first().copied().filter(|(deadline, _)| *deadline <= now.steady) {
            if expired as usize == EXPIRED_AT_ONCE {
                break;
            }
            self.finish(position, OutState::Expired { at: now.wall }, out);
            expired += 1;
        }
        expired
    }

    pub(super) fn next_tick(&self) -> Option<u64> {
        let idle = self.lines.values().filter(|line| line.is_idle(self.far));
        let retry = idle.map(|line| line.next_try).min().filter(|_| self.flights < EXCHANGES_MAX);
        let expiry = self.due.first().map(|(deadline, _)| *deadline);
        [retry, expiry].into_iter().flatten().min()
    }

    fn records(&self, id: &MessageId) -> impl Iterator<Item = &OutRecord> {
        let positions = self.by_id.range((*id, 0)..=(*id, u64::MAX)).map(|(_, position)| position);
        positions.filter_map(|position| self.waiting.get(position).map(|it| &it.record).or(self.finished.get(position)))
    }

    /// Whether a message was sent to a node, as far as is remembered.
    pub(super) fn sent(&self, id: &MessageId, to: &NodeId) -> bool {
        self.records(id).any(|record| record.to == *to)
    }

    fn status(&self, record: &OutRecord) -> OutStatus {
        let line = self.lines.get(&record.to).filter(|_| record.state == OutState::Waiting);
        OutStatus { record: record.clone(), problem: line.and_then(|line| line.problem.clone()) }
    }

    pub(super) fn list(&self) -> impl Iterator<Item = OutStatus> + '_ {
        let mut all: Vec<&OutRecord> = self.finished.values().collect();
        all.extend(self.waiting.values().map(|waiting| &waiting.record));
        all.sort_by_key(|record| record.position);
        all.into_iter().map(|record| self.status(record))
    }

    pub(super) fn fate(&self, id: &MessageId) -> Vec<OutStatus> {
        self.records(id).map(|record| self.status(record)).collect()
    }

    /// Messages waiting, and delivered since the start.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.waiting.len() as u64, self.delivered)
    }
}

/// Whether an answer can be one to a batch of this size: it goes on, or says why not.
fn sensible(batch: usize, taken: u32, stop: Option<Stop>) -> bool {
    let taken = taken as usize;
    if stop.is_some() { taken < batch } else { batch > 0 && taken == batch }
}

/// The mixing function of SplitMix64: a number that looks random for each number.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
