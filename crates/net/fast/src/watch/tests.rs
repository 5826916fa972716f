//! The watch on paths that work, break, move, and are lied about.

use super::*;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 7))
}

fn direct(last: SocketAddr) -> Option<Way> {
    Some(Way::Direct(last))
}

/// A path on which some addresses answer at once, and the time.
struct World {
    watch: Watch,
    now: Instant,
    answering: Vec<SocketAddr>,
    probed: Vec<SocketAddr>,
    besides: Besides,
    /// Whether relays get through.
    relays_answer: bool,
    relay_probes: usize,
    /// The largest packets that the network carries.
    passes: Size,
    raises: usize,
}

impl World {
    fn aimed_at(address: SocketAddr, answering: &[SocketAddr]) -> Self {
        let mut watch = Watch::new(Size::Most);
        watch.aim(Some(address));
        Self {
            watch,
            now: Instant::now(),
            answering: answering.to_vec(),
            probed: Vec::new(),
            besides: Besides::default(),
            relays_answer: false,
            relay_probes: 0,
            passes: Size::Most,
            raises: 0,
        }
    }

    /// Lets time pass, doing what the watch says when it says so.
    fn pass(&mut self, time: Duration, busy: bool) {
        let end = self.now + time;
        loop {
            let step = self.watch.step(self.now, busy, self.besides);
            assert!(step.again > self.now, "it would be asked for ever");
            let mut is_news = false;
            for probe in step.probes {
                let answers = match probe.to {
                    Way::Direct(to) => {
                        if self.watch.confirmed == Some(to) && probe.size > self.watch.size {
                            self.raises += 1;
                        } else {
                            self.probed.push(to);
                        }
                        self.answering.contains(&to) && probe.size <= self.passes
                    }
                    Way::Relayed => {
                        self.relay_probes += 1;
                        self.relays_answer
                    }
                };
                is_news |= answers && self.watch.answered(self.now, probe.number);
            }
            if is_news {
                continue;
            }
            // An answer may have changed when to ask.
            let again = self.watch.step(self.now, busy, self.besides).again;
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
    assert_eq!(world.watch.target(), direct(at(1)));
}

#[test]
fn silence_is_noticed_within_a_second_while_packets_flow() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(5), true);
    assert_eq!(world.watch.target(), direct(at(1)));
    world.answering.clear();
    world.pass(SILENCE + OFTEN, true);
    assert_eq!(world.watch.target(), None);
    // And it is found again when it is there again.
    world.answering = vec![at(1)];
    world.pass(PAUSE_MAX, false);
    assert_eq!(world.watch.target(), direct(at(1)));
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
    assert_eq!(world.watch.target(), direct(at(2)));
    // One that does not answer is tried some times, and the old one kept.
    world.watch.aim(Some(at(3)));
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), direct(at(2)));
    assert_eq!(world.probed.iter().filter(|to| **to == at(3)).count(), TRIES as usize);
    // The connection does not know where the peer is: no reason to leave what works.
    world.watch.aim(None);
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), direct(at(2)));
}

#[test]
fn a_peer_behind_a_router_is_found_by_what_it_sends() {
    let mut world = World::aimed_at(at(1), &[at(9)]);
    world.pass(Duration::from_secs(30), true);
    assert!(world.watch.heard_from(world.now, at(9)));
    world.pass(Duration::from_millis(1), true);
    assert_eq!(world.watch.target(), direct(at(9)));
}

#[test]
fn a_source_that_somebody_made_up_gets_a_few_probes_and_nothing_else() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(1), true);
    for forged in 100..200 {
        world.watch.heard_from(world.now, at(forged));
        world.pass(Duration::from_millis(1), true);
        assert_eq!(world.watch.target(), direct(at(1)));
    }
    world.pass(Duration::from_secs(3), true);
    assert_eq!(world.watch.target(), direct(at(1)));
    let forged = world.probed.iter().filter(|to| **to != at(1)).count();
    assert!(forged <= 2 * TRIES as usize, "{forged} probes");
}

#[test]
fn an_answer_to_nothing_changes_nothing() {
    let mut world = World::aimed_at(at(1), &[]);
    for number in [0, 1, 7, u64::MAX] {
        world.watch.answered(world.now, number);
    }
    assert_eq!(world.watch.target(), None);
}

/// A router changed its address twice in a moment. The second change must not be forgotten for having come so soon.
#[test]
fn a_peer_that_moves_twice_in_a_moment_is_followed() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(1), true);
    world.answering = vec![at(3)];
    assert!(world.watch.heard_from(world.now, at(2)));
    world.pass(OFTEN / 2, true);
    assert!(!world.watch.heard_from(world.now, at(3)));
    world.pass(OFTEN, true);
    assert_eq!(world.watch.target(), direct(at(3)));
}

#[test]
fn relays_take_over_within_a_second_and_give_way_again() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    (world.besides.relays, world.relays_answer) = (true, true);
    world.pass(Duration::from_secs(5), true);
    assert_eq!((world.watch.target(), world.relay_probes), (direct(at(1)), 0));
    world.answering.clear();
    world.pass(SILENCE + OFTEN, true);
    assert_eq!(world.watch.target(), Some(Way::Relayed));
    world.pass(Duration::from_secs(30), true);
    assert_eq!(world.watch.target(), Some(Way::Relayed));
    world.answering = vec![at(1)];
    world.pass(PAUSE_MAX, true);
    assert_eq!(world.watch.target(), direct(at(1)));
}

#[test]
fn relays_are_not_used_where_the_connection_gets_through() {
    let mut world = World::aimed_at(at(1), &[]);
    (world.besides, world.relays_answer) = (Besides { connection: true, relays: true }, true);
    world.pass(Duration::from_secs(5), true);
    assert_eq!(world.watch.target(), None);
    world.besides.connection = false;
    world.pass(OFTEN, true);
    assert_eq!(world.watch.target(), Some(Way::Relayed));
    world.relays_answer = false;
    world.pass(SILENCE + OFTEN, true);
    assert_eq!(world.watch.target(), None, "nothing comes back by relays either");
}

#[test]
fn relays_are_left_alone_while_nothing_flows() {
    let mut world = World::aimed_at(at(1), &[]);
    (world.besides.relays, world.relays_answer) = (true, true);
    world.pass(Duration::from_secs(1), true);
    assert_eq!(world.watch.target(), Some(Way::Relayed));
    world.pass(FLOWS, false);
    world.relay_probes = 0;
    world.pass(Duration::from_secs(60), false);
    assert_eq!((world.watch.target(), world.relay_probes), (Some(Way::Relayed), 0));
}

#[test]
fn another_address_of_the_peer_takes_over_within_a_second() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_millis(1), true);
    world.watch.know([at(1), at(2), at(3)].into_iter());
    world.pass(Duration::from_secs(5), true);
    assert_eq!(world.watch.target(), direct(at(1)));
    assert!(world.probed.iter().all(|to| *to == at(1)), "what works is enough");
    world.answering = vec![at(3)];
    world.pass(SILENCE + OFTEN, true);
    assert_eq!(world.watch.target(), direct(at(3)));
}

#[test]
fn a_peer_that_names_many_addresses_has_few_of_them_tried() {
    let mut world = World::aimed_at(at(1), &[]);
    world.watch.know((2..200).map(at));
    world.pass(Duration::from_millis(1), true);
    assert_eq!(world.probed.len(), 1 + OTHERS_MAX);
    world.pass(Duration::from_secs(120), true);
    assert!(world.probed.len() < 30 * (1 + OTHERS_MAX), "{} probes", world.probed.len());
}

#[test]
fn packets_are_as_large_as_what_passes() {
    for passes in Size::ALL {
        let mut world = World::aimed_at(at(1), &[at(1)]);
        world.passes = passes;
        world.pass(Duration::from_millis(1), true);
        assert_eq!((world.watch.target(), world.watch.size()), (direct(at(1)), passes), "at once");
        assert!(!world.watch.is_narrow());
        world.pass(Duration::from_secs(2), true);
        assert_eq!((world.watch.size(), world.watch.is_narrow()), (passes, passes != Size::Most));
        world.raises = 0;
        world.pass(Duration::from_secs(7200), true);
        assert!(world.raises < 2 * 24, "{} probes in two hours for what does not pass", world.raises);
    }
}

/// A router on the way begins to carry less, and tells nobody.
#[test]
fn what_passes_no_more_is_sent_smaller_within_a_second_and_larger_again() {
    for less in [Size::Floor, Size::Least] {
        let mut world = World::aimed_at(at(1), &[at(1)]);
        world.pass(Duration::from_secs(30), true);
        world.passes = less;
        world.pass(SILENCE, true);
        assert_eq!((world.watch.target(), world.watch.size()), (direct(at(1)), less), "the address is kept");
        world.pass(Duration::from_secs(60), true);
        assert_eq!(world.watch.size(), less);
        world.passes = Size::Most;
        world.pass(Duration::from_secs(120), true);
        assert_eq!(world.watch.size(), Size::Most);
    }
}

#[test]
fn what_is_lost_now_and_then_is_no_reason_to_send_less() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.pass(Duration::from_secs(1), true);
    for _ in 0..20 {
        world.answering.clear();
        world.pass(OFTEN, true);
        world.answering = vec![at(1)];
        world.pass(Duration::from_secs(1), true);
        assert_eq!((world.watch.target(), world.watch.size()), (direct(at(1)), Size::Most));
    }
}

#[test]
fn who_sends_no_packets_asks_with_small_probes_alone() {
    let mut world = World::aimed_at(at(1), &[at(1)]);
    world.watch = Watch::new(Size::Floor);
    world.watch.aim(Some(at(1)));
    world.pass(Duration::from_secs(30), true);
    assert_eq!((world.watch.target(), world.watch.size(), world.raises), (direct(at(1)), Size::Floor, 0));
}

#[test]
fn another_address_begins_with_what_passes_everywhere() {
    let mut world = World::aimed_at(at(1), &[at(1), at(2)]);
    world.pass(Duration::from_secs(1), true);
    assert_eq!(world.watch.size(), Size::Most);
    (world.passes, world.answering) = (Size::Floor, vec![at(2)]);
    world.watch.aim(Some(at(2)));
    world.pass(Duration::from_millis(1), true);
    assert_eq!((world.watch.target(), world.watch.size()), (direct(at(2)), Size::Floor));
}
