//! The shapes of cables that products are raised on, and who can reach whom by them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use atoll_lab::{End, Netns, Wires};

/// Nodes on one bridge: each has two bytes of an address, and a test of more would need more than this machine.
pub(crate) const CROWD_MAX: usize = 250;

/// Nodes of a line.
const LINE: usize = 5;

/// How nodes are cabled. Node 0 is the one that is there first; none passes packets on unless it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Two nodes on one cable.
    Pair,
    /// Five, each cabled to the next.
    Line,
    /// Three, each cabled to both others. Node 2 passes packets on, so nodes 0 and 1 have a second way without any overlay, by addresses of their own.
    Triangle,
    /// So many on one bridge.
    Crowd(usize),
}

/// A network to be: the machines and how they reach each other. Ends with everything that runs on it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) nodes: Vec<Netns>,
    // Dropped before the folder: what runs writes into that.
    wires: Wires,
    folder: tempfile::TempDir,
}

impl Shape {
    /// How many nodes.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Self::Pair => 2,
            Self::Line => LINE,
            Self::Triangle => 3,
            Self::Crowd(nodes) => nodes,
        }
    }

    /// Whom a node is told of when it starts.
    pub(crate) fn contacts(self, node: usize) -> Vec<usize> {
        match self {
            Self::Line => node.checked_sub(1).into_iter().collect(),
            Self::Triangle => (0..node).collect(),
            Self::Pair | Self::Crowd(_) => (node > 0).then_some(0).into_iter().collect(),
        }
    }

    /// The addresses by which one node reaches another without any overlay, the shortest way first.
    pub(crate) fn reach(self, from: usize, to: usize) -> Vec<Ipv4Addr> {
        match self {
            Self::Pair => vec![on_segment(0, 0, to + 1)],
            Self::Line if to == from + 1 => vec![on_segment(0, from, 2)],
            Self::Line if from == to + 1 => vec![on_segment(0, to, 1)],
            Self::Line => Vec::new(),
            Self::Triangle => {
                let other = 3 - from - to;
                let mut addresses = vec![self.triangle(to, from)];
                if other == 2 {
                    addresses.push(self.triangle(to, other));
                }
                addresses
            }
            Self::Crowd(_) => vec![in_crowd(to)],
        }
    }

    /// The address that a node has on its cable to another.
    fn triangle(self, node: usize, to: usize) -> Ipv4Addr {
        let (low, high) = (node.min(to), node.max(to));
        on_segment(1, low + high, if node == low { 1 } else { 2 })
    }
}

fn on_segment(kind: u8, segment: usize, host: usize) -> Ipv4Addr {
    let byte = |number: usize| u8::try_from(number).expect("few nodes");
    Ipv4Addr::new(10, 60 + kind, byte(segment), byte(host))
}

fn in_crowd(node: usize) -> Ipv4Addr {
    on_segment(2, 0, node + 1)
}

impl Plan {
    /// Lays the cables.
    pub(crate) fn new(shape: Shape) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("netlab-").tempdir().context("no folder for the nodes")?;
        let names: Vec<String> = (0..shape.nodes()).map(|node| format!("n{node}")).chain(["hub".to_owned()]).collect();
        // If this process is killed, the folder is the guardian's to remove.
        let last_words = format!("rm -rf '{}'", folder.path().display());
        let wires = Wires::with_last_words(&names, &last_words)?;
        let nodes = (0..shape.nodes()).map(|node| wires.at(&format!("n{node}")).clone()).collect();
        let plan = Self { shape, nodes, wires, folder };
        plan.lay().context("the cables")?;
        Ok(plan)
    }

    fn lay(&self) -> Result<()> {
        match self.shape {
            Shape::Pair => self.cable(0, 1),
            Shape::Line => (1..LINE).try_for_each(|node| self.cable(node - 1, node)),
            Shape::Triangle => self.triangle(),
            Shape::Crowd(nodes) => self.crowd(nodes),
        }
    }

    fn cable(&self, one: usize, other: usize) -> Result<()> {
        let address = |from: usize, to: usize| format!("{}/24", self.shape.reach(from, to)[0]);
        let [of_one, of_other] = [address(other, one), address(one, other)];
        let ends = [(one, format!("to{other}"), of_one), (other, format!("to{one}"), of_other)];
        let names = [format!("n{one}"), format!("n{other}")];
        self.wires.cable(
            End { at: &names[0], interface: &ends[0].1, addresses: &[&ends[0].2] },
            End { at: &names[1], interface: &ends[1].1, addresses: &[&ends[1].2] },
        )?;
        Ok(())
    }

    fn triangle(&self) -> Result<()> {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            self.cable(one, other)?;
        }
        self.wires.forwards("n2")?;
        for (node, other) in [(0, 1), (1, 0)] {
            let far = self.shape.triangle(other, 2);
            let via = self.shape.triangle(2, node);
            self.nodes[node].ip(&["route", "add", &format!("{far}/32"), "via", &via.to_string()])?;
        }
        Ok(())
    }

    fn crowd(&self, nodes: usize) -> Result<()> {
        let hub = self.hub();
        hub.ip(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
        hub.ip(&["link", "set", "bridge", "up"])?;
        for node in 0..nodes {
            let (name, cable, address) = (format!("n{node}"), format!("cable{node}"), format!("{}/16", in_crowd(node)));
            let hub_end = End { at: "hub", interface: &cable, addresses: &[] };
            self.wires.cable(hub_end, End { at: &name, interface: "eth0", addresses: &[&address] })?;
            hub.ip(&["link", "set", &cable, "master", "bridge"])?;
        }
        Ok(())
    }

    /// The machine with the bridge of a crowd.
    pub(crate) fn hub(&self) -> &Netns {
        self.wires.at("hub")
    }

    /// The last node.
    pub(crate) fn last(&self) -> usize {
        self.nodes.len() - 1
    }

    /// A folder for one node.
    pub(crate) fn folder(&self, node: usize) -> Result<PathBuf> {
        let folder = self.folder.path().join(format!("n{node}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// A folder for what all nodes share.
    pub(crate) fn shared(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the cable between two neighbours carry nothing, or carry again.
    pub(crate) fn silence(&self, one: usize, other: usize, silent: bool) -> Result<()> {
        for (node, interface) in [(one, format!("to{other}")), (other, format!("to{one}"))] {
            let netns = &self.nodes[node];
            if silent { netns.deafen(&interface)? } else { netns.undeafen(&interface)? }
        }
        Ok(())
    }

    /// Packets that a node has sent on its cable to a neighbour so far.
    pub(crate) fn sent_packets(&self, node: usize, neighbour: usize) -> Result<u64> {
        let interface = format!("to{neighbour}");
        let output =
            self.nodes[node].command("ip").args(["-json", "-statistics", "link", "show", &interface]).output()?;
        let links: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("`ip` said nothing of a cable")?;
        links[0]["stats64"]["tx"]["packets"].as_u64().context("`ip` does not say what was sent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_reach_each_other() {
        let check = |shape: Shape, from, to, expected: &[&str]| {
            let expected: Vec<Ipv4Addr> = expected.iter().map(|text| text.parse().expect("an address")).collect();
            assert_eq!(shape.reach(from, to), expected, "{shape:?}, {from} to {to}");
        };
        check(Shape::Pair, 0, 1, &["10.60.0.2"]);
        check(Shape::Pair, 1, 0, &["10.60.0.1"]);
        check(Shape::Line, 1, 2, &["10.60.1.2"]);
        check(Shape::Line, 2, 1, &["10.60.1.1"]);
        check(Shape::Line, 0, 2, &[]);
        check(Shape::Triangle, 0, 1, &["10.61.1.2", "10.61.3.1"]);
        check(Shape::Triangle, 1, 0, &["10.61.1.1", "10.61.2.1"]);
        check(Shape::Triangle, 0, 2, &["10.61.2.2"]);
        check(Shape::Triangle, 2, 1, &["10.61.3.1"]);
        check(Shape::Crowd(100), 3, 99, &["10.62.0.100"]);
    }

    #[test]
    fn everybody_is_told_of_somebody_who_is_there() {
        for shape in [Shape::Pair, Shape::Line, Shape::Triangle, Shape::Crowd(10)] {
            for node in 0..shape.nodes() {
                let contacts = shape.contacts(node);
                assert_eq!(contacts.is_empty(), node == 0, "{shape:?}");
                assert!(contacts.iter().all(|contact| *contact < node && !shape.reach(node, *contact).is_empty()));
            }
        }
    }
}
