//! Addresses from which a handshake was begun and not gone on with: what is sent there may not arrive.
//!
//! A node that dials tries all addresses of another at once, and QUIC answers the one that the first packet came from. If nothing sent to that one arrives, the
//! handshake dies, although another would do. So when a handshake from an address hangs or died, the next one from there is left unanswered at first: the copy of its first packet that came by
//! another way is answered, or its repetition after a second from where it was. Nobody is shut out by that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A handshake that is not done by then hangs: QUIC has repeated its packets once.
const HANGS: Duration = Duration::from_millis(1500);

/// How long an address is remembered for which a handshake died.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How long others have to be answered instead: copies of a first packet come within milliseconds, repetitions after a second.
const OTHERS_FIRST: Duration = Duration::from_millis(500);

/// What comes from an address that was just passed over, within this time, is a repetition: they follow after one second and after two more.
const REPEATED: Duration = Duration::from_secs(4);

/// How long nothing from an address is answered once another way was seen to be answered instead: several attempts of somebody who is in a hurry.
const PROVED: Duration = Duration::from_secs(10);

/// Addresses that are remembered at once. When there are more, nobody is suspected: what is lost is a remedy for something rare.
const SUSPECTS_MAX: usize = 256;

#[derive(Debug)]
struct Suspect {
    /// Since when a handshake is going on or was.
    since: Instant,
    /// When one died there.
    died: Option<Instant>,
    /// When one was left unanswered.
    passed_over: Option<Instant>,
    /// When another way was answered instead.
    proved: Option<Instant>,
}

impl Suspect {
    fn new(since: Instant) -> Self {
        Self { since, died: None, passed_over: None, proved: None }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    suspects: BTreeMap<SocketAddr, Suspect>,
}

impl Suspects {
    /// Whether a handshake from an address is to be left unanswered. If not, it has begun.
    pub(crate) fn passes_over(&mut self, now: Instant, from: SocketAddr) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.retain(|_, suspect| since(suspect.died.unwrap_or(suspect.since)) < REMEMBERED);
        }
        let Some(suspect) = self.suspects.get_mut(&from) else {
            if self.suspects.len() < SUSPECTS_MAX {
                self.suspects.insert(from, Suspect::new(now));
            }
            return false;
        };
        if suspect.proved.is_some_and(|at| since(at) < PROVED) {
            return true;
        }
        match suspect.died {
            Some(at) if since(at) >= REMEMBERED => {
                *suspect = Suspect::new(now);
                return false;
            }
            None if since(suspect.since) < HANGS => return false,
            _ => {}
        }
        match suspect.passed_over {
            // The others had their chance.
            Some(at) if (OTHERS_FIRST..REPEATED).contains(&since(at)) => {
                *suspect = Suspect::new(now);
                false
            }
            Some(at) if since(at) < OTHERS_FIRST => true,
            _ => {
                suspect.passed_over = Some(now);
                true
            }
        }
    }

    /// A handshake by a relay went well: if one was passed over right before, it is most likely the same, and its own way is the one that loses answers.
    pub(crate) fn relayed(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < OTHERS_FIRST;
        for suspect in self.suspects.values_mut().filter(|suspect| suspect.passed_over.is_some_and(lately)) {
            suspect.proved = Some(now);
        }
    }

    /// A handshake ended.
    pub(crate) fn ended(&mut self, now: Instant, from: SocketAddr, well: bool) {
        if well {
            self.suspects.remove(&from);
        } else if let Some(suspect) = self.suspects.get_mut(&from) {
            // What fails at once fails for a reason that the other end hears.
            if now.saturating_duration_since(suspect.since) < HANGS {
                self.suspects.remove(&from);
            } else {
                suspect.died = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn another_way_is_answered_when_one_hangs() {
        let (mut suspects, began) = (Suspects::default(), Instant::now());
        let (bad, good) = (at("10.1.0.1:5000"), at("10.2.0.1:5000"));
        let later = |ms| began + Duration::from_millis(ms);
        assert!(!suspects.passes_over(began, bad));
        assert!(!suspects.passes_over(later(1000), bad), "it does not hang yet");
        assert!(suspects.passes_over(later(5000), bad), "now it does");
        assert!(suspects.passes_over(later(5010), bad));
        assert!(!suspects.passes_over(later(5001), good), "the copy by another way is answered");
        suspects.ended(later(5100), good, true);
        suspects.ended(later(10_000), bad, false);
        assert!(suspects.passes_over(later(20_000), bad), "it died");
        assert!(!suspects.passes_over(later(100_000), bad), "long ago");
    }

    /// Several protocols begin with a node at once, each with a handshake of its own.
    #[test]
    fn what_came_by_a_relay_instead_goes_on_coming_by_it() {
        let (mut suspects, began) = (Suspects::default(), Instant::now());
        let only = at("10.1.0.1:5000");
        let later = |ms| began + Duration::from_millis(ms);
        assert!(!suspects.passes_over(began, only));
        assert!(suspects.passes_over(later(2000), only));
        suspects.relayed(later(2020));
        assert!(suspects.passes_over(later(5000), only), "another handshake, and no repetition");
        suspects.relayed(later(9000));
        assert!(suspects.passes_over(later(15_000), only));
        assert!(!suspects.passes_over(later(16_000), only), "only what was passed over lately is proved by it");
    }

    #[test]
    fn nobody_is_shut_out() {
        let (mut suspects, began) = (Suspects::default(), Instant::now());
        let only = at("10.1.0.1:5000");
        let later = |ms| began + Duration::from_millis(ms);
        assert!(!suspects.passes_over(began, only));
        suspects.ended(later(5000), only, false);
        assert!(suspects.passes_over(later(6000), only));
        assert!(!suspects.passes_over(later(7000), only), "the repetition after a second is answered");
        suspects.ended(later(7050), only, true);
        assert!(!suspects.passes_over(later(8000), only));
    }

    #[test]
    fn who_is_refused_at_once_is_no_suspect_and_memory_is_bounded() {
        let (mut suspects, began) = (Suspects::default(), Instant::now());
        let only = at("10.1.0.1:5000");
        assert!(!suspects.passes_over(began, only));
        suspects.ended(began + Duration::from_millis(20), only, false);
        assert!(!suspects.passes_over(began + Duration::from_secs(5), only));
        for port in 1..2000 {
            assert!(!suspects.passes_over(began, SocketAddr::new(only.ip(), port)));
        }
        assert!(suspects.suspects.len() <= SUSPECTS_MAX);
    }
}
