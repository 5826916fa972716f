//! The watch over a path: where packets go, whether they get there, and when to ask. Pure; the clock is handed in.
//!
//! An address is used once a probe to it was answered, and as long as probes are. So an address that somebody else put onto a packet leads to a probe and
//! no further, and one that a router gave to the peer is found by what the peer sends from behind it.
//!
//! How large packets may be on the way is found by probes of that size ([`Size`]): an address is found with small ones, larger ones are tried from then on, and when
//! those of the size in use are not answered any more but smaller ones are, it is the size that is given up and not the address (RFC 8899).
//!
//! Packets take the address; where there is none, the connection beside which the path runs, if that gets through directly; else relays. Relays are asked
//! as soon as a direct way is in doubt while packets flow, so that there is one when the doubt is a certainty.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::header::{PACKET_BYTES_FLOOR, PACKET_BYTES_LEAST, PACKET_BYTES_MAX};

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

/// Other addresses of the peer that are tried while none answers.
pub const OTHERS_MAX: usize = 8;

/// Probes whose answers are waited for: one to each address and by relays each [`OFTEN`], for a second.
const OUTSTANDING_MAX: usize = 5 * (OTHERS_MAX + 3);

/// From here on an address that does not answer is in doubt: two probes.
pub const DOUBT: Duration = Duration::from_millis(400);

/// Larger sizes that do not pass are tried again after twice as long each time, up to this: networks change (RFC 8899, section 5.1.1, `PMTU_RAISE_TIMER`).
const RAISE_EVERY: Duration = Duration::from_secs(600);

/// Attempts at larger sizes after which they are said not to pass (RFC 8899, section 5.1.2, `MAX_PROBES`).
const RAISES: u32 = 3;

/// After the last packet, packets are said to flow for this long: who asks once a second is one who waits for an answer.
const FLOWS: Duration = Duration::from_millis(1500);

/// A way that sealed packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To this address.
    Direct(SocketAddr),
    /// By relays; which one is not said here.
    Relayed,
}

/// How large packets may be, in steps: what QUIC, IPv6 and Ethernet each promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// [`PACKET_BYTES_FLOOR`].
    Floor,
    /// [`PACKET_BYTES_LEAST`].
    Least,
    /// [`PACKET_BYTES_MAX`].
    Most,
}

impl Size {
    const ALL: [Self; 3] = [Self::Floor, Self::Least, Self::Most];

    fn from_to(first: Self, last: Self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |size| (first..=last).contains(size))
    }

    /// The largest packet, in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Floor => PACKET_BYTES_FLOOR,
            Self::Least => PACKET_BYTES_LEAST,
            Self::Most => PACKET_BYTES_MAX,
        }
    }
}

/// What there is besides addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Besides {
    /// The connection gets through, and not by a relay of peers.
    pub connection: bool,
    /// There are relays to ask.
    pub relays: bool,
}

/// Something to be sealed and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Where.
    pub to: Way,
    /// As large as packets of this size.
    pub size: Size,
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
    /// Where something came from so soon after that, that it has to wait.
    pending: Option<SocketAddr>,
    /// Where it says that it is besides.
    others: Vec<SocketAddr>,
    confirmed: Option<SocketAddr>,
    /// What passes there.
    size: Size,
    /// What there is to send at most.
    most: Size,
    raise: Raise,
    /// Where we would rather send, and how often we still try.
    wanted: Option<(SocketAddr, u32)>,
    outstanding: VecDeque<Probe>,
    /// When the first probe was sent of those that nothing came back for.
    unanswered: Option<Instant>,
    /// When the last was sent.
    probed: Option<Instant>,
    pause: Duration,
    number: u64,
    /// When the first step was: an address has a while to answer before others are asked.
    begun: Option<Instant>,
    /// When packets flowed last.
    busy: Option<Instant>,
    relayed: Relayed,
    besides: Besides,
}

/// The search for a larger size.
#[derive(Debug, Default)]
struct Raise {
    tried: u32,
    at: Option<Instant>,
    pause: Duration,
}

/// The way by relays.
#[derive(Debug, Default)]
struct Relayed {
    confirmed: bool,
    probed: Option<Instant>,
    unanswered: Option<Instant>,
}

impl Watch {
    /// For a path on which packets of up to this size are to be sent.
    #[must_use]
    pub fn new(most: Size) -> Self {
        Self {
            aimed: None,
            learned: None,
            learned_at: None,
            pending: None,
            others: Vec::new(),
            confirmed: None,
            size: Size::Floor,
            most,
            raise: Raise::default(),
            wanted: None,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            unanswered: None,
            probed: None,
            pause: Duration::ZERO,
            number: 0,
            begun: None,
            busy: None,
            relayed: Relayed::default(),
            besides: Besides::default(),
        }
    }

    /// Which way packets go; `None` while they would not arrive, or go inside the connection.
    #[must_use]
    pub fn target(&self) -> Option<Way> {
        let by_relay = self.relayed.confirmed && !self.besides.connection;
        self.confirmed.map(Way::Direct).or_else(|| by_relay.then_some(Way::Relayed))
    }

    /// How large packets may be that go that way. A relay's own connections carry what IPv6 promises, in parts if they must.
    #[must_use]
    pub fn size(&self) -> Size {
        if self.confirmed.is_some() { self.size } else { Size::Least.min(self.most) }
    }

    /// Whether it was tried in vain to have larger packets pass.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.confirmed.is_some() && self.size < self.most && self.raise.tried >= RAISES
    }

    /// Whether packets flow and nothing answers directly, or not any more.
    #[must_use]
    pub fn doubts(&self, now: Instant) -> bool {
        let flows = self.busy.is_some_and(|at| now.duration_since(at) < FLOWS);
        let silent = self.is_silent(now, DOUBT);
        let tried = self.begun.is_some_and(|at| now.duration_since(at) >= DOUBT);
        flows && (silent || self.confirmed.is_none() && tried)
    }

    /// The connection says that the peer is there, or that it does not know.
    pub fn aim(&mut self, at: Option<SocketAddr>) {
        if self.aimed != at {
            self.aimed = at;
            self.consider(at);
        }
    }

    /// The peer says that it is at these addresses, too: they are tried while none answers, the first [`OTHERS_MAX`] of them.
    pub fn know(&mut self, others: impl Iterator<Item = SocketAddr>) {
        self.others.clear();
        self.others.extend(others.take(OTHERS_MAX));
    }

    /// Something genuine of the peer came from there. True if that is news.
    pub fn heard_from(&mut self, now: Instant, from: SocketAddr) -> bool {
        if [self.confirmed, self.learned, self.aimed].contains(&Some(from)) {
            return false;
        }
        // Who can move packets about does not get a probe for each.
        if self.learned_at.is_some_and(|at| now.duration_since(at) < OFTEN) {
            self.pending = Some(from);
            return false;
        }
        self.learn(now, from);
        true
    }

    fn learn(&mut self, now: Instant, from: SocketAddr) {
        (self.learned, self.learned_at, self.pending) = (Some(from), Some(now), None);
        self.consider(Some(from));
    }

    fn consider(&mut self, address: Option<SocketAddr>) {
        let Some(address) = address.filter(|_| address != self.confirmed) else { return };
        if self.confirmed.is_some() {
            self.wanted = Some((address, TRIES));
        }
        (self.probed, self.pause) = (None, Duration::ZERO);
    }

    /// A probe was answered. True if there is something to do about it.
    pub fn answered(&mut self, now: Instant, number: u64) -> bool {
        let Some(at) = self.outstanding.iter().position(|probe| probe.number == number) else { return false };
        let Probe { to: way, size, .. } = self.outstanding[at];
        self.outstanding.retain(|probe| (probe.to, probe.size) != (way, size) || probe.number > number);
        let to = match way {
            Way::Direct(to) => to,
            Way::Relayed => {
                (self.relayed.confirmed, self.relayed.unanswered) = (true, None);
                return false;
            }
        };
        let is_new = self.confirmed.is_none() || self.wanted.is_some_and(|(wanted, _)| wanted == to);
        if is_new && self.confirmed != Some(to) {
            (self.size, self.raise) = (size, Raise::default());
        }
        if is_new {
            (self.confirmed, self.wanted) = (Some(to), None);
        }
        if self.confirmed == Some(to) {
            self.answered_with(now, size);
        }
        is_new
    }

    /// The address in use answered a probe of this size.
    fn answered_with(&mut self, now: Instant, size: Size) {
        if size < self.size {
            if !self.is_silent(now, DOUBT) {
                return;
            }
            // It hears what is smaller, and only that.
            self.raise = Raise { tried: 0, at: Some(now + SILENCE), pause: SILENCE };
        }
        self.size = size;
        (self.unanswered, self.pause) = (None, Duration::ZERO);
    }

    /// Whether the address in use has not answered for this long.
    fn is_silent(&self, now: Instant, time: Duration) -> bool {
        self.unanswered.is_some_and(|since| now.duration_since(since) >= time)
    }

    /// What is to be done now. `busy` is whether packets flow, `besides` what they could take where there is no address.
    pub fn step(&mut self, now: Instant, busy: bool, besides: Besides) -> Step {
        self.besides = besides;
        self.begun.get_or_insert(now);
        if busy {
            self.busy = Some(now);
        }
        if self.is_silent(now, SILENCE) {
            let lost = self.confirmed.take();
            if lost != self.aimed {
                self.learned = lost;
            }
            (self.wanted, self.unanswered, self.probed, self.pause) = (None, None, None, Duration::ZERO);
        }
        let due = self.learned_at.map(|at| at + OFTEN);
        if let Some(from) = self.pending.filter(|_| due.is_none_or(|due| now >= due)) {
            self.learn(now, from);
        }
        let mut probes = Vec::new();
        let direct = match self.confirmed {
            Some(confirmed) => self.step_confirmed(now, busy, confirmed, &mut probes),
            None => self.step_searching(now, &mut probes),
        };
        let again = [self.pending.and(due), self.step_relayed(now, &mut probes)]
            .into_iter()
            .flatten()
            .fold(direct, Instant::min);
        Step { probes, again }
    }

    /// Asks relays while there is a need. Gives when there is more to do.
    fn step_relayed(&mut self, now: Instant, probes: &mut Vec<Probe>) -> Option<Instant> {
        if !self.besides.relays || self.unanswered.is_none() && self.confirmed.is_some() {
            self.relayed = Relayed::default();
            return None;
        }
        if !self.doubts(now) {
            // What was confirmed stays for the next packet to try.
            self.relayed.unanswered = None;
            let doubt = self.unanswered.map(|since| since + DOUBT);
            return doubt.filter(|doubt| *doubt > now);
        }
        if self.relayed.unanswered.is_some_and(|since| now.duration_since(since) >= SILENCE) {
            (self.relayed.confirmed, self.relayed.unanswered) = (false, None);
        }
        if self.relayed.probed.is_none_or(|probed| now >= probed + OFTEN) {
            probes.push(self.probe(Way::Relayed, Size::Least.min(self.most)));
            self.relayed.unanswered.get_or_insert(now);
            self.relayed.probed = Some(now);
        }
        self.relayed.probed.map(|probed| probed + OFTEN)
    }

    fn step_confirmed(&mut self, now: Instant, busy: bool, confirmed: SocketAddr, probes: &mut Vec<Probe>) -> Instant {
        let pace = |watch: &Self| {
            let uncertain = busy || watch.unanswered.is_some() || watch.wanted.is_some();
            if uncertain { OFTEN } else { SELDOM }
        };
        if self.probed.is_none_or(|probed| now >= probed + pace(self)) {
            let smallest = if self.is_silent(now, DOUBT) { Size::Floor } else { self.size };
            for size in Size::from_to(smallest, self.size) {
                probes.push(self.probe(Way::Direct(confirmed), size));
            }
            self.unanswered.get_or_insert(now);
            self.probed = Some(now);
            if let Some((wanted, tries)) = self.wanted {
                probes.push(self.probe(Way::Direct(wanted), Size::Floor));
                self.wanted = (tries > 1).then_some((wanted, tries - 1));
            }
        }
        let next = self.probed.unwrap_or(now) + pace(self);
        let raise = self.step_raising(now, confirmed, probes);
        [raise, self.unanswered.map(|since| since + SILENCE)].into_iter().flatten().fold(next, Instant::min)
    }

    /// Tries larger sizes when it is time to. Gives when it is again.
    fn step_raising(&mut self, now: Instant, confirmed: SocketAddr, probes: &mut Vec<Probe>) -> Option<Instant> {
        if self.size >= self.most {
            return None;
        }
        if self.raise.at.is_none_or(|at| now >= at) {
            let smaller = self.size;
            for size in Size::from_to(smaller, self.most).filter(|size| *size > smaller) {
                probes.push(self.probe(Way::Direct(confirmed), size));
            }
            let pause = (self.raise.pause * 2).clamp(OFTEN, RAISE_EVERY);
            self.raise = Raise { tried: self.raise.tried.saturating_add(1), at: Some(now + pause), pause };
        }
        self.raise.at
    }

    fn step_searching(&mut self, now: Instant, probes: &mut Vec<Probe>) -> Instant {
        if self.probed.is_none_or(|probed| now >= probed + self.pause) {
            let mut tried: Vec<SocketAddr> = self.aimed.into_iter().chain(self.learned).collect();
            tried.extend(&self.others);
            for (at, to) in tried.iter().enumerate() {
                if !tried[..at].contains(to) {
                    probes.push(self.probe(Way::Direct(*to), Size::Floor));
                }
            }
            self.probed = Some(now);
            self.pause = (self.pause * 2).clamp(OFTEN, PAUSE_MAX);
        }
        self.probed.unwrap_or(now) + self.pause
    }

    fn probe(&mut self, to: Way, size: Size) -> Probe {
        self.number += 1;
        let probe = Probe { to, size, number: self.number };
        if self.outstanding.len() >= OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(probe);
        probe
    }
}

#[cfg(test)]
mod tests;
