//! Questions about what would be let through: this node's answer, and that of the node at the other end about its side.
//!
//! Protocol `atoll/check/1`: a peer asks whether it could begin something with this node, or this node with it, and is told yes or no and by which rule. It is told
//! about itself alone, and nothing that it could not find out by trying; it does not get to see other rules. How often a peer may ask is limited, and
//! `network.check = off` answers nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_link::{BoxStream, LinkHandle, StreamHandler, Traffic};
use atoll_tun::{Direction, Probe, Rule};
use atoll_wire::Versioned;
use atoll_wire::exchange::{self, Terms};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::network::NetworkHandle;

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "atoll/check/1";

/// An answer is a rule and a word.
const TERMS: Terms = Terms { frame_bytes_max: 1024, within: Duration::from_secs(5) };

/// What a person asks in a minute, by hand or by a script that looks at a few ports.
const QUESTIONS_PER_MINUTE: u32 = 60;

/// Peers whose questions are counted at once. More ask at once only to be a nuisance: then nobody new is answered for the rest of the minute.
const ASKERS_MAX: usize = 1024;

/// The longest text of another node that is shown.
const TEXT_CHARS_MAX: usize = 300;

/// What is asked, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Whether this node would begin it with the asking one, rather than the other way.
    outward: bool,
    what: SentProbe,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum SentProbe {
    Tcp(u16),
    Udp(u16),
    Icmp,
}

impl Versioned for Question {
    const VERSION: u16 = 1;
    const NAME: &'static str = "check question";
}

/// What is answered, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It passes; by this rule, if it takes one.
    Passes(Option<String>),
    /// It does not, for this reason.
    Refused(String),
    /// The node does not say.
    Declined(String),
}

impl Versioned for Answer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "check answer";
}

impl Answer {
    /// Nothing that disturbs a terminal or a page.
    fn printable(self) -> Self {
        let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
        match self {
            Self::Passes(rule) => Self::Passes(rule.map(plain)),
            Self::Refused(reason) => Self::Refused(plain(reason)),
            Self::Declined(reason) => Self::Declined(plain(reason)),
        }
    }
}

impl Question {
    /// Asks whether the other node would begin this with us (`outward`), or whether we could with it.
    #[must_use]
    pub fn new(outward: bool, probe: Probe) -> Self {
        let what = match probe {
            Probe::Tcp(port) => SentProbe::Tcp(port),
            Probe::Udp(port) => SentProbe::Udp(port),
            Probe::Icmp => SentProbe::Icmp,
        };
        Self { outward, what }
    }

    fn probe(&self) -> Probe {
        match self.what {
            SentProbe::Tcp(port) => Probe::Tcp(port),
            SentProbe::Udp(port) => Probe::Udp(port),
            SentProbe::Icmp => Probe::Icmp,
        }
    }
}

/// Asks a peer about its side.
pub(crate) async fn ask(link: &LinkHandle, peer: NodeId, outward: bool, probe: Probe) -> Answer {
    let asked = async {
        let stream = link.open(peer, PROTOCOL, Traffic::Control).await.map_err(|error| error.to_string())?;
        exchange::ask(stream, &Question::new(outward, probe), TERMS).await.map_err(|error| error.to_string())
    };
    asked.await.map_or_else(|why_not| Answer::Declined(format!("it cannot be asked: {why_not}")), Answer::printable)
}

/// Answers peers' questions.
pub(crate) struct CheckHandler {
    network: NetworkHandle,
    asked: Arc<Mutex<Asked>>,
}

impl CheckHandler {
    pub(crate) fn new(network: NetworkHandle) -> Self {
        Self { network, asked: Arc::default() }
    }
}

impl StreamHandler for CheckHandler {
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        let (network, asked) = (self.network.clone(), self.asked.clone());
        async move {
            let respond = |question: Question| {
                let may = asked.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), peer);
                std::future::ready(if may {
                    answer(&network, peer, &question)
                } else {
                    Answer::Declined("asked too often; ask again in a minute".to_owned())
                })
            };
            if let Err(error) = exchange::hear(stream, TERMS, respond).await {
                tracing::debug!(peer = %peer.short(), %error, "a question about the filter was not answered");
            }
        }
        .boxed()
    }
}

fn answer(network: &NetworkHandle, peer: NodeId, question: &Question) -> Answer {
    if !network.answers() {
        return Answer::Declined("it does not answer such questions (network.check)".to_owned());
    }
    let direction = if question.outward { Direction::Out } else { Direction::In };
    let (explanation, rules) = match network.check(direction, peer, question.probe()) {
        Ok(said) => said,
        Err(why_not) => return Answer::Refused(format!("it has no interface: {why_not}")),
    };
    match explanation.verdict {
        Ok(cause) => {
            let rule = cause.rule().and_then(|at| rules.into_iter().nth(at));
            // What it is for is nobody else's.
            Answer::Passes(rule.map(|(rule, _)| Rule { note: None, ..rule }.to_string()))
        }
        Err(reason) => Answer::Refused(reason.word().to_owned()),
    }
}

/// How often each peer asked in this minute.
#[derive(Debug, Default)]
struct Asked {
    since: Option<Instant>,
    counts: HashMap<NodeId, u32>,
}

impl Asked {
    fn take(&mut self, now: Instant, peer: NodeId) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(60)) {
            (self.since, self.counts) = (Some(now), HashMap::new());
        }
        if self.counts.len() >= ASKERS_MAX && !self.counts.contains_key(&peer) {
            return false;
        }
        let count = self.counts.entry(peer).or_default();
        *count += 1;
        *count <= QUESTIONS_PER_MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_asks_too_often() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let (one, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let answered = (0..2 * QUESTIONS_PER_MINUTE).filter(|_| asked.take(now, one)).count();
        assert_eq!(answered, QUESTIONS_PER_MINUTE as usize);
        assert!(asked.take(now, other));
        assert!(asked.take(now + Duration::from_secs(60), one));
    }

    #[test]
    fn those_who_are_counted_are_limited() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let node = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        let answered = (0..2 * ASKERS_MAX).filter(|number| asked.take(now, node(*number))).count();
        assert_eq!((answered, asked.counts.len()), (ASKERS_MAX, ASKERS_MAX));
    }

    #[test]
    fn what_others_say_is_cut_and_plain() {
        let answer = Answer::Refused(format!("\u{1b}[2J{}", "a".repeat(1000))).printable();
        let Answer::Refused(text) = answer else { panic!("it was a refusal") };
        assert!(text.chars().count() == TEXT_CHARS_MAX && text.starts_with("[2J"), "{text}");
    }
}
