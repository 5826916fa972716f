//! Nodes that no packet reaches without the help of a third: both behind routers, or on a network that lets only TCP 443 to one address out. Takes root,
//! iproute2, util-linux, iputils-ping and nftables.

use atoll_lab::{Internet, Nat, Site};

use crate::lab_node::{LabNode, Talk, echoes, eventually};

/// Some hundred packets.
const SOME: usize = 256 << 10;

/// What makes the node with the public address one that relays, also on the one port that a captive network lets out.
const RELAYS: &[&str] = &["network.lane=0.0.0.0:443"];

/// Two homes that both joined a node with a public address, and then each other by ticket.
fn homes(one: &[Nat], other: &[Nat]) {
    let sites = [Site::public("hub"), Site::behind("one", one), Site::behind("other", other)];
    let internet = Internet::new(&sites).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let hub = LabNode::start(internet.machine("hub"), folder.path(), RELAYS);
    let [one, other] = ["one", "other"].map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    one.joins(&hub);
    other.joins(&hub);
    eventually("both have the hub", || one.reaches(&hub) && other.reaches(&hub));
    other.joins(&one);
    both_ways(&one, &other);
}

fn both_ways(one: &LabNode, other: &LabNode) {
    for (from, to) in [(one, other), (other, one)] {
        eventually("ping", || from.pings(to));
        eventually("streams", || from.reaches(to));
        let _echo = echoes(&to.netns);
        let mut talk = Talk::begin(from, to);
        talk.go_on(SOME);
        talk.end();
    }
}

#[test]
fn two_homes_behind_full_cones() {
    homes(&[Nat::FullCone], &[Nat::FullCone]);
}

#[test]
fn two_homes_behind_restricted_cones() {
    homes(&[Nat::Restricted], &[Nat::PortRestricted]);
}

#[test]
fn two_homes_behind_port_restricted_cones() {
    homes(&[Nat::PortRestricted], &[Nat::PortRestricted]);
}

/// No hole can be punched between these two: it takes a relay for every packet.
#[test]
fn two_homes_behind_symmetric_routers() {
    homes(&[Nat::Symmetric], &[Nat::Symmetric]);
}

#[test]
fn two_homes_behind_two_routers_each() {
    homes(&[Nat::Symmetric, Nat::PortRestricted], &[Nat::PortRestricted, Nat::FullCone]);
}

#[test]
fn a_captive_network_lets_tcp_443_to_one_relay_out() {
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
    let folder = tempfile::tempdir().unwrap();
    let hub = LabNode::start(internet.machine("hub"), folder.path(), RELAYS);
    let [captive, far] = ["captive", "far"].map(|site| LabNode::start(internet.machine(site), folder.path(), &[]));
    far.joins(&hub);
    captive.joins(&hub);
    captive.joins(&far);
    both_ways(&captive, &hub);
    both_ways(&captive, &far);
}
