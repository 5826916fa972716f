//! The user's side: which relay carries what is for a node.
//!
//! For every node that something is sent to there are up to [`RELAYS_MAX`] candidates: peers that this node is directly connected with. Each is measured by
//! probes through to the far end. The one with the least smoothed round trip, made longer by what it loses, is used; another must be clearly better to take its
//! place. Until one has been measured, what is sent goes through a few at once: QUIC does not mind what arrives twice.
//!
//! # Silence
//!
//! While something is being sent, a relay is left after [`SILENCE`] without a sign of life: no answer to probes, or answered probes but nothing from
//! the far end. The latter is a relay that carries probes and drops the rest, or the far end being gone; so one that is left is tried again later, and at once
//! if all others are silent as well.
//!
//! # Both ends
//!
//! Of two nodes the one with the lower id leads; the other answers through the relay by which it was last reached, so that both use the same one and notice
//! its silence together. One that hears nothing chooses for itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;

use crate::frame::Refusal;

mod way;

use way::Way;
pub use way::{WayReport, WayState};

/// Candidates per target: more are not better than the best of eight (measured in simulation), and each costs probes.
pub const RELAYS_MAX: usize = 8;

/// Targets that are looked after at once.
pub const TARGETS_MAX: usize = 1024;

/// A candidate that refused is passed over for this long where there are more than can be measured at once.
const PASSED: Duration = Duration::from_secs(60);

/// So many are passed over; beyond that they are asked again.
const PASSED_MAX: usize = 256;

/// How often it is asked who may be a relay, while there is none and later on.
const CANDIDATES_FIRST: Duration = Duration::from_millis(300);

/// See [`CANDIDATES_FIRST`].
const CANDIDATES_EVERY: Duration = Duration::from_secs(2);

/// Candidates that are used at once until one is measured.
const UNMEASURED_AT_ONCE: usize = 3;

/// Candidates that are new at once. Most often the nearest will do; and a target that is simply dead should not make everybody who knows it dial eight others.
const NEW_AT_ONCE: usize = 3;

/// A relay is left after this long without a sign of life while something is being sent. Two round trips around the Earth.
const SILENCE: Duration = Duration::from_secs(1);

/// After this long, what is sent goes by the next best relay as well.
const SUSPECT: Duration = Duration::from_millis(300);

/// Silence takes this many tries: what merely acknowledges is not answered, and one try may have been just now. QUIC sends again after a round trip or two,
/// then after twice as long, so there are three tries within a second where the round trip is below 200 ms.
const TRIES: u32 = 3;

/// What is sent within this time is one try: acknowledgements follow what they acknowledge that closely.
const TOGETHER: Duration = Duration::from_millis(50);

/// After a longer pause it is no more the same attempt to be heard. Above the second between the first two packets of a handshake and the two before the third.
const PAUSE: Duration = Duration::from_millis(2500);

/// A relay that was left for silence is the last choice for this long.
const LEFT: Duration = Duration::from_secs(30);

/// Another relay takes over if it is better by this factor …
const BETTER_BY: f64 = 1.2;

/// … and by this much, so that two that are alike do not take turns.
const BETTER_AT_LEAST: Duration = Duration::from_millis(5);

/// How long after the last datagram a target is still measured.
const ACTIVE: Duration = Duration::from_secs(10);

/// A target that nothing was sent to or heard from for this long is dropped.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// A leader that hears the other end by another relay for this long (or for two round trips, when that is longer: what is still on its way does not count), and
/// never by its own, follows, too. The other one left it for silence, and is about to leave the next if it gets no answer there.
const YIELDS: Duration = Duration::from_millis(400);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// These peers may be relays for a target: directly connected, best first.
    Candidates {
        /// For whom.
        target: NodeId,
        /// Who.
        relays: &'a [NodeId],
    },
    /// Somebody wants to know how a target is reached.
    Asked {
        /// Which.
        target: NodeId,
    },
    /// A datagram is to be sent. Which way is for [`Choices::ways`] to say, afterwards.
    Sent {
        /// To whom.
        target: NodeId,
    },
    /// A datagram came.
    Heard {
        /// From whom.
        target: NodeId,
        /// By whom.
        relay: NodeId,
    },
    /// A probe came back.
    Echoed {
        /// From whom.
        target: NodeId,
        /// By whom.
        relay: NodeId,
        /// Its number.
        number: u64,
    },
    /// A relay did not carry something.
    Refused {
        /// For whom it was.
        target: NodeId,
        /// Who refused.
        relay: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// A relay cannot be reached any more.
    Gone {
        /// Which.
        relay: NodeId,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tell who may be a relay for a target ([`Input::Candidates`]).
    Candidates {
        /// For whom.
        target: NodeId,
    },
    /// Send a probe.
    Probe {
        /// To whom.
        target: NodeId,
        /// By whom.
        relay: NodeId,
        /// With which number.
        number: u64,
    },
}

/// Why a relay is used, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// Nothing was sent yet, or nothing answers.
    #[default]
    Unmeasured,
    /// Of those that answer it has the least round trip.
    Least,
    /// The other end is heard by it.
    Followed,
    /// The one before went silent.
    Silent(NodeId),
    /// The one before refuses.
    Refused(NodeId),
    /// The one before cannot be reached.
    Gone(NodeId),
}

/// Datagrams that were sent without any coming back.
#[derive(Debug, Clone, Copy)]
struct Run {
    since: Instant,
    last: Instant,
    /// How many times something was sent, those close together counted once.
    tries: u32,
}

impl Run {
    fn new(now: Instant) -> Self {
        Self { since: now, last: now, tries: 1 }
    }

    fn more(self, now: Instant) -> Self {
        match now.saturating_duration_since(self.last) {
            pause if pause > PAUSE => Self::new(now),
            pause if pause < TOGETHER => self,
            _ => Self { last: now, tries: self.tries + 1, ..self },
        }
    }
}

#[derive(Debug, Default)]
struct Target {
    ways: Vec<Way>,
    /// Candidates that refused, and until when they are passed over.
    passed: Vec<(NodeId, Instant)>,
    /// When the candidates were asked for.
    told: Option<Instant>,
    chosen: Option<NodeId>,
    /// When it was chosen.
    since: Option<Instant>,
    why: Why,
    sent: Option<Instant>,
    /// When somebody wanted to know how it is reached.
    asked: Option<Instant>,
    unanswered: Option<Run>,
    /// By whom the other end was heard last, and when; and since when only by that one.
    heard: Option<(NodeId, Instant, Instant)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Choices {
    own: NodeId,
    targets: BTreeMap<NodeId, Target>,
    number: u64,
}

impl Choices {
    /// For the node `own`. Numbers of probes count up from `first_number`, which should be drawn.
    #[must_use]
    pub fn new(own: NodeId, first_number: u64) -> Self {
        Self { own, targets: BTreeMap::new(), number: first_number }
    }

    /// Takes in what happened; gives what is to be done.
    pub fn step(&mut self, now: Instant, input: Input<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let about = match input {
            Input::Candidates { target, .. }
            | Input::Asked { target }
            | Input::Sent { target }
            | Input::Heard { target, .. }
            | Input::Echoed { target, .. }
            | Input::Refused { target, .. } => target,
            Input::Gone { .. } | Input::Tick => {
                self.take_for_all(now, input);
                for (node, target) in &mut self.targets {
                    target.decide(now, (*node, self.own < *node), &mut self.number, &mut actions);
                }
                return actions;
            }
        };
        self.take(now, input);
        if let Some(target) = self.targets.get_mut(&about) {
            target.decide(now, (about, self.own < about), &mut self.number, &mut actions);
        }
        actions
    }

    fn take(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Candidates { target, relays } => {
                if let Some(target) = self.target(target) {
                    target.set_candidates(now, relays);
                }
            }
            Input::Asked { target } => {
                if let Some(target) = self.target(target) {
                    target.asked = Some(now);
                }
            }
            Input::Sent { target } => {
                if let Some(target) = self.target(target) {
                    target.sent = Some(now);
                    target.unanswered = Some(target.unanswered.map_or_else(|| Run::new(now), |run| run.more(now)));
                }
            }
            Input::Heard { target, relay } => {
                let leads = self.own < target;
                if let Some(target) = self.target(target) {
                    target.hear(now, relay, leads);
                }
            }
            Input::Echoed { target, relay, number } => {
                if let Some(way) = self.targets.get_mut(&target).and_then(|target| target.way(&relay)) {
                    way.echoed(now, number);
                }
            }
            Input::Refused { target, relay, refusal } => {
                if let Some(target) = self.targets.get_mut(&target) {
                    target.refused(now, relay, refusal);
                }
            }
            Input::Gone { .. } | Input::Tick => {}
        }
    }

    fn take_for_all(&mut self, now: Instant, input: Input<'_>) {
        let lately = |at: Instant| now.saturating_duration_since(at) < FORGOTTEN;
        match input {
            Input::Gone { relay } => self.targets.values_mut().for_each(|target| target.gone(now, relay)),
            _ => self.targets.retain(|_, target| target.last_active().is_some_and(lately)),
        }
    }

    fn target(&mut self, node: NodeId) -> Option<&mut Target> {
        if self.targets.len() >= TARGETS_MAX && !self.targets.contains_key(&node) {
            return None;
        }
        (node != self.own).then(|| self.targets.entry(node).or_default())
    }

    /// By whom to send to a target now: the one that is used, or a few while none is measured. Empty if there is no way.
    #[must_use]
    pub fn ways(&self, now: Instant, target: &NodeId) -> Vec<NodeId> {
        let Some(target) = self.targets.get(target) else { return Vec::new() };
        match target.chosen {
            Some(relay) => {
                // Another is asked along before the silence is certain: QUIC sends less and less often, and each try that may get through counts.
                let patience = SUSPECT.max(target.patience(&relay));
                let suspect = target.unanswered_for(now).is_some_and(|time| time >= patience);
                let other = if suspect { target.best(now, Some(relay)) } else { None };
                std::iter::once(relay).chain(other.map(|way| way.relay)).collect()
            }
            None => {
                let open = target.ways.iter().filter(|way| !way.is_refused(now));
                open.take(UNMEASURED_AT_ONCE).map(|way| way.relay).collect()
            }
        }
    }

    /// The relay that is used for a target.
    #[must_use]
    pub fn chosen(&self, target: &NodeId) -> Option<NodeId> {
        self.targets.get(target)?.chosen
    }

    /// Whether the relay said that its way to the target does not carry frames as large as ours does to it.
    #[must_use]
    pub fn is_narrow(&self, target: &NodeId, relay: &NodeId) -> bool {
        let way = self.targets.get(target).and_then(|target| target.ways.iter().find(|way| way.relay == *relay));
        way.is_some_and(|way| way.narrow)
    }

    /// Whether anything is measured at the moment, so that [`Input::Tick`] is wanted.
    #[must_use]
    pub fn is_active(&self, now: Instant) -> bool {
        self.targets.values().any(|target| target.is_active(now))
    }

    /// The candidates of a target as they stand, and why the one is used that is.
    #[must_use]
    pub fn report(&self, now: Instant, target: &NodeId) -> Option<(Vec<WayReport>, Why)> {
        let target = self.targets.get(target)?;
        let report = |way: &Way| way.report(now, target.chosen == Some(way.relay));
        Some((target.ways.iter().map(report).collect(), target.why))
    }
}

impl Target {
    fn way(&mut self, relay: &NodeId) -> Option<&mut Way> {
        self.ways.iter_mut().find(|way| way.relay == *relay)
    }

    fn last_active(&self) -> Option<Instant> {
        self.sent.max(self.asked).max(self.heard.map(|(_, at, _)| at))
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_active().is_some_and(|at| now.saturating_duration_since(at) < ACTIVE)
    }

    fn decide(&mut self, now: Instant, (node, leads): (NodeId, bool), number: &mut u64, actions: &mut Vec<Action>) {
        if !self.is_active(now) {
            return;
        }
        let pause = if self.ways.is_empty() { CANDIDATES_FIRST } else { CANDIDATES_EVERY };
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= pause) {
            self.told = Some(now);
            actions.push(Action::Candidates { target: node });
        }
        self.leave_silence(now);
        self.choose(now, leads);
        for way in &mut self.ways {
            let used = self.chosen.is_none_or(|chosen| chosen == way.relay);
            if way.wants_probe(now, used) {
                *number = number.wrapping_add(1);
                way.probed(now, *number);
                actions.push(Action::Probe { target: node, relay: way.relay, number: *number });
            }
        }
    }

    fn set_candidates(&mut self, now: Instant, relays: &[NodeId]) {
        // The one in use stays until it cannot be reached.
        let chosen = self.chosen;
        self.ways.retain(|way| relays.contains(&way.relay) || chosen == Some(way.relay));
        self.passed.retain(|(_, until)| now < *until);
        if relays.len() > RELAYS_MAX {
            // Those that refuse make room for those that were not asked yet.
            let refusing: Vec<Way> = self.ways.extract_if(.., |way| way.is_refused(now)).collect();
            self.passed.extend(refusing.iter().map(|way| (way.relay, now + PASSED)));
            self.passed.truncate(PASSED_MAX);
        }
        let known = |relay: &NodeId| {
            let passed = self.passed.iter().any(|(passed, _)| passed == relay);
            passed || self.ways.iter().any(|way| way.relay == *relay)
        };
        let room = RELAYS_MAX.saturating_sub(self.ways.len()).min(NEW_AT_ONCE);
        let new: Vec<NodeId> = relays.iter().filter(|relay| !known(relay)).take(room).copied().collect();
        self.ways.extend(new.into_iter().map(|relay| Way::new(relay, now)));
    }

    fn hear(&mut self, now: Instant, relay: NodeId, leads: bool) {
        self.unanswered = None;
        let since = match self.heard {
            Some((by, _, since)) if by == relay => since,
            _ => now,
        };
        self.heard = Some((relay, now, since));
        if !self.ways.iter().any(|way| way.relay == relay) {
            // It carries to us, so it will carry from us; there is always room for the way by which one is reached.
            self.ways.truncate(RELAYS_MAX - 1);
            self.ways.push(Way::new(relay, now));
            self.chosen = self.chosen.filter(|chosen| self.ways.iter().any(|way| way.relay == *chosen));
        }
        let Some(way) = self.way(&relay) else { return };
        way.alive(now);
        let patience =
            self.chosen.and_then(|chosen| self.way(&chosen)).map_or(Duration::ZERO, |way| way.patience() / 2);
        // What still comes by the one before says nothing.
        let since = since.max(self.since.unwrap_or(since));
        let yields = !leads || now.saturating_duration_since(since) >= YIELDS.max(patience);
        if self.chosen == Some(relay) || self.chosen.is_some() && !yields {
            return;
        }
        self.why = Why::Followed;
        if leads && let Some(silent) = self.chosen.and_then(|chosen| self.way(&chosen)) {
            silent.leave(now, LEFT);
            self.why = Why::Silent(silent.relay);
        }
        (self.chosen, self.since) = (Some(relay), Some(now));
    }

    fn refused(&mut self, now: Instant, relay: NodeId, refusal: Refusal) {
        let Some(way) = self.way(&relay) else { return };
        way.refused(now, refusal);
        if way.is_refused(now) && self.chosen == Some(relay) {
            (self.chosen, self.why) = (None, Why::Refused(relay));
        }
    }

    fn gone(&mut self, now: Instant, relay: NodeId) {
        let Some(way) = self.way(&relay) else { return };
        way.leave(now, LEFT);
        if self.chosen == Some(relay) {
            (self.chosen, self.why) = (None, Why::Gone(relay));
        }
    }

    fn leave_silence(&mut self, now: Instant) {
        let unanswered = self.unanswered_for(now);
        let sending = self.sent.is_some_and(|at| now.saturating_duration_since(at) < SILENCE);
        let Some(chosen) = self.chosen else { return };
        let Some(way) = self.way(&chosen) else { return };
        let patience = SILENCE.max(way.patience());
        if unanswered.is_some_and(|for_so_long| for_so_long >= patience) || sending && way.is_silent(now, patience) {
            way.leave(now, LEFT);
            (self.chosen, self.why) = (None, Why::Silent(chosen));
            // The next one has as long.
            self.unanswered = None;
        }
    }

    /// For how long something was sent and nothing came, if that is more than chance.
    fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        let run = self.unanswered.filter(|run| run.tries >= TRIES)?;
        Some(now.saturating_duration_since(run.since))
    }

    fn patience(&self, relay: &NodeId) -> Duration {
        self.ways.iter().find(|way| way.relay == *relay).map_or(Duration::ZERO, Way::patience)
    }

    /// The best that was measured, but for one.
    fn best(&self, now: Instant, but: Option<NodeId>) -> Option<&Way> {
        let measured = self.ways.iter().filter(|way| way.smoothed.is_some() && but != Some(way.relay));
        measured.filter(|way| !way.is_refused(now)).min_by(|one, other| {
            // Of those that were left, the one that was left first: so all get their turn.
            let key = |way: &Way| if way.is_left(now) { way.left_until } else { None };
            key(one).cmp(&key(other)).then(one.score().total_cmp(&other.score()))
        })
    }

    fn choose(&mut self, now: Instant, leads: bool) {
        // Until it is left: then this end chooses for itself.
        if !leads && self.chosen.is_some() && self.why == Why::Followed {
            return;
        }
        let Some(best) = self.best(now, None) else { return };
        let Some(chosen) = self.chosen else {
            let why =
                if matches!(self.why, Why::Unmeasured | Why::Least | Why::Followed) { Why::Least } else { self.why };
            (self.chosen, self.why, self.since) = (Some(best.relay), why, Some(now));
            return;
        };
        let Some(used) = self.ways.iter().find(|way| way.relay == chosen) else { return };
        if best.relay == chosen || best.is_left(now) || used.smoothed.is_none() {
            return;
        }
        let (best_score, used_score) = (best.score(), used.score());
        if used.is_left(now)
            || best_score * BETTER_BY <= used_score && best_score + BETTER_AT_LEAST.as_secs_f64() <= used_score
        {
            (self.chosen, self.why, self.since) = (Some(best.relay), Why::Least, Some(now));
        }
    }
}

#[cfg(test)]
mod tests;
