//! TCP conversations that stand from before the interface was raised. A node that starts again knows nothing of what its programs have open, while their sockets live on and
//! may be waiting for a peer that has something to say; what it says is let in as the answer that it is.
//!
//! Taken as such is what the kernel says is established from an address of ours to a peer's, from a port that programs get which do not ask for one, and on which
//! nothing listens: so it was begun here. It counts only if it may still be begun, and is good for one time.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::filter::EPHEMERAL_FIRST;

/// Where the kernel lists the sockets of a process's network namespace (proc(5), `/proc/net/tcp6`).
const LIST: &str = "/proc/self/net/tcp6";

/// Conversations kept at most.
const STANDING_MAX: usize = 65_536;

/// Linux gives up after some 15 minutes without an answer (tcp(7), `tcp_retries2`).
const STANDS_FOR: Duration = Duration::from_secs(15 * 60);

/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2` and `TCP_CLOSE_WAIT`: something may still be heard. (`include/net/tcp_states.h`)
const HEARING: [u8; 4] = [1, 4, 5, 8];

/// `TCP_LISTEN`.
const LISTENING: u8 = 10;

/// Our port, their address and port.
type Conversation = (u16, Ipv6Addr, u16);

/// What stands, until it is heard of again.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    conversations: HashSet<Conversation>,
    until: Option<Instant>,
}

impl Standing {
    /// What the kernel says of sockets at this address.
    pub(crate) fn look(own: Ipv6Addr) -> Self {
        match std::fs::read_to_string(LIST) {
            Ok(list) => Self::read(own, &list, Instant::now()),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not list its sockets");
                Self::default()
            }
        }
    }

    pub(crate) fn read(own: Ipv6Addr, list: &str, now: Instant) -> Self {
        let sockets: Vec<Socket> = list.lines().skip(1).filter_map(Socket::read).collect();
        let listening: HashSet<u16> =
            sockets.iter().filter(|socket| socket.state == LISTENING).map(|socket| socket.ours.1).collect();
        let stands = |socket: &&Socket| {
            socket.ours.0 == own
                && HEARING.contains(&socket.state)
                && socket.ours.1 >= EPHEMERAL_FIRST
                && !listening.contains(&socket.ours.1)
        };
        let of = |socket: &Socket| (socket.ours.1, socket.theirs.0, socket.theirs.1);
        let conversations = sockets.iter().filter(stands).take(STANDING_MAX).map(of).collect();
        Self { conversations, until: Some(now + STANDS_FOR) }
    }

    pub(crate) fn has(&self, ours: u16, their_address: Ipv6Addr, theirs: u16) -> bool {
        !self.conversations.is_empty() && self.conversations.contains(&(ours, their_address, theirs))
    }

    /// It is followed from now on, as all others.
    pub(crate) fn take(&mut self, ours: u16, their_address: Ipv6Addr, theirs: u16) {
        self.conversations.remove(&(ours, their_address, theirs));
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
    }
}

struct Socket {
    ours: (Ipv6Addr, u16),
    theirs: (Ipv6Addr, u16),
    state: u8,
}

impl Socket {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        let mut next = || words.next();
        let (ours, theirs, state) = (next()?, next()?, next()?);
        Some(Self { ours: end(ours)?, theirs: end(theirs)?, state: u8::from_str_radix(state, 16).ok()? })
    }
}

/// An address as four words of the machine's own byte order, and a port.
fn end(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    if address.len() != 32 || !address.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (word, at) in bytes.chunks_mut(4).zip((0..32).step_by(8)) {
        word.copy_from_slice(&u32::from_str_radix(&address[at..at + 8], 16).ok()?.to_ne_bytes());
    }
    Some((bytes.into(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn own() -> Ipv6Addr {
        "600::1".parse().unwrap()
    }

    fn peer() -> Ipv6Addr {
        "6ab:cd00::2".parse().unwrap()
    }

    fn hex(address: Ipv6Addr, port: u16) -> String {
        let words = address.octets();
        let words = words.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        format!("{}:{port:04X}", words.map(|word| format!("{word:08X}")).collect::<String>())
    }

    fn list(sockets: &[(Ipv6Addr, u16, Ipv6Addr, u16, u8)]) -> String {
        let line = |(at, &(ours, port, theirs, their_port, state)): (usize, &(Ipv6Addr, u16, Ipv6Addr, u16, u8))| {
            format!(
                "   {at}: {} {} {state:02X} 00000000:00000000 00:00000000\n",
                hex(ours, port),
                hex(theirs, their_port)
            )
        };
        format!("  sl  local_address remote_address st\n{}", sockets.iter().enumerate().map(line).collect::<String>())
    }

    #[test]
    fn what_stands_was_begun_here() {
        let none = Ipv6Addr::UNSPECIFIED;
        for (what, sockets, stands) in [
            ("established", vec![(own(), 40_000, peer(), 80, 1)], true),
            ("half closed by us", vec![(own(), 40_000, peer(), 80, 5)], true),
            ("being opened", vec![(own(), 40_000, peer(), 80, 2)], false),
            ("over", vec![(own(), 40_000, peer(), 80, 6)], false),
            ("of another address", vec![(peer(), 40_000, peer(), 80, 1)], false),
            ("with another", vec![(own(), 40_000, own(), 80, 1)], false),
            ("accepted", vec![(none, 40_000, none, 0, 10), (own(), 40_000, peer(), 80, 1)], false),
            ("from a service's port", vec![(own(), 8080, peer(), 80, 1)], false),
        ] {
            let standing = Standing::read(own(), &list(&sockets), Instant::now());
            assert_eq!(standing.has(sockets.last().unwrap().1, peer(), 80), stands, "{what}");
        }
    }

    #[test]
    fn it_is_good_for_one_time_and_a_while() {
        let now = Instant::now();
        let mut standing =
            Standing::read(own(), &list(&[(own(), 40_000, peer(), 80, 1), (own(), 40_001, peer(), 80, 1)]), now);
        standing.take(40_000, peer(), 80);
        standing.sweep(now + STANDS_FOR / 2);
        assert!(!standing.has(40_000, peer(), 80) && standing.has(40_001, peer(), 80));
        standing.sweep(now + STANDS_FOR);
        assert!(!standing.has(40_001, peer(), 80));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        for text in
            ["", "\n", "x\ny", "h\n 0: 1:2 3:4 01", "h\n 0: 0000000000000000000000000000000g:1F90 x 01", "h\n é"]
        {
            assert!(Standing::read(own(), text, Instant::now()).conversations.is_empty(), "{text:?}");
        }
    }
}
