//! Nodes behind routers that translate addresses, on ways that differ, swallow or part: on an [`Internet`] of namespaces. Takes root, iproute2,
//! util-linux, iputils-ping and nftables.

use std::time::{Duration, Instant};

use atoll_lab::{End, Internet, Nat, Netns, Site, Wires};

use crate::lab_node::{Echo, LabNode, Talk, echoes, eventually, ping};

/// Some hundred packets.
const SOME: usize = 256 << 10;

/// A small object.
const OBJECT: &[u8] = &[42; 100_000];

/// Two nodes with public addresses, and one at home that joins both.
struct World {
    // Ended in this order: servers, nodes, then the machines they run on.
    _echoes: Vec<Echo>,
    home: LabNode,
    one: LabNode,
    two: LabNode,
    internet: Internet,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(routers: &[Nat]) -> Self {
        let internet =
            Internet::new(&[Site::behind("home", routers), Site::public("one"), Site::public("two")]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let start = |site: &str| LabNode::start(internet.machine(site), folder.path(), &[]);
        let (home, one, two) = (start("home"), start("one"), start("two"));
        home.joins(&one);
        home.joins(&two);
        two.joins(&one);
        let echoes = [&home, &one, &two].map(|node| echoes(&node.netns)).into();
        Self { _echoes: echoes, home, one, two, internet, _folder: folder }
    }

    /// Whoever knows each other reaches each other, by packets and by streams.
    fn works(&self) {
        let Self { home, one, two, .. } = self;
        for (from, to) in [(home, one), (one, home), (home, two), (two, home), (one, two)] {
            let what = format!("{} to {}", from.netns.name(), to.netns.name());
            eventually(&format!("ping, {what}"), || from.pings(to));
            eventually(&format!("streams, {what}"), || from.reaches(to));
        }
        for (from, to) in [(home, one), (one, home)] {
            let mut talk = Talk::begin(from, to);
            talk.go_on(SOME);
            talk.end();
        }
    }
}

/// One shard each goes to the two others, and is fetched from there.
fn stores(node: &LabNode) {
    eventually("two nodes offer storage", || {
        let status = node.json(&["status"]);
        let mut peers = status["peers"].as_array().unwrap().iter();
        peers.by_ref().filter(|peer| peer["reachable"] == true && !peer["storage"].is_null()).count() == 2
    });
    node.atoll(&["bucket", "create", "some-bucket", "--policy", "1+1"]);
    node.atoll_fed(&["put", "-", "some-bucket/thing"], OBJECT);
    let back = node.atoll(&["get", "some-bucket/thing", "-"]);
    assert!(back.as_bytes() == OBJECT, "{} of {} bytes", back.len(), OBJECT.len());
}

fn behind(routers: &[Nat]) {
    let world = World::new(routers);
    world.works();
    // To and from a node at home, and by it.
    stores(&world.home);
    stores(&world.one);
}

#[test]
fn a_node_behind_a_full_cone() {
    behind(&[Nat::FullCone]);
}

#[test]
fn a_node_behind_a_restricted_cone() {
    behind(&[Nat::Restricted]);
}

#[test]
fn a_node_behind_a_port_restricted_cone() {
    behind(&[Nat::PortRestricted]);
}

#[test]
fn a_node_behind_a_symmetric_router() {
    behind(&[Nat::Symmetric]);
}

#[test]
fn a_node_behind_two_routers() {
    behind(&[Nat::Symmetric, Nat::PortRestricted]);
}

/// Packets go one way by one router and come back by another; none of them has a route for both.
#[test]
fn ways_there_and_back_may_differ() {
    let wires = Wires::new(&["a", "b", "upper", "lower"]).unwrap();
    let cable = |at, interface, address: &str, other, of_other, other_address: &str| {
        let one = End { at, interface, addresses: &[address] };
        wires.cable(one, End { at: other, interface: of_other, addresses: &[other_address] }).unwrap();
    };
    cable("a", "north", "10.1.0.1/24", "upper", "to-a", "10.1.0.2/24");
    cable("a", "south", "10.2.0.1/24", "lower", "to-a", "10.2.0.2/24");
    cable("b", "north", "10.3.0.1/24", "upper", "to-b", "10.3.0.2/24");
    cable("b", "south", "10.4.0.1/24", "lower", "to-b", "10.4.0.2/24");
    // Each has one address for the world, which is on none of the cables.
    for (name, own, other, out) in
        [("a", "192.0.2.1", "192.0.2.2", ("north", "10.1.0.2")), ("b", "192.0.2.2", "192.0.2.1", ("south", "10.4.0.2"))]
    {
        let netns = wires.at(name);
        netns.ip(&["link", "add", "world", "type", "veth", "peer", "name", "nothing"]).unwrap();
        netns.ip(&["link", "set", "nothing", "up"]).unwrap();
        netns.ip(&["link", "set", "world", "up"]).unwrap();
        netns.ip(&["address", "add", &format!("{own}/32"), "dev", "world"]).unwrap();
        netns.ip(&["route", "add", other, "via", out.1, "dev", out.0, "src", own]).unwrap();
        netns.ip(&["route", "add", "default", "via", out.1]).unwrap();
        netns.set("ipv4/conf/all/rp_filter", "0").unwrap();
    }
    for (router, world, cable, via) in
        [("upper", "192.0.2.2", "10.4.0.0/24", "10.3.0.1"), ("lower", "192.0.2.1", "10.1.0.0/24", "10.2.0.1")]
    {
        wires.forwards(router).unwrap();
        wires.at(router).set("ipv4/conf/all/rp_filter", "0").unwrap();
        for to in [world, cable] {
            wires.at(router).ip(&["route", "add", to, "via", via]).unwrap();
        }
    }
    assert!(ping(wires.at("a"), &["-c", "1", "-W", "2", "-I", "192.0.2.1"], [192, 0, 2, 2].into()), "the lab itself");
    pair_works(wires.at("a"), wires.at("b"));
}

/// Nobody can begin anything with a node, and it has an address of its own: a firewall without translation.
#[test]
fn a_node_that_nobody_can_dial() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    let to_a = internet.port("a");
    internet
        .core()
        .nft(&format!(
            "table inet one_way {{
               chain forward {{ type filter hook forward priority 0;
               oifname \"{to_a}\" ct state new drop
               }}
             }}\n"
        ))
        .unwrap();
    assert!(!ping(internet.machine("b"), &["-c", "1", "-W", "1"], internet.public_address("a").into()));
    pair_works(internet.machine("a"), internet.machine("b"));
}

/// The first joins the second, and everything works both ways.
fn pair_works(a: &Netns, b: &Netns) {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = [a, b].map(|netns| LabNode::start(netns, folder.path(), &[]));
    a.joins(&b);
    for (from, to) in [(&a, &b), (&b, &a)] {
        eventually("ping", || from.pings(to));
        eventually("streams", || from.reaches(to));
        let _echo = echoes(&to.netns);
        let mut talk = Talk::begin(from, to);
        talk.go_on(SOME);
        talk.end();
    }
}

/// The way carries less than its ends believe, from the start, and drops what is larger without a word.
#[test]
fn a_way_that_swallows_large_packets() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    internet.narrow("b", NARROW).unwrap();
    internet.narrow("a", NARROW).unwrap();
    pair_works(internet.machine("a"), internet.machine("b"));
}

/// The same, after everything was measured and found good.
#[test]
fn a_way_that_becomes_narrow_while_it_is_used() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    a.joins(&b);
    let _echo = echoes(&b.netns);
    eventually("ping", || a.pings(&b));
    let mut talk = Talk::begin(&a, &b);
    // Large enough for the path's size to be found.
    talk.go_on(8 * SOME);
    internet.narrow("b", NARROW).unwrap();
    internet.narrow("a", NARROW).unwrap();
    talk.go_on(SOME);
    talk.end();
}

/// What a tunnel of a tunnel leaves of Ethernet's 1,500 bytes.
const NARROW: u16 = 1400;

#[test]
fn a_partition_heals() {
    let sites = ["a", "b", "c", "d"];
    let internet = Internet::new(&sites.map(Site::public)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nodes = sites.map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    let pairs: Vec<(usize, usize)> = (0..4).flat_map(|one| (0..one).map(move |other| (one, other))).collect();
    for (one, other) in &pairs {
        nodes[*one].joins(&nodes[*other]);
    }
    let across = |pair: &&(usize, usize)| pair.0 > 1 && pair.1 < 2;
    let all = |reach: &dyn Fn(&LabNode, &LabNode) -> bool| {
        pairs.iter().all(|(one, other)| reach(&nodes[*one], &nodes[*other]) && reach(&nodes[*other], &nodes[*one]))
    };
    eventually("everybody pings everybody", || all(&|from, to| from.pings(to)));
    eventually("and has streams", || all(&|from, to| from.reaches(to)));

    internet.part(&["a", "b"]).unwrap();
    eventually("the halves notice", || {
        pairs.iter().filter(across).all(|(one, other)| !nodes[*one].reaches(&nodes[*other]))
    });
    assert!(nodes[0].pings(&nodes[1]) && nodes[2].pings(&nodes[3]), "each half works");
    assert!(pairs.iter().filter(across).all(|(one, other)| !nodes[*one].pings(&nodes[*other])));
    // Longer than connections live.
    std::thread::sleep(Duration::from_secs(20));

    internet.heal().unwrap();
    let pinged = eventually("everybody pings everybody again", || all(&|from, to| from.pings(to)));
    eventually("and has streams again", || all(&|from, to| from.reaches(to)));
    assert!(pinged < Duration::from_secs(30), "{pinged:?} until everybody pinged everybody");
}

/// A provider gives the line another address while something is being transferred.
#[test]
fn a_router_that_changes_its_address_keeps_connections() {
    moves(&[Nat::PortRestricted]);
}

#[test]
fn a_node_that_changes_its_address_keeps_connections() {
    moves(&[]);
}

fn moves(routers: &[Nat]) {
    let world = World::new(routers);
    let World { home, one, internet, .. } = &world;
    eventually("ping", || home.pings(one) && one.pings(home));
    let (mut out, mut back) = (Talk::begin(home, one), Talk::begin(one, home));
    out.go_on(SOME);
    back.go_on(SOME);
    for address in [3, 4] {
        internet.renumber("home", address).unwrap();
        out.go_on(SOME);
        back.go_on(SOME);
    }
    out.end();
    back.end();
    eventually("streams", || home.reaches(one) && one.reaches(home));
}

/// Less than a planetary packet with what it is wrapped in: IPv6 promises 1,280 bytes, so it has to go in parts.
#[test]
fn a_way_that_is_narrower_than_a_planetary_packet() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    for site in ["a", "b"] {
        internet.narrow(site, 1300).unwrap();
    }
    pair_works(internet.machine("a"), internet.machine("b"));
}

/// Two nodes reach each other directly until that way goes silent; a third reaches both, and relays.
#[test]
fn a_direct_way_that_goes_silent_gives_way_to_a_relay() {
    let world = World::new(&[]);
    let World { home, one, internet, .. } = &world;
    eventually("ping", || home.pings(one) && one.pings(home));
    let (mut out, mut back) = (Talk::begin(home, one), Talk::begin(one, home));
    out.go_on(SOME);
    back.go_on(SOME);
    let (from, to) = (internet.port("home"), internet.port("one"));
    internet
        .core()
        .nft(&format!(
            "table inet cut {{
               chain forward {{ type filter hook forward priority 0;
                 iifname \"{from}\" oifname \"{to}\" drop
                 iifname \"{to}\" oifname \"{from}\" drop
               }}
             }}\n"
        ))
        .unwrap();
    let cut = Instant::now();
    eventually("ping by a relay", || home.pings(one));
    let outage = cut.elapsed();
    assert!(outage < Duration::from_secs(8), "{outage:?} without an answer");
    for _ in 0..4 {
        out.go_on(SOME);
        back.go_on(SOME);
    }
    eventually("streams by a relay", || home.reaches(one) && one.reaches(home));
    internet.core().nft("delete table inet cut\n").unwrap();
    out.go_on(SOME);
    back.go_on(SOME);
    out.end();
    back.end();
}

/// Routers say on the outside of packets that there is congestion; the programs, who alone can do something about it, hear of it inside.
#[test]
fn what_routers_say_of_congestion_reaches_programs() {
    let internet = Internet::new(&[Site::public("a"), Site::public("b")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|site| {
        internet.machine(site).set("ipv4/tcp_ecn", "1").unwrap();
        LabNode::start(internet.machine(site), folder.path(), &[])
    });
    a.joins(&b);
    eventually("the fast path", || a.pings(&b) && a.json(&["net", "status"])["peers"][0]["fast"].is_string());
    let congested = || {
        let counts = b.netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap();
        let line = counts.lines().find(|line| line.starts_with("Ip6InCEPkts")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let _echo = echoes(&b.netns);
    let mut talk = Talk::begin(&a, &b);
    talk.go_on(SOME);
    let before = congested();
    internet
        .core()
        .nft("table inet busy {\n chain forward {\n type filter hook forward priority 0;\n ip ecn { ect0, ect1 } ip ecn set ce\n }\n }\n")
        .unwrap();
    talk.go_on(SOME);
    talk.end();
    assert!(congested() > before, "the router's mark stayed outside");
}
