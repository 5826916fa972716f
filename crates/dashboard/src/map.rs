//! The map of a node's peers: itself in the middle, the others around it, the nearer the shorter their round trip. An owner's machines stand side by side.

use std::f64::consts::TAU;

use atoll_control::{NodeStatus, PeerStatus};
use maud::{Markup, html};

/// Width and height in units of the drawing; the browser scales it.
const SIZE: (f64, f64) = (720.0, 460.0);

/// Where the nearest and the farthest peers are drawn, in units from the middle.
const RADIUS: (f64, f64) = (70.0, 190.0);

/// Round trips that these stand for, in milliseconds: a machine beside this one, and the other side of the planet.
const ROUND_TRIP_MS: (f64, f64) = (0.1, 300.0);

/// More than these cannot be told apart; the nearest are drawn.
const PEERS_MAX: usize = 64;

/// A longer name would run into the next.
const NAME_CHARS_MAX: usize = 16;

/// A peer and where it is drawn.
struct Spot<'a> {
    peer: &'a PeerStatus,
    x: f64,
    y: f64,
}

/// The drawing, or nothing where there is nobody.
pub(crate) fn map(node: &NodeStatus) -> Markup {
    let spots = spots(&node.peers);
    let (middle_x, middle_y) = middle();
    let name = node.name.clone().unwrap_or_else(|| node.node.short().to_string());
    html! {
        @if !spots.is_empty() {
            svg viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img" aria-label="this node and its peers, by round trip" style="width:100%;max-width:52rem" {
                @for spot in &spots {
                    line x1=(middle_x) y1=(middle_y) x2=(tenths(spot.x)) y2=(tenths(spot.y))
                        stroke=(if spot.peer.reachable { "var(--good)" } else { "var(--bad)" })
                        stroke-width=(if spot.peer.reachable { "1.5" } else { "1" })
                        stroke-dasharray=[(!spot.peer.reachable).then_some("3 4")] {}
                }
                circle cx=(middle_x) cy=(middle_y) r="10" fill="currentColor" {}
                (label(middle_x, middle_y, &name))
                @for spot in &spots {
                    circle cx=(tenths(spot.x)) cy=(tenths(spot.y)) r="8" fill=(colour(spot.peer)) opacity=(if spot.peer.reachable { "1" } else { "0.4" }) {
                        title { (told(spot.peer)) }
                    }
                    (label(spot.x, spot.y, &name_of(spot.peer)))
                }
            }
            @if node.peers.len() > spots.len() {
                p.empty { "The nearest " (spots.len()) " of " (node.peers.len()) " peers." }
            }
        }
    }
}

fn middle() -> (f64, f64) {
    (SIZE.0 / 2.0, SIZE.1 / 2.0)
}

fn spots(peers: &[PeerStatus]) -> Vec<Spot<'_>> {
    let distance = |peer: &PeerStatus| if peer.reachable { peer.rtt_ms.unwrap_or(ROUND_TRIP_MS.1) } else { f64::MAX };
    let mut drawn: Vec<&PeerStatus> = peers.iter().collect();
    drawn.sort_by(|one, other| distance(one).total_cmp(&distance(other)));
    drawn.truncate(PEERS_MAX);
    // The order does not follow the round trips: what is looked at should not jump.
    drawn.sort_by_key(|peer| (peer.owner, peer.node));
    let (middle_x, middle_y) = middle();
    let place = |(index, peer): (usize, &'_ PeerStatus)| {
        #[expect(clippy::cast_precision_loss, reason = "at most PEERS_MAX")]
        let angle = TAU * index as f64 / drawn.len() as f64 - TAU / 4.0;
        let radius = radius(peer);
        // The drawing is wider than high.
        (middle_x + radius * 1.5 * angle.cos(), middle_y + radius * angle.sin())
    };
    let placed = drawn.iter().copied().enumerate().map(|it| (it.1, place(it)));
    placed.map(|(peer, (x, y))| Spot { peer, x, y }).collect()
}

/// Logarithmic: a millisecond matters among neighbours and not across an ocean. Those that are silent are farthest.
fn radius(peer: &PeerStatus) -> f64 {
    let Some(round_trip) = peer.rtt_ms.filter(|_| peer.reachable) else { return RADIUS.1 };
    let (least, most) = (ROUND_TRIP_MS.0.ln(), ROUND_TRIP_MS.1.ln());
    let share = (round_trip.clamp(ROUND_TRIP_MS.0, ROUND_TRIP_MS.1).ln() - least) / (most - least);
    RADIUS.0 + share * (RADIUS.1 - RADIUS.0)
}

/// One for each owner; grey where nobody has proven to be it.
fn colour(peer: &PeerStatus) -> String {
    match &peer.owner {
        Some(owner) => {
            let [one, other, ..] = *owner.as_bytes();
            format!("hsl({} 60% 50%)", u32::from(u16::from_be_bytes([one, other])) * 360 / 65_536)
        }
        None => "#888".to_owned(),
    }
}

fn name_of(peer: &PeerStatus) -> String {
    let name = peer.name.clone().unwrap_or_else(|| peer.node.short().to_string());
    if name.chars().count() <= NAME_CHARS_MAX {
        return name;
    }
    name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect()
}

fn told(peer: &PeerStatus) -> String {
    let state = match (peer.reachable, peer.rtt_ms) {
        (true, Some(round_trip)) => format!("{round_trip:.1} ms"),
        (true, None) => "answers".to_owned(),
        (false, _) => "silent".to_owned(),
    };
    format!("{} · {} · {state}", name_of(peer), peer.node.planetary_address().ip())
}

fn label(x: f64, y: f64, name: &str) -> Markup {
    html! { text x=(tenths(x)) y=(tenths(y + 22.0)) text-anchor="middle" font-size="12" fill="currentColor" { (name) } }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use atoll_ids::{NodeId, OwnerId};

    use super::*;

    fn peer(number: u8, rtt_ms: Option<f64>) -> PeerStatus {
        PeerStatus {
            node: NodeId::from_bytes([number; 32]),
            owner: Some(OwnerId::from_bytes([number % 3; 32])),
            name: Some(format!("peer {number}")),
            reachable: rtt_ms.is_some(),
            rtt_ms,
            last_seen_seconds: None,
            storage: None,
            gateway: None,
            addresses: Vec::new(),
        }
    }

    #[test]
    fn nearer_is_drawn_nearer_and_silent_farthest() {
        let at = |rtt| radius(&peer(1, rtt));
        assert!(at(Some(0.05)) <= at(Some(1.0)) && at(Some(1.0)) < at(Some(30.0)) && at(Some(30.0)) < at(Some(900.0)));
        assert!((at(None) - RADIUS.1).abs() < 1e-9 && (at(Some(0.01)) - RADIUS.0).abs() < 1e-9);
    }

    #[test]
    fn everything_is_inside_the_drawing_and_nobody_stands_on_another() {
        for count in [1, 2, 7, 64, 200] {
            let peers: Vec<PeerStatus> = (0..count).map(|number| peer(number, Some(f64::from(number)))).collect();
            let spots = spots(&peers);
            assert_eq!(spots.len(), usize::from(count).min(PEERS_MAX));
            for (index, spot) in spots.iter().enumerate() {
                assert!((0.0..SIZE.0).contains(&spot.x) && (0.0..SIZE.1 - 20.0).contains(&spot.y), "{count}");
                assert!(spots[..index].iter().all(|other| (other.x - spot.x).hypot(other.y - spot.y) > 5.0), "{count}");
            }
        }
    }

    #[test]
    fn long_names_are_cut() {
        let long = PeerStatus { name: Some("a".repeat(60)), ..peer(1, None) };
        assert_eq!(name_of(&long).chars().count(), NAME_CHARS_MAX);
    }
}
