//! TCP conversations over the planetary network while the nodes that carry them end and start again: in order and by kill -9, at either end and in the middle. Takes root,
//! iproute2, util-linux, iputils-ping and nftables.

use std::time::{Duration, Instant};

use atoll_lab::{Internet, Site};

use crate::lab_node::{LabNode, Talk, echoes, eventually};

/// Some hundred packets.
const SOME: usize = 256 << 10;

/// How long a conversation may stand still for a restart: the node's own start, what its peer needs to notice, and TCP's next attempt, which doubles its
/// pauses meanwhile. On a busy machine.
const STANDSTILL: Duration = Duration::from_secs(45);

/// The programs know nothing of nodes: their sockets live on, and so does the interface's address once the node is back.
#[test]
fn conversations_outlive_the_nodes_that_carry_them() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let start = |site: &str| LabNode::start(internet.machine(site), folder.path(), &[]);
    let (mut a, mut b) = (start("a"), start("b"));
    a.joins(&b);
    eventually("ping", || a.pings(&b) && b.pings(&a));
    let _echoes = [echoes(&a.netns), echoes(&b.netns)];
    let (mut out, mut back) = (Talk::begin(&a, &b), Talk::begin(&b, &a));
    for (site, orderly) in [("a", true), ("b", true), ("a", false), ("b", false)] {
        out.go_on(SOME);
        back.go_on(SOME);
        let node = if site == "a" { &mut a } else { &mut b };
        node.ends(orderly);
        *node = start(site);
        let since = Instant::now();
        out.go_on(SOME);
        back.go_on(SOME);
        let stood = since.elapsed();
        eprintln!("{site} ended {}: {stood:?}", if orderly { "in order" } else { "by kill -9" });
        assert!(stood < STANDSTILL, "{stood:?} for a restart of {site}, orderly: {orderly}");
    }
    out.end();
    back.end();
}
