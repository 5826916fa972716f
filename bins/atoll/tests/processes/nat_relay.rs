//! Nodes that no packet reaches without the help of a third: both behind routers, on a network that lets only TCP 443 to one address out, or with a way that swallows
//! what goes in one direction. Takes root, iproute2, util-linux, iputils-ping and nftables.

use std::time::{Duration, Instant};

use atoll_lab::{End, Internet, Nat, Netns, Site, Wires};

use crate::lab_node::{LabNode, Talk, echoes, eventually};

/// Some hundred packets.
const SOME: usize = 256 << 10;

/// Some thousand: more than all queues on the way hold.
const MUCH: usize = 4 << 20;

/// What makes a node with a public address one that relays, also on the one port that a captive network lets out.
const RELAYS: &[&str] = &["network.lane=0.0.0.0:443"];

fn both_ways(one: &LabNode, other: &LabNode, bytes: usize) {
    for (from, to) in [(one, other), (other, one)] {
        eventually("ping", || from.pings(to));
        eventually("streams", || from.reaches(to));
        let _echo = echoes(&to.netns);
        let mut talk = Talk::begin(from, to);
        talk.go_on(bytes);
        talk.end();
    }
}

/// A node with a public address, and two homes behind routers.
struct Homes {
    hub: LabNode,
    one: LabNode,
    other: LabNode,
    internet: Internet,
    folder: tempfile::TempDir,
}

impl Homes {
    fn new(one: &[Nat], other: &[Nat]) -> Self {
        let sites =
            [Site::public("hub"), Site::public("spare"), Site::behind("one", one), Site::behind("other", other)];
        let internet = Internet::new(&sites).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let start = |site: &str, settings: &[&str]| LabNode::start(internet.machine(site), folder.path(), settings);
        let (hub, one, other) = (start("hub", RELAYS), start("one", &[]), start("other", &[]));
        one.joins(&hub);
        eventually("the first has the hub", || one.reaches(&hub) && hub.reaches(&one));
        Self { hub, one, other, internet, folder }
    }

    /// Both have joined the hub.
    fn with_a_common_peer(one: &[Nat], other: &[Nat]) -> Self {
        let homes = Self::new(one, other);
        homes.other.joins(&homes.hub);
        eventually("the second has the hub", || homes.other.reaches(&homes.hub) && homes.hub.reaches(&homes.other));
        homes
    }

    fn join_each_other(&self) {
        self.other.joins(&self.one);
        both_ways(&self.one, &self.other, SOME);
    }
}

#[test]
fn two_homes_behind_full_cones() {
    Homes::with_a_common_peer(&[Nat::FullCone], &[Nat::FullCone]).join_each_other();
}

#[test]
fn two_homes_behind_restricted_cones() {
    Homes::with_a_common_peer(&[Nat::Restricted], &[Nat::PortRestricted]).join_each_other();
}

#[test]
fn two_homes_behind_port_restricted_cones() {
    Homes::with_a_common_peer(&[Nat::PortRestricted], &[Nat::PortRestricted]).join_each_other();
}

/// No hole can be punched between these two: it takes a relay for every packet.
#[test]
fn two_homes_behind_symmetric_routers() {
    Homes::with_a_common_peer(&[Nat::Symmetric], &[Nat::Symmetric]).join_each_other();
}

#[test]
fn two_homes_behind_two_routers_each() {
    let (one, other) = ([Nat::Symmetric, Nat::PortRestricted], [Nat::PortRestricted, Nat::FullCone]);
    Homes::with_a_common_peer(&one, &other).join_each_other();
}

/// The second knows nobody. The relay that the ticket names lets it through to join and no further, which is said; once it has joined that one, too, they reach each other.
#[test]
fn a_stranger_behind_a_router_joins_by_the_relay_that_the_ticket_names() {
    let homes = Homes::new(&[Nat::PortRestricted], &[Nat::Symmetric]);
    let Homes { hub, one, other, .. } = &homes;
    let ticket = one.atoll(&["invite"]);
    let joined = other.json(&["join", ticket.trim()]);
    assert!(one.is(&joined) && hub.is_called(joined["through"].as_str().unwrap()), "{joined}");
    assert!(!hub.json(&["status"])["peers"].as_array().unwrap().iter().any(|peer| other.is(peer)));
    other.joins(hub);
    both_ways(one, other, SOME);
}

/// The relay is killed while it carries, without a word; another is a peer of both.
#[test]
fn a_transfer_outlives_the_relay_that_carried_it() {
    let homes = Homes::with_a_common_peer(&[Nat::Symmetric], &[Nat::Symmetric]);
    let spare = LabNode::start(homes.internet.machine("spare"), homes.folder.path(), RELAYS);
    let Homes { hub, one, other, .. } = homes;
    for home in [&one, &other] {
        home.joins(&spare);
        eventually("both have the spare", || home.reaches(&spare) && spare.reaches(home));
    }
    other.joins(&one);
    let _echo = echoes(&one.netns);
    eventually("ping", || other.pings(&one));
    let mut talk = Talk::begin(&other, &one);
    talk.go_on(SOME);
    // Whichever carries, and then the other one, too.
    let used = |relay: &LabNode| other.relay_to(&one).is_some_and(|used| relay.is_called(&used));
    eventually("a relay is used", || used(&hub) || used(&spare));
    let (dies, stays) = if used(&hub) { (hub, spare) } else { (spare, hub) };
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk.go_on(MUCH));
        drop(dies);
        talking.join().unwrap();
    });
    talk.end();
    assert!(other.relay_to(&one).is_some_and(|used| stays.is_called(&used)));
}

/// The one relay that the ticket names is gone: who joins is told what does not answer, and in time.
#[test]
fn a_ticket_whose_relay_is_gone_says_so() {
    let homes = Homes::new(&[Nat::Symmetric], &[Nat::Symmetric]);
    // What they run on ends after them.
    let Homes { hub, one, other, .. } = homes;
    let ticket = one.atoll(&["invite"]);
    drop(hub);
    let began = Instant::now();
    let told = other.fails(&["join", ticket.trim()]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(told.contains("cannot be reached") && told.contains("nor does a relay that the ticket names"), "{told}");
}

/// A network that lets nothing out but TCP to port 443 of the hub.
fn captive() -> Internet {
    let sites = [Site::public("hub"), Site::behind("captive", &[Nat::PortRestricted]), Site::public("far")];
    let internet = Internet::new(&sites).unwrap();
    let (port, hub) = (internet.port("captive"), internet.public_address("hub"));
    internet
        .core()
        .nft(&format!(
            "table inet captive {{
               chain forward {{ type filter hook forward priority 0;
                 iifname \"{port}\" ip daddr {hub} tcp dport 443 accept
                 iifname \"{port}\" drop
               }}
             }}\n"
        ))
        .unwrap();
    internet
}

#[test]
fn a_captive_network_lets_tcp_443_to_one_relay_out() {
    let internet = captive();
    let folder = tempfile::tempdir().unwrap();
    let hub = LabNode::start(internet.machine("hub"), folder.path(), RELAYS);
    let [captive, far] = ["captive", "far"].map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    far.joins(&hub);
    captive.joins(&hub);
    captive.joins(&far);
    both_ways(&captive, &hub, MUCH);
    both_ways(&captive, &far, MUCH);
}

/// What comes from one machine on a cable and is meant for an address is lost.
fn loses(at: &Netns, interface: &str, to: &str) {
    at.nft(&format!(
        "table inet one_way {{
           chain output {{ type filter hook output priority 0;
             oifname \"{interface}\" ip daddr {to} drop
           }}
         }}\n"
    ))
    .unwrap();
}

/// Two machines with two cables between them; `lost` of what goes one way on the first.
fn two_cables(loses_at: &str, to: &str) {
    let wires = Wires::new(&["a", "b"]).unwrap();
    for (interface, one, other) in [("north", "10.1.0.1/24", "10.1.0.2/24"), ("south", "10.2.0.1/24", "10.2.0.2/24")] {
        let end = |at, addresses| End { at, interface, addresses };
        wires.cable(end("a", &[one]), end("b", &[other])).unwrap();
    }
    loses(wires.at(loses_at), "north", to);
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| LabNode::start(wires.at(name), folder.path(), &["network.lan=off"]));
    a.joins(&b);
    both_ways(&a, &b, SOME);
}

/// What the joining node sends to one of the other's addresses is lost.
#[test]
fn an_address_that_nothing_arrives_at() {
    two_cables("a", "10.1.0.2");
}

/// Its packets arrive, and the answers to where they came from are lost.
#[test]
fn an_address_that_no_answer_comes_back_to() {
    two_cables("b", "10.1.0.1");
}

/// There is one way between two nodes, and it leads in one direction only; a third reaches both.
fn one_way(from: &str, to: &str) {
    let internet = Internet::new(&[Site::public("hub"), Site::public("a"), Site::public("b")]).unwrap();
    let (comes, goes) = (internet.port(from), internet.port(to));
    internet
        .core()
        .nft(&format!(
            "table inet one_way {{
               chain forward {{ type filter hook forward priority 0;
                 iifname \"{comes}\" oifname \"{goes}\" drop
               }}
             }}\n"
        ))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [hub, a, b] = ["hub", "a", "b"].map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    a.joins(&hub);
    b.joins(&hub);
    eventually("both have the hub", || hub.reaches(&a) && hub.reaches(&b) && a.reaches(&hub) && b.reaches(&hub));
    a.joins(&b);
    both_ways(&a, &b, SOME);
}

#[test]
fn a_way_that_loses_what_the_joining_node_sends() {
    one_way("a", "b");
}

#[test]
fn a_way_that_loses_what_the_inviting_node_sends() {
    one_way("b", "a");
}
