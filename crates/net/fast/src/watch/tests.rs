//! The watch on paths that work, break, move, and are lied about.

use super::*;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 7))
}

/// A path on which some addresses answer at once, and the time.
struct World {
    watch: Watch,
    now: Instant,
    answering: Vec<SocketAddr>,
    probed: Vec<SocketAddr>,
}

impl World {
    fn aimed_at(address: SocketAddr, answering: &[SocketAddr]) -> Self {
        let mut watch = Watch::default();
        watch.aim(Some(address));
        Self { watch, now: Instant::now(), answering: answering.to_vec(), probed: Vec::new() }
    }

    /// Lets time pass, doing what the watch says when it says so.
    fn pass(&mut self, time: Duration, busy: bool) {
        let end = self.now + time;
        loop {
            let step = self.watch.step(self.now, busy);
            assert!(step.again > self.now, "it would be asked for ever");
            for probe in step.probes {
                self.probed.push(probe.to);
                if self.answering.contains(&probe.to) {
                    self.watch.answered(probe.number);
                }
            }
            // An answer may have changed when to ask.
            let again = self.watch.step(self.now, busy).again;
            if again > end {
                self.now = end;
                return;
            }
            self.now = again;
        }
    }
}

#[test]
fn an_address_is_used_once_it_answers() {
    let mut world = World::aimed_at(at(1), &[]);
    world.pass(Duration::from_secs(1), true);
    assert_eq!(world.watch.target(), None);
    assert!(world.probed.len() >= 3, "{:?}", world.probed);
    world.answering = vec![at(1)];
    world.pass(PAUSE_MAX, true);
    assert_eq!(world.watch.target(), Some(at(1)));
}

#[test]
fn silence_is_noticed_within_a_second_while_packets_flow() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(5), true);
    assert_eq!(world.watch.target(), Some(at(1)));
    world.answering.clear();
    world.pass(SILENCE + OFTEN, true);
    assert_eq!(world.watch.target(), None);
    // And it is found again when it is there again.
    world.answering = vec![at(1)];
    world.pass(PAUSE_MAX, false);
    assert_eq!(world.watch.target(), Some(at(1)));
}

#[test]
fn what_does_not_flow_is_asked_about_seldom() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_millis(1), false);
    world.probed.clear();
    world.pass(Duration::from_secs(65), false);
    assert!((5..=7).contains(&world.probed.len()), "{} probes", world.probed.len());
    world.probed.clear();
    world.watch.aim(None);
    world.pass(Duration::from_millis(100), true);
    assert_eq!(world.probed.len(), 1, "packets after a pause are watched at once");
}

#[test]
fn what_does_not_answer_is_asked_ever_more_seldom() {
    let mut world = World::aimed_at(at(1), &[]);
    world.pass(Duration::from_secs(120), true);
    assert!((15..30).contains(&world.probed.len()), "{} probes", world.probed.len());
}

#[test]
fn it_moves_where_the_connection_moves_if_that_answers() {
    let mut world = World::aimed_at(at(1), &[at(1), at(2)]);
    world.pass(Duration::from_secs(1), true);
    world.watch.aim(Some(at(2)));
    world.pass(Duration::from_millis(1), true);
    assert_eq!(world.watch.target(), Some(at(2)));
    // One that does not answer is tried some times, and the old one kept.
    world.watch.aim(Some(at(3)));
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), Some(at(2)));
    assert_eq!(world.probed.iter().filter(|to| **to == at(3)).count(), TRIES as usize);
    // The connection does not know where the peer is: no reason to leave what works.
    world.watch.aim(None);
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), Some(at(2)));
}

#[test]
fn a_peer_behind_a_router_is_found_by_what_it_sends() {
    let mut world = World::aimed_at(at(1), &[at(9)]);
    world.pass(Duration::from_secs(30), true);
    assert!(world.watch.heard_from(world.now, at(9)));
    world.pass(Duration::from_millis(1), true);
    assert_eq!(world.watch.target(), Some(at(9)));
}

#[test]
fn a_source_that_somebody_made_up_gets_a_few_probes_and_nothing_else() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(1), true);
    for forged in 100..200 {
        world.watch.heard_from(world.now, at(forged));
        world.pass(Duration::from_millis(1), true);
        assert_eq!(world.watch.target(), Some(at(1)));
    }
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), Some(at(1)));
    let forged = world.probed.iter().filter(|to| **to != at(1)).count();
    assert!(forged <= 2 * TRIES as usize, "{forged} probes");
}

#[test]
fn an_answer_to_nothing_changes_nothing() {
    let mut world = World::aimed_at(at(1), &[]);
    for number in [0, 1, 7, u64::MAX] {
        world.watch.answered(number);
    }
    assert_eq!(world.watch.target(), None);
}
