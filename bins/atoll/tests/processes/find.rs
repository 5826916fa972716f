//! Nodes that never met find each other by their planetary addresses alone. Takes root, iproute2, util-linux, iputils-ping and nftables.

use atoll_lab::Lab;

use crate::common::fail;
use crate::lab_node::{LabNode, eventually, ping};

/// How many nodes there are, each of which joined the one before.
const NODES: usize = 6;

/// How long a ping is waited for that nobody is to answer.
const NOT_WITHIN: [&str; 4] = ["-c", "1", "-W", "3"];

/// Without multicast, which would tell everybody about everybody.
fn start(lab: &Lab, number: usize, folder: &tempfile::TempDir, settings: &[&str]) -> LabNode {
    let settings = [&["network.lan=off", "node.roles=network"], settings].concat();
    LabNode::start(lab.host(number).netns(), folder.path(), &settings)
}

/// Nodes each of which joined the one before, and nobody else.
fn chain(nodes: &[LabNode]) {
    nodes.windows(2).for_each(|pair| pair[1].joins(&pair[0]));
}

fn text(node: &LabNode, key: &str) -> String {
    node.json(&["status"])[key].as_str().unwrap().to_owned()
}

#[test]
fn the_first_of_a_chain_reaches_the_last_that_it_never_met() {
    let (lab, folder) = (Lab::new(NODES).unwrap(), tempfile::tempdir().unwrap());
    let mut nodes: Vec<LabNode> = (0..NODES - 1).map(|number| start(&lab, number, &folder, &[])).collect();
    let rule = format!("network.allow=owner:{} icmp", text(&nodes[0], "owner"));
    nodes.push(start(&lab, NODES - 1, &folder, &[&rule]));
    chain(&nodes);
    let [first, second, .., last] = &nodes[..] else { panic!() };

    // It has only just joined: on a busy machine its record may still be on its way to those who keep it.
    let took = eventually("an answer of a node that was never met", || first.pings(last));
    eprintln!("the first answer of a node that was never met took {} ms", took.as_millis());

    // The rule is about the first one's owner. Whom no rule is about gets nothing, and answers get through.
    assert!(!ping(lab.host(1).netns(), &NOT_WITHIN, last.address().into()), "{}", second.log());
    assert!(!ping(lab.host(NODES - 1).netns(), &NOT_WITHIN, first.address().into()), "strangers are not peers");
    let peers = first.json(&["status"])["peers"].as_array().unwrap().len();
    assert_eq!(peers, 1, "a stranger does not become a peer");

    let found = first.json(&["net", "find", &text(last, "node")]);
    assert_eq!(found["address"], last.address().to_string());
    assert_eq!(found["node"], text(last, "node"));
    let at = lab.host(NODES - 1).ipv4().to_string();
    assert!(found["addresses"].as_array().unwrap().iter().any(|address| address.to_string().contains(&at)), "{found}");
    let by_address = first.json(&["net", "find", &last.address().to_string()]);
    assert_eq!(by_address["node"], found["node"]);
    let nobody = "0600:1:2:3:4:5:6:7";
    let told = fail(first.data_dir(), &["net", "find", nobody]);
    assert!(told.contains("have no record of it"), "{told}");
}

#[test]
fn where_finding_is_off_nobody_is_found_and_nobody_finds() {
    let (lab, folder) = (Lab::new(3).unwrap(), tempfile::tempdir().unwrap());
    let allow = "network.allow=anyone icmp";
    let settings: [&[&str]; 3] = [&[allow], &[allow], &[allow, "network.find=off"]];
    let nodes: Vec<LabNode> =
        settings.iter().enumerate().map(|(number, settings)| start(&lab, number, &folder, settings)).collect();
    chain(&nodes);
    let [on, between, off] = &nodes[..] else { panic!() };
    eventually("the neighbours reach each other", || on.pings(between) && between.pings(off));
    for (from, to) in [(0, off), (2, on)] {
        assert!(!ping(lab.host(from).netns(), &NOT_WITHIN, to.address().into()), "from {from}");
    }
    let told = fail(off.data_dir(), &["net", "find", &on.address().to_string()]);
    assert!(told.contains("network.find"), "{told}");
}
