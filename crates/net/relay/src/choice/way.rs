//! One candidate: what was measured of it.

use std::time::{Duration, Instant};

use atoll_ids::NodeId;

use crate::frame::Refusal;

/// How often the relay in use is probed, and one that was not measured yet for the first times.
const PROBE_USED: Duration = Duration::from_secs(2);

/// How often the others are.
const PROBE_OTHER: Duration = Duration::from_secs(10);

/// The pause after the first unanswered probe of one that was never measured; doubled with each.
const PROBE_FIRST: Duration = Duration::from_millis(400);

/// A probe is lost after four round trips, but not before this.
const LOST_AFTER: Duration = Duration::from_millis(700);

/// How much a new measurement counts (RFC 6298 for TCP: an eighth).
const WEIGHT: f64 = 0.125;

/// A refusal counts for this long: the target may connect to the relay, the owner may change the setting.
const REFUSED: Duration = Duration::from_secs(10);

/// Having no budget left is soon over.
const REFUSED_BUDGET: Duration = Duration::from_millis(500);

/// How a candidate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayState {
    /// Not answered yet.
    Unmeasured,
    /// Answers.
    Answers,
    /// Left because it was silent or could not be reached.
    Left,
    /// Refuses.
    Refuses(Refusal),
}

/// What there is to see of a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WayReport {
    /// The relay.
    pub relay: NodeId,
    /// Whether it is used.
    pub used: bool,
    /// The smoothed round trip through it to the far end and back.
    pub round_trip: Option<Duration>,
    /// The smoothed part of probes that were lost, 0 to 1.
    pub loss: f64,
    /// How long ago it gave a sign of life.
    pub silent: Option<Duration>,
    /// How it stands.
    pub state: WayState,
}

#[derive(Debug)]
pub(super) struct Way {
    pub(super) relay: NodeId,
    pub(super) smoothed: Option<Duration>,
    pub(super) narrow: bool,
    loss: f64,
    probe: Option<(u64, Instant)>,
    /// Probes since the last answer.
    unanswered: u32,
    /// Since when nothing came although something was asked.
    quiet_since: Option<Instant>,
    next_probe: Instant,
    last_life: Option<Instant>,
    pub(super) left_until: Option<Instant>,
    refusal: Option<(Refusal, Instant)>,
}

impl Way {
    pub(super) fn new(relay: NodeId, now: Instant) -> Self {
        Self {
            relay,
            smoothed: None,
            narrow: false,
            loss: 0.0,
            probe: None,
            unanswered: 0,
            quiet_since: None,
            next_probe: now,
            last_life: None,
            left_until: None,
            refusal: None,
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.smoothed.map_or(Duration::ZERO, |smoothed| smoothed * 4)
    }

    pub(super) fn wants_probe(&mut self, now: Instant, used: bool) -> bool {
        if let Some((_, at)) = self.probe {
            if now.saturating_duration_since(at) < LOST_AFTER.max(self.patience()) {
                return false;
            }
            self.probe = None;
            self.loss += (1.0 - self.loss) * WEIGHT;
            self.unanswered += 1;
        }
        // When it comes into use, the long pause of the others does not hold any more.
        if used && self.smoothed.is_some() {
            self.next_probe = self.next_probe.min(now + PROBE_USED);
        }
        now >= self.next_probe && !self.is_refused(now)
    }

    pub(super) fn probed(&mut self, now: Instant, number: u64) {
        self.probe = Some((number, now));
        self.quiet_since.get_or_insert(now);
        let growing = PROBE_FIRST * 2u32.saturating_pow(self.unanswered.min(6));
        self.next_probe =
            now + if self.unanswered == 0 && self.smoothed.is_some() { PROBE_OTHER } else { growing.min(PROBE_OTHER) };
    }

    pub(super) fn echoed(&mut self, now: Instant, number: u64) {
        let Some((asked, at)) = self.probe.filter(|(asked, _)| *asked == number) else { return };
        debug_assert_eq!(asked, number);
        let sample = now.saturating_duration_since(at);
        self.smoothed = Some(match self.smoothed {
            None => sample,
            Some(smoothed) => smoothed.mul_f64(1.0 - WEIGHT) + sample.mul_f64(WEIGHT),
        });
        self.loss -= self.loss * WEIGHT;
        (self.probe, self.unanswered, self.refusal) = (None, 0, None);
        self.next_probe = now + PROBE_OTHER;
        self.alive(now);
    }

    pub(super) fn alive(&mut self, now: Instant) {
        (self.last_life, self.quiet_since) = (Some(now), None);
    }

    /// Whether it was asked and nothing came for this long.
    pub(super) fn is_silent(&self, now: Instant, patience: Duration) -> bool {
        self.quiet_since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
    }

    pub(super) fn leave(&mut self, now: Instant, time: Duration) {
        (self.left_until, self.quiet_since, self.probe) = (Some(now + time), None, None);
        self.next_probe = now + PROBE_FIRST;
    }

    pub(super) fn is_left(&self, now: Instant) -> bool {
        self.left_until.is_some_and(|until| now < until)
    }

    pub(super) fn refused(&mut self, now: Instant, refusal: Refusal) {
        if refusal == Refusal::TooLarge {
            self.narrow = true;
            return;
        }
        // It lives, and says so.
        self.alive(now);
        self.probe = None;
        if refusal != Refusal::Budget {
            self.smoothed = None;
        }
        let time = if refusal == Refusal::Budget { REFUSED_BUDGET } else { REFUSED };
        self.refusal = Some((refusal, now + time));
        self.next_probe = now + time;
    }

    /// Whether it would refuse again. One that is merely out of budget is still the way.
    pub(super) fn is_refused(&self, now: Instant) -> bool {
        self.refusal.is_some_and(|(refusal, until)| refusal != Refusal::Budget && now < until)
    }

    /// What is to be least, in seconds: the round trip, and once more for what is lost on it.
    pub(super) fn score(&self) -> f64 {
        self.smoothed.map_or(f64::INFINITY, |smoothed| smoothed.as_secs_f64() * (1.0 + 2.0 * self.loss))
    }

    pub(super) fn report(&self, now: Instant, used: bool) -> WayReport {
        let state = match self.refusal {
            Some((refusal, until)) if now < until => WayState::Refuses(refusal),
            _ if self.is_left(now) => WayState::Left,
            _ if self.smoothed.is_some() => WayState::Answers,
            _ => WayState::Unmeasured,
        };
        WayReport {
            relay: self.relay,
            used,
            round_trip: self.smoothed,
            loss: self.loss,
            silent: self.last_life.map(|at| now.saturating_duration_since(at)),
            state,
        }
    }
}
