//! What the rules come to for one peer in one direction: for every port, until when and by which rule. Looked up for every packet.
//!
//! Rules overlap; here no two spans do. Of several rules for a port the one that holds longest counts, so that nothing has to be made anew when one runs out:
//! those that end earlier are over by then as well.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Instant;

use crate::rule::{Ports, What};

/// What a packet is about, as far as rules tell things apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Tcp(u16),
    Udp(u16),
    Echo,
    Other,
}

impl What {
    /// Whether this allows that.
    pub(crate) fn covers(self, topic: Topic) -> bool {
        match (self, topic) {
            (Self::Everything, _) | (Self::Icmp, Topic::Echo) => true,
            (Self::Tcp(ports), Topic::Tcp(port)) | (Self::Udp(ports), Topic::Udp(port)) => ports.contains(port),
            _ => false,
        }
    }
}

/// Something that a rule allows. `until` is `None` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    /// The rule's place in the policy.
    pub(crate) rule: u32,
    pub(crate) what: What,
    pub(crate) until: Option<Instant>,
}

impl Line {
    fn outlasts(&self, other: &Self) -> bool {
        match (self.until, other.until) {
            (Some(one), Some(other)) => one > other,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    first: u16,
    last: u16,
    line: Line,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans {
    tcp: Vec<Span>,
    udp: Vec<Span>,
    echo: Option<Line>,
    other: Option<Line>,
}

impl Spans {
    pub(crate) fn new(lines: &[Line]) -> Self {
        let best = |topic| {
            let covering = lines.iter().filter(|line| line.what.covers(topic));
            covering.copied().reduce(|best, line| if line.outlasts(&best) { line } else { best })
        };
        Self {
            tcp: spans(lines, |what| match what {
                What::Everything => Some(Ports::ALL),
                What::Tcp(ports) => Some(ports),
                _ => None,
            }),
            udp: spans(lines, |what| match what {
                What::Everything => Some(Ports::ALL),
                What::Udp(ports) => Some(ports),
                _ => None,
            }),
            echo: best(Topic::Echo),
            other: best(Topic::Other),
        }
    }

    /// The rule that allows this now.
    pub(crate) fn find(&self, now: Instant, topic: Topic) -> Option<u32> {
        let line = match topic {
            Topic::Tcp(port) => at(&self.tcp, port),
            Topic::Udp(port) => at(&self.udp, port),
            Topic::Echo => self.echo,
            Topic::Other => self.other,
        };
        line.filter(|line| line.until.is_none_or(|until| now < until)).map(|line| line.rule)
    }
}

fn at(spans: &[Span], port: u16) -> Option<Line> {
    let span = spans.get(spans.partition_point(|span| span.last < port))?;
    (span.first <= port).then_some(span.line)
}

/// Between two ports at which some rule begins or ends, the same holds for all. One pass over them, with the rules that are open at each.
fn spans(lines: &[Line], ports_of: impl Fn(What) -> Option<Ports>) -> Vec<Span> {
    let mut ranges: Vec<(Ports, &Line)> =
        lines.iter().filter_map(|line| ports_of(line.what).map(|ports| (ports, line))).collect();
    ranges.sort_by_key(|(ports, _)| ports.first);
    let ends = ranges.iter().filter_map(|(ports, _)| ports.last.checked_add(1));
    let firsts: BTreeSet<u16> = ranges.iter().map(|(ports, _)| ports.first).chain(ends).collect();
    let (mut open, mut coming) = (BinaryHeap::new(), ranges.iter().enumerate().peekable());
    let mut spans: Vec<Span> = Vec::new();
    let mut firsts = firsts.into_iter().peekable();
    while let Some(first) = firsts.next() {
        let last = firsts.peek().map_or(u16::MAX, |next| next - 1);
        while let Some((at, (_, line))) = coming.next_if(|(_, (ports, _))| ports.first <= first) {
            open.push((line.until.is_none(), line.until, Reverse(line.rule), at));
        }
        while open.peek().is_some_and(|(.., at)| ranges[*at].0.last < first) {
            open.pop();
        }
        let Some(line) = open.peek().map(|(.., at)| *ranges[*at].1) else { continue };
        match spans.last_mut() {
            Some(before) if before.line.rule == line.rule && before.last.checked_add(1) == Some(first) => {
                before.last = last;
            }
            _ => spans.push(Span { first, last, line }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn what_overlaps_is_cut_apart() {
        let line = |rule, first, last| Line { rule, what: What::Tcp(Ports { first, last }), until: None };
        let spans = Spans::new(&[line(0, 10, 20), line(1, 15, 30), line(2, 0, 65_535)]);
        let now = Instant::now();
        let at = |port| spans.find(now, Topic::Tcp(port));
        assert_eq!([9, 10, 20, 21, 30, 31, 65_535].map(at), [2, 0, 0, 1, 1, 2, 2].map(Some));
        assert_eq!(spans.find(now, Topic::Udp(10)), None);
        assert_eq!(spans.tcp.len(), 4);
    }

    proptest! {
        /// The same as going through the rules one by one.
        #[test]
        fn spans_say_what_the_rules_say(
            rules in proptest::collection::vec((0u8..4, 0u16..12, 0u16..4, proptest::option::of(0u64..20)), 0..12),
            kind in 0u8..4,
            port in 0u16..18,
            seconds in 0u64..25,
        ) {
            let start = Instant::now();
            let line = |(rule, (kind, first, more, until)): (usize, &(u8, u16, u16, Option<u64>))| {
                // Some at the upper end, where adding one must not overflow.
                let ports = Ports { first: if *first > 9 { 65_530 + (first - 9) } else { *first }, last: if *first > 9 { 65_535 } else { first + more } };
                let what = [What::Everything, What::Icmp, What::Tcp(ports), What::Udp(ports)][usize::from(*kind)];
                Line { rule: rule as u32, what, until: until.map(|until| start + Duration::from_secs(until)) }
            };
            let lines: Vec<Line> = rules.iter().enumerate().map(line).collect();
            let port = if port > 11 { 65_535 - (port - 12) } else { port };
            let topic = [Topic::Tcp(port), Topic::Udp(port), Topic::Echo, Topic::Other][usize::from(kind)];
            let now = start + Duration::from_secs(seconds);
            let holds = |line: &&Line| line.what.covers(topic) && line.until.is_none_or(|until| now < until);
            let found = Spans::new(&lines).find(now, topic);
            prop_assert_eq!(found.is_some(), lines.iter().any(|line| holds(&line)));
            if let Some(rule) = found {
                prop_assert_eq!(lines.iter().filter(holds).any(|line| line.rule == rule), true);
            }
        }

        #[test]
        fn any_ports_are_cut_apart(ports in proptest::collection::vec(any::<(u16, u16)>(), 0..20), port: u16) {
            let line = |(rule, (one, other)): (usize, &(u16, u16))| {
                let what = What::Udp(Ports { first: *one.min(other), last: *one.max(other) });
                Line { rule: rule as u32, what, until: None }
            };
            let lines: Vec<Line> = ports.iter().enumerate().map(line).collect();
            let found = Spans::new(&lines).find(Instant::now(), Topic::Udp(port));
            prop_assert_eq!(found, lines.iter().find(|line| line.what.covers(Topic::Udp(port))).map(|line| line.rule));
        }
    }
}
