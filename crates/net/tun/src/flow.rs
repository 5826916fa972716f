//! Conversations that this node takes part in, so that their answers are let in.
//!
//! A table with limits and timeouts and without a clock of its own: the time is handed in. Only what leaves this node makes an entry, so nobody outside can
//! fill the table but by being answered, and nobody can take more than a share of it.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::packet::TcpFlags;

/// Conversations at once, at some 150 bytes each.
pub const FLOWS_MAX: usize = 65_536;

/// Conversations with one address at once: nobody pushes the others' out.
pub const FLOWS_PER_REMOTE_MAX: usize = FLOWS_MAX / 4;

/// Entries looked at to find one that may go when the table is full.
const SAMPLE: usize = 16;

/// A TCP connection that nobody answered: longer than a SYN is repeated on a path that works.
const TCP_OPENING: Duration = Duration::from_secs(60);

/// A TCP connection that is silent (RFC 5382: not below 2 hours 4 minutes).
const TCP_OPEN: Duration = Duration::from_secs(7440);

/// A TCP connection that one side ended: the last segments are still under way.
const TCP_CLOSING: Duration = Duration::from_secs(60);

/// UDP without an answer.
const UDP_ASKED: Duration = Duration::from_secs(60);

/// UDP in both directions (RFC 4787: not below 2 minutes).
const UDP_ANSWERED: Duration = Duration::from_secs(180);

/// An echo request and its replies.
const ECHO: Duration = Duration::from_secs(60);

/// What a conversation is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) remote: Ipv6Addr,
    /// Our port, or the id of the echo.
    pub(crate) ours: u16,
    /// Theirs; 0 for an echo.
    pub(crate) theirs: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    Answered,
    Closing,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    state: State,
    seen: Instant,
}

impl Flow {
    fn ends(&self, protocol: Protocol) -> Instant {
        let stays = match (protocol, self.state) {
            (Protocol::Tcp, State::Asked) => TCP_OPENING,
            (Protocol::Tcp, State::Answered) => TCP_OPEN,
            (Protocol::Tcp, State::Closing) => TCP_CLOSING,
            (Protocol::Udp, State::Asked) => UDP_ASKED,
            (Protocol::Udp, _) => UDP_ANSWERED,
            (Protocol::Echo, _) => ECHO,
        };
        self.seen + stays
    }
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    flows: HashMap<Key, Flow>,
    per_remote: HashMap<Ipv6Addr, usize>,
    swept: Option<Instant>,
}

impl Flows {
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Notes what leaves this node.
    pub(crate) fn sent(&mut self, now: Instant, key: Key, flags: Option<TcpFlags>) {
        if flags.is_some_and(|flags| flags.resets) {
            // It ends a conversation, or says that there is none.
            if let Some(flow) = self.flows.get_mut(&key) {
                (flow.state, flow.seen) = (State::Closing, now);
            }
            return;
        }
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.seen = now;
            match flags {
                Some(flags) if flags.finishes => flow.state = State::Closing,
                Some(flags) if flags.opens => flow.state = State::Asked,
                _ => {}
            }
            return;
        }
        if self.make_room(now, key.remote) {
            self.flows.insert(key, Flow { state: State::Asked, seen: now });
            *self.per_remote.entry(key.remote).or_default() += 1;
        }
    }

    /// Whether something that arrived belongs to a conversation; if so, that goes on.
    pub(crate) fn answers(&mut self, now: Instant, key: Key, flags: Option<TcpFlags>) -> bool {
        let Some(flow) = self.flows.get_mut(&key).filter(|flow| now < flow.ends(key.protocol)) else { return false };
        if flags.is_some_and(|flags| flags.opens) {
            // Nobody answers by opening; two that open to each other from the same ports at the same time are for a rule to allow.
            return false;
        }
        flow.seen = now;
        match (flags, flow.state) {
            (Some(flags), _) if flags.finishes || flags.resets => flow.state = State::Closing,
            (_, State::Asked) => flow.state = State::Answered,
            _ => {}
        }
        true
    }

    /// Whether there is such a conversation.
    pub(crate) fn has(&self, now: Instant, key: Key) -> bool {
        self.flows.get(&key).is_some_and(|flow| now < flow.ends(key.protocol))
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        let per_remote = &mut self.per_remote;
        self.flows.retain(|key, flow| {
            let stays = now < flow.ends(key.protocol);
            if !stays {
                uncount(per_remote, key.remote);
            }
            stays
        });
    }

    fn make_room(&mut self, now: Instant, remote: Ipv6Addr) -> bool {
        let is_over_share =
            |flows: &Self| flows.per_remote.get(&remote).is_some_and(|count| *count >= FLOWS_PER_REMOTE_MAX);
        let swept_lately = self.swept.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_secs(1));
        if (self.flows.len() >= FLOWS_MAX || is_over_share(self)) && !swept_lately {
            self.sweep(now);
        }
        if is_over_share(self) {
            return false;
        }
        if self.flows.len() >= FLOWS_MAX {
            // The one of some that would end first.
            let sample = self.flows.iter().take(SAMPLE).min_by_key(|(key, flow)| flow.ends(key.protocol));
            if let Some(key) = sample.map(|(key, _)| *key) {
                self.flows.remove(&key);
                uncount(&mut self.per_remote, key.remote);
            }
        }
        true
    }
}

fn uncount(per_remote: &mut HashMap<Ipv6Addr, usize>, remote: Ipv6Addr) {
    if let Some(count) = per_remote.get_mut(&remote) {
        *count -= 1;
        if *count == 0 {
            per_remote.remove(&remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(remote: u128, ours: u16) -> Key {
        Key { protocol: Protocol::Udp, remote: Ipv6Addr::from(remote), ours, theirs: 53 }
    }

    #[test]
    fn a_conversation_ends_when_it_is_silent() {
        let (mut flows, start) = (Flows::default(), Instant::now());
        flows.sent(start, key(1, 1), None);
        assert!(!flows.answers(start + UDP_ASKED, key(1, 1), None));
        assert!(flows.answers(start + UDP_ASKED / 2, key(1, 1), None));
        // Answered, it stays longer.
        assert!(flows.has(start + UDP_ASKED / 2 + UDP_ASKED * 2, key(1, 1)));
        assert!(!flows.has(start + UDP_ASKED / 2 + UDP_ANSWERED, key(1, 1)));
        flows.sweep(start + UDP_ASKED / 2 + UDP_ANSWERED);
        assert_eq!((flows.len(), flows.per_remote.len()), (0, 0));
    }

    #[test]
    fn an_ended_connection_is_forgotten_soon() {
        let (mut flows, start) = (Flows::default(), Instant::now());
        let key = Key { protocol: Protocol::Tcp, ..key(1, 1) };
        let (mut opens, mut finishes) = (TcpFlags { opens: true, finishes: false, resets: false }, None);
        flows.sent(start, key, Some(opens));
        opens.opens = false;
        assert!(flows.answers(start, key, Some(opens)));
        assert!(flows.has(start + TCP_OPEN / 2, key));
        finishes.replace(TcpFlags { finishes: true, ..opens });
        assert!(flows.answers(start, key, finishes));
        assert!(!flows.has(start + TCP_CLOSING, key));
    }

    #[test]
    fn nobody_takes_more_than_a_share() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for port in 0..u16::MAX {
            flows.sent(now, key(1, port), None);
        }
        assert_eq!(flows.len(), FLOWS_PER_REMOTE_MAX);
        for remote in 2..6 {
            for port in 0..u16::MAX {
                flows.sent(now, key(remote, port), None);
            }
        }
        assert_eq!(flows.len(), FLOWS_MAX);
        flows.sent(now, key(9, 9), None);
        assert!(flows.has(now, key(9, 9)));
        assert_eq!(flows.per_remote.values().sum::<usize>(), FLOWS_MAX);
    }
}
