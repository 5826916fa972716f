//! How well each node answers, and what follows from it: how long to wait before asking another, and whom not to ask first.
//!
//! A pure core: time is handed in, nothing is sent from here. The drivers report what they saw; [`Tracker::due_probes`] names the
//! suspects that are worth another try, and the engine asks those aside from any read or write, so that a node that hangs costs
//! the one delay at which it is noticed and not one per stripe.
//!
//! Slow and silent are kept apart. A node that has answered *something* since a late request was sent is busy: its average
//! rises and with it the patience for it. A node from which nothing at all came is suspect: it is asked last until it answers a probe.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;

/// Share of a new sample in the moving average: an eighth, as TCP's round-trip estimate (RFC 6298).
const SAMPLE_SHARE: f64 = 0.125;
/// A node is never given up on before this multiple of its own average, whatever the cap: across an ocean every answer takes longer than a cap
/// that suits a local network.
const PATIENCE_MIN: f64 = 1.5;
/// First pause before a suspect is probed: a process that was merely restarted is back by then.
const PROBE_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest pause between probes: a node that returns is used again within this time.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(15);
/// How long a node that refused a shard (full, over quota) is asked last for further ones: sending it a quarter of each stripe in vain would cost
/// as much as storing it.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);

/// When to stop waiting for one node alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeRule {
    /// Never sooner than this.
    pub floor: Duration,
    /// Never later than this, unless the node is known to take longer.
    pub cap: Duration,
    /// Otherwise at this multiple of the node's average.
    pub factor: f64,
    /// The average assumed of a node that has not answered yet.
    pub assumed: Duration,
}

impl HedgeRule {
    fn delay(&self, average: Option<Duration>) -> Duration {
        let usual = average.unwrap_or(self.assumed).mul_f64(self.factor).clamp(self.floor, self.cap.max(self.floor));
        usual.max(average.unwrap_or_default().mul_f64(PATIENCE_MIN))
    }
}

/// Which latency is meant: a put includes a flush to the medium, a get does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
}

#[derive(Default)]
struct Node {
    put: Option<Duration>,
    get: Option<Duration>,
    heard: Option<Instant>,
    suspect: Option<Suspicion>,
    refused: Option<Instant>,
}

struct Suspicion {
    probe_at: Instant,
    pause: Duration,
}

/// What is known of every node.
pub(crate) struct Tracker {
    put: HedgeRule,
    get: HedgeRule,
    nodes: HashMap<NodeId, Node>,
}

impl Tracker {
    pub(crate) fn new(put: HedgeRule, get: HedgeRule) -> Self {
        Self { put, get, nodes: HashMap::new() }
    }

    /// The node answered, well or badly, after `took`.
    pub(crate) fn answered(&mut self, node: NodeId, operation: Operation, took: Duration, now: Instant) {
        let node = self.nodes.entry(node).or_default();
        node.heard = Some(now);
        node.suspect = None;
        node.sample(operation, took);
    }

    /// A probe was answered: the node lives.
    pub(crate) fn alive(&mut self, node: NodeId, now: Instant) {
        let node = self.nodes.entry(node).or_default();
        node.heard = Some(now);
        node.suspect = None;
    }

    /// The node could not be reached, broke off, or did not answer to the end of all patience.
    pub(crate) fn no_answer(&mut self, node: NodeId, now: Instant) {
        self.nodes.entry(node).or_default().suspect(now);
    }

    /// The node has not answered a request sent at `sent`. Whether it is suspect now.
    pub(crate) fn late(&mut self, node: NodeId, operation: Operation, sent: Instant, now: Instant) -> bool {
        let node = self.nodes.entry(node).or_default();
        if node.heard.is_some_and(|heard| heard > sent) {
            node.sample(operation, now.saturating_duration_since(sent));
        } else {
            node.suspect(now);
        }
        node.suspect.is_some()
    }

    /// Whether the node answered anything within the last `span`.
    pub(crate) fn heard_within(&self, node: NodeId, span: Duration, now: Instant) -> bool {
        let heard = self.nodes.get(&node).and_then(|node| node.heard);
        heard.is_some_and(|heard| now.saturating_duration_since(heard) < span)
    }

    /// How long to wait for this node before another is asked as well.
    pub(crate) fn hedge_after(&self, node: NodeId, operation: Operation) -> Duration {
        let rule = match operation {
            Operation::Put => self.put,
            Operation::Get => self.get,
        };
        rule.delay(self.average(node, operation))
    }

    /// The node's average, if it ever answered.
    pub(crate) fn average(&self, node: NodeId, operation: Operation) -> Option<Duration> {
        let node = self.nodes.get(&node)?;
        match operation {
            Operation::Put => node.put,
            Operation::Get => node.get,
        }
    }

    /// Whether the node is believed not to answer.
    pub(crate) fn is_suspect(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.suspect.is_some())
    }

    /// The node answered that it does not take shards.
    pub(crate) fn refused(&mut self, node: NodeId, now: Instant) {
        self.nodes.entry(node).or_default().refused = Some(now);
    }

    /// Whether the node is believed not to take a shard now.
    pub(crate) fn is_unwilling(&self, node: NodeId, now: Instant) -> bool {
        let Some(node) = self.nodes.get(&node) else { return false };
        let refused = node.refused.is_some_and(|refused| now.saturating_duration_since(refused) < REFUSAL_PAUSE);
        refused || node.suspect.is_some()
    }

    /// Suspects whose next probe is due; each is then not due again before its pause, which doubles.
    pub(crate) fn due_probes(&mut self, now: Instant) -> Vec<NodeId> {
        let mut due = Vec::new();
        for (&id, node) in &mut self.nodes {
            if let Some(suspect) = node.suspect.as_mut().filter(|suspect| suspect.probe_at <= now) {
                suspect.pause = (suspect.pause * 2).min(PROBE_PAUSE_MAX);
                suspect.probe_at = now + suspect.pause;
                due.push(id);
            }
        }
        due
    }

    /// Forgets nodes that `keep` does not want, so that the table does not grow with every node ever seen.
    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|&id, _| keep(id));
    }

    /// Nodes in the table.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}

impl Node {
    fn sample(&mut self, operation: Operation, took: Duration) {
        let average = match operation {
            Operation::Put => &mut self.put,
            Operation::Get => &mut self.get,
        };
        *average = Some(match *average {
            None => took,
            Some(old) => old.mul_f64(1.0 - SAMPLE_SHARE) + took.mul_f64(SAMPLE_SHARE),
        });
    }

    fn suspect(&mut self, now: Instant) {
        self.suspect.get_or_insert(Suspicion { probe_at: now + PROBE_PAUSE_FIRST, pause: PROBE_PAUSE_FIRST });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tracker() -> Tracker {
        let put = HedgeRule { floor: 250 * MS, cap: 2000 * MS, factor: 4.0, assumed: 125 * MS };
        let get = HedgeRule { floor: 10 * MS, cap: 50 * MS, factor: 3.0, assumed: 50 * MS };
        Tracker::new(put, get)
    }

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    #[test]
    fn patience_follows_the_average_within_its_bounds() {
        #[track_caller]
        fn check(operation: Operation, took_ms: &[u32], expect_ms: u32) {
            let mut tracker = tracker();
            let now = Instant::now();
            for &took in took_ms {
                tracker.answered(node(1), operation, took * MS, now);
            }
            assert_eq!(tracker.hedge_after(node(1), operation).as_millis(), u128::from(expect_ms));
        }
        check(Operation::Get, &[], 50);
        check(Operation::Get, &[1], 10);
        check(Operation::Get, &[5], 15);
        check(Operation::Get, &[30], 50);
        check(Operation::Get, &[400], 600);
        check(Operation::Put, &[], 500);
        check(Operation::Put, &[1], 250);
        check(Operation::Put, &[100], 400);
        check(Operation::Put, &[100, 900], 800);
        check(Operation::Put, &[1000], 2000);
        check(Operation::Put, &[4000], 6000);
    }

    #[test]
    fn silence_makes_a_suspect_and_slowness_does_not() {
        let mut tracker = tracker();
        let start = Instant::now();
        tracker.answered(node(1), Operation::Get, MS, start);
        assert!(!tracker.late(node(1), Operation::Get, start - 20 * MS, start + 20 * MS), "answered since: slow");
        assert!(tracker.average(node(1), Operation::Get) > Some(MS));
        assert!(tracker.late(node(1), Operation::Get, start + 30 * MS, start + 60 * MS), "nothing heard since: silent");
        assert!(tracker.is_suspect(node(1)));
        assert!(tracker.heard_within(node(1), 61 * MS, start + 60 * MS));
        assert!(!tracker.heard_within(node(1), 60 * MS, start + 60 * MS) && !tracker.heard_within(node(2), MS, start));
        assert!(tracker.late(node(2), Operation::Put, start, start + MS), "never heard of");
        tracker.answered(node(1), Operation::Get, MS, start + 70 * MS);
        assert!(!tracker.is_suspect(node(1)), "an answer clears it");
    }

    #[test]
    fn a_refusal_is_remembered_for_writing_and_for_a_while() {
        let mut tracker = tracker();
        let start = Instant::now();
        tracker.refused(node(1), start);
        assert!(tracker.is_unwilling(node(1), start + 9000 * MS) && !tracker.is_suspect(node(1)));
        assert!(!tracker.is_unwilling(node(1), start + 11_000 * MS));
    }

    #[test]
    fn suspects_are_probed_ever_more_rarely() {
        let mut tracker = tracker();
        let start = Instant::now();
        tracker.no_answer(node(1), start);
        tracker.no_answer(node(1), start + 500 * MS);
        let mut probes = Vec::new();
        for second in 0..60u32 {
            if !tracker.due_probes(start + second * 1000 * MS).is_empty() {
                probes.push(second);
            }
        }
        assert_eq!(probes, [1, 3, 7, 15, 30, 45]);
        tracker.alive(node(1), start);
        assert!(tracker.due_probes(start + 100_000 * MS).is_empty());
        tracker.retain(|_| false);
        assert_eq!(tracker.len(), 0);
    }
}
