//! What a node does by itself: joining, keeping its record known, finding out who is still there; and giving up on those who are silent.

use std::time::Duration;

use super::{Find, KEEPERS, Lookup, Miss, Output, PEERS_MAX, PENDING_MAX, Pending};
use crate::key::Key;
use crate::lookup::Purpose;
use crate::message::{Ask, CONTACTS_MAX, Contact, RUMOUR_HOPS_MAX, Tell};
use crate::record::{Record, millis};
use crate::table::NEAR;

/// How often a node signs its record anew and brings it to those who keep it, at least and at most. In between: a third of the time that the nearest have
/// been there (the median of them). Half of the keepers are then there the next time, and a network at rest is almost silent.
const PUBLISH_MIN: Duration = Duration::from_secs(10 * 60);
const PUBLISH_MAX: Duration = Duration::from_secs(60 * 60);

/// The least where messages need connections: a young network is then a third as busy, and keepers that left are missed for half an hour in which four of eight are
/// enough.
const PUBLISH_MIN_SPARING: Duration = Duration::from_secs(30 * 60);

/// How many contacts are asked whether they are still there between two such times, besides those that are asked something anyway: each may cost setting up a
/// connection, and a dead one that was not noticed costs a lookup less than half a second.
const CHECKS_PER_PUBLISH: u64 = 12;

/// The same where each does.
const CHECKS_PER_PUBLISH_SPARING: u64 = 4;

/// When a contact does not answer, others may be gone, too: so many are asked one after the other.
const HURRY: u32 = 4;
const HURRY_MS: u64 = 5000;
const HURRY_SILENT_MS: u64 = 60_000;

/// Pause between asking two newcomers whether they answer: a burst of them must not become a burst of ours.
const SPARE_MS: u64 = 1000;

/// The same while there are fewer contacts than count as near: in a young network everybody is wanted.
const SPARE_MS_FEW: u64 = 100;

/// Pause after the first attempt to join that nobody answered; doubled up to the second.
const JOIN_MS_MIN: u64 = 1000;
const JOIN_MS_MAX: u64 = 60_000;

/// After joining, parts of the table with fewer contacts than this are filled by a lookup each, one after the other.
const FEW: usize = 4;
const FILL_MS: u64 = 2000;

/// How long newcomers among the nearest are waited for before they get our record: they come in groups.
const SPREAD_MS: u64 = 10_000;

/// The same while there are fewer contacts than count as near.
const SPREAD_MS_FEW: u64 = 1000;

/// One in so many refreshes is of the part around ourselves.
const OWN_REFRESH: u64 = 4;

/// Contacts wanted along with the keeping of a record: enough to notice newcomers among the nearest.
const KEEP_CONTACTS: u8 = 4;

/// When what is due; 0 is at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Upkeep {
    pub(super) joined: bool,
    joining: bool,
    join_ms: u64,
    join_pause_ms: u64,
    publish_ms: u64,
    refresh_ms: u64,
    check_ms: u64,
    spare_ms: u64,
    /// The next bucket to fill after joining, while there are any.
    fill: Option<u32>,
    /// When newcomers among the nearest get our record, if there are any.
    spread_ms: Option<u64>,
    /// So many contacts are to be asked whether they are still there without much delay.
    hurry: u32,
}

impl<R: Record> Find<R> {
    /// When to call [`Find::step`] with [`Input::Tick`](super::Input::Tick) if nothing else happens before, as a time since 1970.
    pub fn wake(&self, now: Duration) -> Duration {
        let now_ms = millis(now);
        let up = &self.upkeep;
        let timers = match (up.joined, up.joining) {
            (true, _) => up.publish_ms.min(up.refresh_ms).min(up.check_ms).min(up.spread_ms.unwrap_or(u64::MAX)),
            (false, true) => u64::MAX,
            (false, false) if self.has_hope() => up.join_ms,
            (false, false) => now_ms.saturating_add(JOIN_MS_MAX),
        };
        let spare = if self.table.has_spares() { up.spare_ms } else { u64::MAX };
        let silent = self.pending.values().map(|pending| pending.until_ms).min().unwrap_or(u64::MAX);
        let late = self.lookups.values().filter_map(|lookup| lookup.wake_ms(now_ms)).min().unwrap_or(u64::MAX);
        Duration::from_millis(timers.min(spare).min(silent).min(late).max(now_ms))
    }

    fn has_hope(&self) -> bool {
        self.table.len() + self.peers.len() + self.beginnings.len() > 0
    }

    /// Somebody new can be asked: no reason to wait with joining.
    pub(super) fn hope(&mut self, now_ms: u64) {
        if !self.upkeep.joined && !self.upkeep.joining {
            self.upkeep.join_ms = now_ms;
        }
    }

    /// Our record is another: those who keep it get it, and if we moved, peers do.
    pub(super) fn own_changed(&mut self, now_ms: u64, record: R, moved: bool, out: &mut Vec<Output<R>>) {
        let Some(opened) = record.open().filter(|opened| opened.node == self.me) else { return };
        if self.own.as_ref().is_some_and(|(own, _)| own.sequence >= opened.sequence) {
            return;
        }
        self.own = Some((opened, record.clone()));
        if moved {
            let me = self.me;
            self.tell(&Tell { record, hops: RUMOUR_HOPS_MAX - 1 }, PEERS_MAX, &me, out);
        }
        self.publish(now_ms, out);
    }

    /// Brings our record to the nearest.
    fn publish(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        self.upkeep.publish_ms = now_ms + self.pause(now_ms);
        self.kept_by.clear();
        self.spread(now_ms, out);
    }

    /// Brings our record to those of the nearest that do not have it.
    fn spread(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        self.upkeep.spread_ms = None;
        let Some((_, record)) = self.own.clone().filter(|_| self.upkeep.joined) else { return };
        let nearest = self.table.closest(self.key, KEEPERS, &self.me);
        let before = std::mem::replace(&mut self.kept_by, nearest.iter().map(|to| to.node).collect());
        for to in nearest.into_iter().filter(|to| !before.contains(&to.node)) {
            let keep = Some(record.clone());
            let ask =
                Ask { id: 0, serves: self.serves, key: self.key, contacts: KEEP_CONTACTS, newer_than: None, keep };
            self.ask(now_ms, to, None, ask, out);
        }
    }

    /// How long until the next time.
    fn pause(&mut self, now_ms: u64) -> u64 {
        let mut ages: Vec<u64> = self.table.near().iter().map(|entry| now_ms.saturating_sub(entry.since_ms)).collect();
        ages.sort_unstable();
        let median = ages.get(ages.len() / 2).copied().unwrap_or(0);
        let least = if self.sparing { PUBLISH_MIN_SPARING } else { PUBLISH_MIN };
        self.random.around((median / 3).clamp(millis(least), millis(PUBLISH_MAX)))
    }

    fn checks(&self) -> u64 {
        if self.sparing { CHECKS_PER_PUBLISH_SPARING } else { CHECKS_PER_PUBLISH }
    }

    /// Everything that is due, after each step.
    pub(super) fn look_after(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        self.give_up(&|pending: &Pending| pending.until_ms <= now_ms);
        self.drive_lookups(now_ms, out);
        if !self.upkeep.joined {
            self.join(now_ms);
            self.drive_lookups(now_ms, out);
        } else if self.table.len() == 0 {
            self.upkeep = Upkeep { join_ms: now_ms + JOIN_MS_MIN, ..Upkeep::default() };
        } else {
            self.renew(now_ms, out);
        }
        self.check_newcomer(now_ms, out);
    }

    fn join(&mut self, now_ms: u64) {
        if !self.upkeep.joining && now_ms >= self.upkeep.join_ms && self.has_hope() {
            self.upkeep.joining = true;
            self.look_up(Purpose::Join, self.key, 0);
        }
    }

    /// What a joined node does now and then.
    fn renew(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        if now_ms >= self.upkeep.publish_ms {
            self.upkeep.publish_ms = now_ms + self.pause(now_ms);
            self.store.expire(now_ms);
            if let Some((own, _)) = &self.own {
                out.push(Output::Sign { above: own.sequence });
            }
        }
        if self.table.take_nearer() {
            let pause = if self.table.len() < NEAR { SPREAD_MS_FEW } else { SPREAD_MS };
            self.upkeep.spread_ms.get_or_insert(now_ms + pause);
        }
        if self.upkeep.spread_ms.is_some_and(|spread_ms| now_ms >= spread_ms) {
            self.spread(now_ms, out);
        }
        if now_ms >= self.upkeep.refresh_ms {
            let target = match self.next_bucket(now_ms) {
                Some(bits) => {
                    let random = u128::from(self.random.next()) << 64 | u128::from(self.random.next());
                    self.key.sharing(bits, random)
                }
                None => self.key,
            };
            self.look_up(Purpose::Refresh, target, 0);
            self.drive_lookups(now_ms, out);
        }
        if self.upkeep.hurry > 0 {
            self.upkeep.check_ms = self.upkeep.check_ms.min(now_ms + HURRY_MS);
        }
        if now_ms >= self.upkeep.check_ms {
            let pause = self.pause(now_ms);
            let in_hurry = self.upkeep.hurry > 0;
            self.upkeep.hurry = self.upkeep.hurry.saturating_sub(1);
            self.upkeep.check_ms = now_ms + if in_hurry { HURRY_MS } else { pause / self.checks() };
            let silent_ms = if in_hurry { HURRY_SILENT_MS } else { pause };
            if let Some(stalest) = self.table.stalest(now_ms.saturating_sub(silent_ms)) {
                self.check(now_ms, stalest, 0, out);
            }
        }
    }

    /// Which part of the table to refresh now: after joining those with few contacts, from the largest part of the space on, then a random one;
    /// and in between, that around ourselves.
    fn next_bucket(&mut self, now_ms: u64) -> Option<u32> {
        let depth = self.table.depth();
        let few = |bits: &u32| self.table.in_bucket(*bits) < FEW;
        if let Some(bits) = self.upkeep.fill.and_then(|from| (from..depth).find(few)) {
            self.upkeep.fill = Some(bits + 1);
            self.upkeep.refresh_ms = now_ms + FILL_MS;
            return Some(bits);
        }
        let filled = self.upkeep.fill.take().is_some();
        self.upkeep.refresh_ms = now_ms + self.pause(now_ms);
        let around_us = filled || self.random.below(OWN_REFRESH) == 0;
        (!around_us).then(|| self.random.below(u64::from(depth) + 1) as u32)
    }

    /// Asks a newcomer whether it answers.
    fn check_newcomer(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        if now_ms >= self.upkeep.spare_ms
            && self.table.has_spares()
            && let Some(spare) = self.table.next_spare()
        {
            self.upkeep.spare_ms = now_ms + if self.table.len() < NEAR { SPARE_MS_FEW } else { SPARE_MS };
            self.check(now_ms, spare, 0, out);
        }
    }

    /// Asks somebody whether they are there.
    fn check(&mut self, now_ms: u64, to: Contact, contacts: u8, out: &mut Vec<Output<R>>) {
        let asked = self.pending.values().any(|pending| pending.to.node == to.node);
        if !asked && self.pending.len() < PENDING_MAX {
            let ask = Ask { id: 0, serves: self.serves, key: self.key, contacts, newer_than: None, keep: None };
            self.ask(now_ms, to, None, ask, out);
        }
    }

    /// Those questions are not going to be answered.
    pub(super) fn give_up(&mut self, on: &dyn Fn(&Pending) -> bool) {
        let given_up: Vec<u32> = self.pending.iter().filter(|(_, it)| on(it)).map(|(id, _)| *id).collect();
        for id in given_up {
            let Some(pending) = self.pending.remove(&id) else { continue };
            if self.table.failed(&pending.to.node) {
                self.upkeep.hurry = HURRY;
            }
            if pending.keeps {
                // Whoever is among the nearest now gets it: it again, while it counts as being there.
                self.kept_by.retain(|node| *node != pending.to.node);
                self.upkeep.spread_ms = Some(0);
            }
            if let Some((lookup, path)) = pending.lookup
                && let Some(lookup) = self.lookups.get_mut(&lookup)
            {
                lookup.silent(path, &pending.to.node);
            }
        }
    }

    /// Asks what lookups want to ask, and ends those that have nothing more to ask.
    pub(super) fn drive_lookups(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        let ids: Vec<u32> = self.lookups.keys().copied().collect();
        for id in ids {
            let room = self.pending.len() < PENDING_MAX;
            let Some(lookup) = self.lookups.get_mut(&id).filter(|_| room) else { continue };
            let (key, newer_than) = (lookup.target, lookup.newer_than);
            let wanted = (lookup.purpose == Purpose::Find).then_some(newer_than);
            let questions = lookup.next(now_ms);
            let done = questions.is_empty() && lookup.is_done();
            for (path, to) in questions {
                let contacts = CONTACTS_MAX as u8;
                let ask = Ask { id: 0, serves: self.serves, key, contacts, newer_than: wanted, keep: None };
                self.ask(now_ms, to, Some((id, path)), ask, out);
            }
            if done && let Some(lookup) = self.lookups.remove(&id) {
                self.ended(now_ms, &lookup, out);
            }
        }
    }

    fn ended(&mut self, now_ms: u64, lookup: &Lookup, out: &mut Vec<Output<R>>) {
        let answered = lookup.was_answered();
        match lookup.purpose {
            Purpose::Find => {
                let why = if answered { Miss::NoRecord } else { Miss::NobodyAnswered };
                out.push(Output::NotFound { key: lookup.target, why });
            }
            Purpose::Join if answered => self.joined(now_ms, out),
            Purpose::Join => {
                let pause = (self.upkeep.join_pause_ms * 2).clamp(JOIN_MS_MIN, JOIN_MS_MAX);
                (self.upkeep.joining, self.upkeep.join_pause_ms) = (false, pause);
                self.upkeep.join_ms = now_ms + self.random.around(pause);
            }
            Purpose::Refresh => {}
        }
    }

    fn joined(&mut self, now_ms: u64, out: &mut Vec<Output<R>>) {
        self.upkeep = Upkeep { joined: true, fill: Some(0), ..Upkeep::default() };
        self.upkeep.refresh_ms = now_ms + self.random.around(FILL_MS);
        self.upkeep.check_ms = now_ms + self.pause(now_ms) / self.checks();
        self.publish(now_ms, out);
    }

    /// The nearest nodes to a key that answered lately, for tests and status pages.
    pub fn closest(&self, key: Key, count: usize) -> Vec<Contact> {
        self.table.closest(key, count, &self.me)
    }
}
