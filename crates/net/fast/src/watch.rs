//! The watch over a path: where packets go, whether they get there, and when to ask. Pure; the clock is handed in.
//!
//! An address is used once a probe to it was answered, and as long as probes are. So an address that somebody else put onto a packet leads to a probe and
//! no further, and one that a router gave to the peer is found by what the peer sends from behind it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between probes while packets flow, and while an answer is missing.
pub const OFTEN: Duration = Duration::from_millis(200);

/// Between probes while nothing flows: routers forget a UDP conversation after 30 s at the earliest.
pub const SELDOM: Duration = Duration::from_secs(10);

/// An address from which no answer came for this long is not used any more: four probes. With the time until somebody looks it is below one second.
pub const SILENCE: Duration = Duration::from_millis(800);

/// The longest pause between attempts while nothing gets through.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Probes to a new address before it is let go and the old one kept.
const TRIES: u32 = 5;

/// Probes whose answers are waited for. At two addresses each [`OFTEN`] that is more than a second.
const OUTSTANDING_MAX: usize = 16;

/// Something to be sealed and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Where.
    pub to: SocketAddr,
    /// Its number, by which it is known when it is answered.
    pub number: u64,
}

/// What is to be done now, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Probes to send.
    pub probes: Vec<Probe>,
    /// When there is something to do next, unless something happens before.
    pub again: Instant,
}

/// The state of one path.
#[derive(Debug)]
pub struct Watch {
    /// Where the connection says that the peer is.
    aimed: Option<SocketAddr>,
    /// Where something genuine of the peer came from.
    learned: Option<SocketAddr>,
    learned_at: Option<Instant>,
    confirmed: Option<SocketAddr>,
    /// Where we would rather send, and how often we still try.
    wanted: Option<(SocketAddr, u32)>,
    outstanding: VecDeque<Probe>,
    /// When the first probe was sent of those that nothing came back for.
    unanswered: Option<Instant>,
    /// When the last was sent.
    probed: Option<Instant>,
    pause: Duration,
    number: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            aimed: None,
            learned: None,
            learned_at: None,
            confirmed: None,
            wanted: None,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            unanswered: None,
            probed: None,
            pause: Duration::ZERO,
            number: 0,
        }
    }
}

impl Watch {
    /// Where packets go; `None` while they would not arrive.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        self.confirmed
    }

    /// The connection says that the peer is there, or that it does not know.
    pub fn aim(&mut self, at: Option<SocketAddr>) {
        if self.aimed != at {
            self.aimed = at;
            self.consider(at);
        }
    }

    /// Something genuine of the peer came from there. True if that is news.
    pub fn heard_from(&mut self, now: Instant, from: SocketAddr) -> bool {
        if [self.confirmed, self.learned, self.aimed].contains(&Some(from)) {
            return false;
        }
        // Who can move packets about does not get a probe for each.
        if self.learned_at.is_some_and(|at| now.duration_since(at) < OFTEN) {
            return false;
        }
        (self.learned, self.learned_at) = (Some(from), Some(now));
        self.consider(Some(from));
        true
    }

    fn consider(&mut self, address: Option<SocketAddr>) {
        let Some(address) = address.filter(|_| address != self.confirmed) else { return };
        if self.confirmed.is_some() {
            self.wanted = Some((address, TRIES));
        }
        (self.probed, self.pause) = (None, Duration::ZERO);
    }

    /// A probe was answered.
    pub fn answered(&mut self, number: u64) {
        let Some(at) = self.outstanding.iter().position(|probe| probe.number == number) else { return };
        let to = self.outstanding[at].to;
        self.outstanding.retain(|probe| probe.to != to || probe.number > number);
        if self.confirmed.is_none() || self.wanted.is_some_and(|(wanted, _)| wanted == to) {
            (self.confirmed, self.wanted) = (Some(to), None);
        }
        if self.confirmed == Some(to) {
            (self.unanswered, self.pause) = (None, Duration::ZERO);
        }
    }

    /// What is to be done now. `busy` is whether packets flow.
    pub fn step(&mut self, now: Instant, busy: bool) -> Step {
        if self.unanswered.is_some_and(|since| now.duration_since(since) >= SILENCE) {
            let lost = self.confirmed.take();
            if lost != self.aimed {
                self.learned = lost;
            }
            (self.wanted, self.unanswered, self.probed, self.pause) = (None, None, None, Duration::ZERO);
        }
        let mut probes = Vec::new();
        let again = match self.confirmed {
            Some(confirmed) => self.step_confirmed(now, busy, confirmed, &mut probes),
            None => self.step_searching(now, &mut probes),
        };
        Step { probes, again }
    }

    fn step_confirmed(&mut self, now: Instant, busy: bool, confirmed: SocketAddr, probes: &mut Vec<Probe>) -> Instant {
        let pace = |watch: &Self| {
            let uncertain = busy || watch.unanswered.is_some() || watch.wanted.is_some();
            if uncertain { OFTEN } else { SELDOM }
        };
        if self.probed.is_none_or(|probed| now >= probed + pace(self)) {
            probes.push(self.probe(confirmed));
            self.unanswered.get_or_insert(now);
            self.probed = Some(now);
            if let Some((wanted, tries)) = self.wanted {
                probes.push(self.probe(wanted));
                self.wanted = (tries > 1).then_some((wanted, tries - 1));
            }
        }
        let next = self.probed.unwrap_or(now) + pace(self);
        self.unanswered.map_or(next, |since| next.min(since + SILENCE))
    }

    fn step_searching(&mut self, now: Instant, probes: &mut Vec<Probe>) -> Instant {
        if self.probed.is_none_or(|probed| now >= probed + self.pause) {
            let (aimed, learned) = (self.aimed, self.learned.filter(|_| self.learned != self.aimed));
            for to in [aimed, learned].into_iter().flatten() {
                probes.push(self.probe(to));
            }
            self.probed = Some(now);
            self.pause = (self.pause * 2).clamp(OFTEN, PAUSE_MAX);
        }
        self.probed.unwrap_or(now) + self.pause
    }

    fn probe(&mut self, to: SocketAddr) -> Probe {
        self.number += 1;
        let probe = Probe { to, number: self.number };
        if self.outstanding.len() >= OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(probe);
        probe
    }
}

#[cfg(test)]
mod tests;
