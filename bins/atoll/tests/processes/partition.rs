//! A network that is cut in two halves, and grows together again. Takes root, iproute2, util-linux and iputils-ping.

use std::time::{Duration, Instant};

use atoll_lab::Lab;

use crate::lab_node::{LabNode, Talk, echoes, eventually, ping};

/// How long the halves are apart: longer than connections live without a sign of life.
const APART: Duration = Duration::from_secs(20);

/// How soon everybody reaches everybody again.
const TOGETHER_WITHIN: Duration = Duration::from_secs(15);

/// Every node pings every other until it is answered; gives how long the last took.
fn all_ping_all(nodes: &[LabNode]) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (at, from) in nodes.iter().enumerate() {
            for to in nodes.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, to)| to) {
                let answered = || ping(&from.netns, &["-c", "1", "-W", "1"], to.address().into());
                scope.spawn(move || eventually("ping", answered));
            }
        }
    });
    began.elapsed()
}

#[test]
fn halves_of_a_network_grow_together_again() {
    let (lab, folder) = (Lab::new(4).unwrap(), tempfile::tempdir().unwrap());
    let start = |number: usize| LabNode::start(lab.host(number).netns(), folder.path(), &["network.lan=off"]);
    let nodes: Vec<LabNode> = (0..4).map(start).collect();
    for (at, node) in nodes.iter().enumerate() {
        nodes[..at].iter().for_each(|other| node.joins(other));
    }
    all_ping_all(&nodes);
    let _echo = echoes(&nodes[1].netns);
    let mut talk = Talk::begin(&nodes[0], &nodes[1]);
    talk.go_on(1 << 20);

    lab.split(&[lab.host(2), lab.host(3)]).unwrap();
    let cut = Instant::now();
    let is_apart = || {
        let [a, b, c, d] = &nodes[..] else { unreachable!() };
        ![c, d].iter().any(|other| a.reaches(other) || b.reaches(other) || other.reaches(a) || other.reaches(b))
    };
    // What goes on within a half does not notice.
    while cut.elapsed() < APART || !is_apart() {
        let began = Instant::now();
        talk.go_on(1 << 10);
        assert!(began.elapsed() < Duration::from_secs(2), "a word within a half took {:?}", began.elapsed());
        assert!(cut.elapsed() < 4 * APART, "the halves still believe to reach each other");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(ping(&nodes[2].netns, &["-c", "1", "-W", "2"], nodes[3].address().into()), "the other half works, too");
    assert!(!ping(&nodes[0].netns, &["-c", "1", "-W", "1"], nodes[2].address().into()), "it is not cut");

    [2, 3].into_iter().for_each(|number| lab.restore(lab.host(number)).unwrap());
    let took = all_ping_all(&nodes);
    eprintln!("partition: all reached all {took:?} after it was over");
    assert!(took < TOGETHER_WITHIN, "{took:?}");
    talk.go_on(1 << 20);
    talk.end();
}
