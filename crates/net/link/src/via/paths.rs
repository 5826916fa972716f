//! The paths to a peer, as a person wants to see them.

use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{WayReport, WayState, Why};
use iroh::TransportAddr;
use tokio::time::sleep;

use crate::address::is_dialable;
use crate::link::LinkHandle;
use crate::node::Node;
use crate::peers::Path;
use crate::via::{RelayCounts, lock};

/// How long relays get to answer a probe before it is shown what they did: those of the same continent do.
const MEASURING: Duration = Duration::from_millis(600);

/// One way to a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The way.
    pub path: Path,
    /// Whether packets take it now.
    pub used: bool,
    /// The smoothed round trip to the peer and back.
    pub round_trip: Option<Duration>,
    /// The part of packets (of probes, for relays) that were lost, 0 to 1.
    pub loss: Option<f64>,
    /// How long ago there was a sign of life, where that is known.
    pub silent: Option<Duration>,
    /// How it stands.
    pub state: String,
}

/// All ways to a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Paths {
    /// Direct ones, then relays.
    pub candidates: Vec<Candidate>,
    /// Why the one is used that is, or why none.
    pub why: String,
}

impl LinkHandle {
    /// The ways to a peer; relays are measured first, which takes a moment. `None` if it is not known.
    pub async fn paths(&self, peer: NodeId) -> Option<Paths> {
        self.node.book.record(&peer)?;
        if self.node.via.reach.has_relay_to(&self.node.book, &peer) {
            self.node.measure_relays(peer);
            sleep(MEASURING).await;
        }
        self.node.paths(&peer)
    }

    /// The relay by which a peer was reached when it was joined, if that is no peer of this node: it carries nothing beyond the joining.
    pub fn joined_through(&self, peer: &NodeId) -> Option<NodeId> {
        let (book, relay) = (&self.node.book, self.node.via.relay_to(peer)?);
        (relay != *peer && !book.knows(&relay) && !book.is_direct(peer)).then_some(relay)
    }

    /// What was relayed since the start, for others and by others.
    pub fn relay_counts(&self) -> RelayCounts {
        self.node.via.counts()
    }
}

impl Node {
    fn paths(&self, peer: &NodeId) -> Option<Paths> {
        let record = self.book.record(peer)?;
        let mut candidates = self.open_paths(peer);
        let relayed = self.is_relayed(peer);
        if relayed {
            for candidate in candidates.iter_mut().filter(|candidate| matches!(candidate.path, Path::Direct(_))) {
                (candidate.used, candidate.state) = (false, "silent".to_owned());
            }
        }
        let by_relay =
            relayed || candidates.iter().any(|candidate| candidate.used && matches!(candidate.path, Path::Via(_)));
        let direct = candidates.iter().any(|candidate| candidate.used && !matches!(candidate.path, Path::Via(_)));
        candidates.retain(|candidate| !matches!(candidate.path, Path::Via(_)));
        for address in record.quic.iter().filter(|address| is_dialable(address)) {
            if !candidates.iter().any(|candidate| candidate.path == Path::Direct(*address)) {
                let state = if direct { "not needed" } else { "does not answer" };
                candidates.push(closed(Path::Direct(*address), state));
            }
        }
        let report = lock(&self.via.choices).report(Instant::now(), peer);
        let (relays, reason) = report.unwrap_or_default();
        candidates.extend(relays.iter().map(|relay| candidate(relay, by_relay)));
        let why = match (direct, by_relay) {
            (true, _) => "a direct path works, and is preferred to any relay".to_owned(),
            (false, true) => format!("no direct path answers; {}", words(reason)),
            (false, false) if relays.is_empty() => {
                "not connected, and no peer could relay: join a node that both ends reach".to_owned()
            }
            (false, false) => "not connected".to_owned(),
        };
        Some(Paths { candidates, why })
    }

    /// The paths of the connections to a peer, each once.
    fn open_paths(&self, peer: &NodeId) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for connection in self.book.present_on(peer) {
            for path in connection.paths().iter() {
                let way = match path.remote_addr() {
                    TransportAddr::Ip(address) => Path::Direct(*address),
                    TransportAddr::Relay(url) => Path::Relay(url.to_string()),
                    _ => Path::Via(self.via.relay_to(peer)),
                };
                let stats = path.stats();
                #[expect(clippy::cast_precision_loss, reason = "a part of packets")]
                let loss = stats.lost_packets as f64 / stats.sent_packets.max(1) as f64;
                let used = path.is_selected();
                match candidates.iter_mut().find(|candidate| candidate.path == way) {
                    Some(candidate) => candidate.used |= used,
                    None => candidates.push(Candidate {
                        path: way,
                        used,
                        round_trip: Some(path.rtt()),
                        loss: Some(loss),
                        silent: None,
                        state: if used { "in use" } else { "open" }.to_owned(),
                    }),
                }
            }
        }
        candidates
    }
}

fn closed(path: Path, state: &str) -> Candidate {
    Candidate { path, used: false, round_trip: None, loss: None, silent: None, state: state.to_owned() }
}

fn candidate(relay: &WayReport, by_relay: bool) -> Candidate {
    let used = relay.used && by_relay;
    let state = match relay.state {
        _ if used => "in use".to_owned(),
        WayState::Unmeasured => "does not answer".to_owned(),
        WayState::Answers => "answers".to_owned(),
        WayState::Left => "left: silent or gone".to_owned(),
        WayState::Refuses(refusal) => format!("refuses: {refusal}"),
    };
    let (path, measured) = (Path::Via(Some(relay.relay)), relay.round_trip.is_some());
    Candidate {
        path,
        used,
        round_trip: relay.round_trip,
        loss: measured.then_some(relay.loss),
        silent: relay.silent,
        state,
    }
}

fn words(why: Why) -> String {
    match why {
        Why::Unmeasured => "relays are being measured".to_owned(),
        Why::Least => "of the relays that answer, this one has the least round trip".to_owned(),
        Why::Followed => "the other end uses this relay".to_owned(),
        Why::Silent(relay) => format!("relay {} went silent before", relay.short()),
        Why::Refused(relay) => format!("relay {} refused before", relay.short()),
        Why::Gone(relay) => format!("relay {} could not be reached any more before", relay.short()),
    }
}
