//! What every name stands for: a pure table, made of what is known of nodes and of what was given by hand.
//!
//! Invariant: what lies below an owner comes from nodes of that owner, and `mine` from this node's owner: its nodes, and the aliases that it gave.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;

use atoll_ids::{NodeId, OwnerId};

use crate::label::{Label, MINE, TOP};
use crate::reverse::{DIGITS, REVERSE, nibbles, range};

/// Where a name is for every node there is.
const NODE: &str = "node";

/// What the zone's server is called.
const SERVER: &str = "ns";

/// Most addresses of one name: as many as fit into an answer over UDP to a client that takes 1232 bytes.
const NODES_PER_NAME_MAX: usize = 32;

/// A node, as names need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Which.
    pub node: NodeId,
    /// Whose, if its owner's signature was checked.
    pub owner: Option<OwnerId>,
    /// What it calls itself.
    pub name: Option<String>,
}

/// What this node's owner gave by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book {
    /// Names of owners.
    pub owners: BTreeMap<Label, OwnerId>,
    /// Names of nodes, below `mine`.
    pub aliases: BTreeMap<Label, NodeId>,
}

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node's own, from its card.
    Node,
    /// A node's, given here.
    Alias,
}

/// A name in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// In full, without a dot at the end.
    pub name: String,
    /// What it is of.
    pub kind: Kind,
    /// The node.
    pub node: NodeId,
    /// Whose node it is, where that is known.
    pub owner: Option<OwnerId>,
}

/// Which of the two zones speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// `atoll`.
    Names,
    /// `6.0.ip6.arpa`.
    Reverse,
}

/// What is under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name belongs to somebody else's zone.
    Elsewhere,
    /// There is no such name.
    Nothing(Authority),
    /// There is such a name, with names below it or none, but nothing of its own.
    Empty(Authority),
    /// The zone itself.
    Apex(Authority),
    /// The zone's server.
    Server,
    /// These nodes.
    Nodes(Vec<NodeId>),
    /// The name of the address that was asked for.
    Name(String),
}

/// Nodes by label.
type Labelled = BTreeMap<Label, BTreeSet<NodeId>>;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Zone {
    mine: OwnerId,
    serial: u32,
    owners: HashMap<OwnerId, Labelled>,
    book: Book,
    /// The best name of each known node, by address.
    reverse: BTreeMap<u128, (NodeId, String)>,
    listed: Vec<Listed>,
}

impl Zone {
    /// The names of what is known. `serial` is larger than that of any zone before (RFC 1982).
    pub fn new(mine: OwnerId, nodes: &[KnownNode], book: Book, serial: u32) -> Self {
        let mut zone =
            Self { mine, serial, owners: HashMap::new(), book, reverse: BTreeMap::new(), listed: Vec::new() };
        let mut called: HashMap<OwnerId, Labelled> = HashMap::new();
        for known in nodes {
            let Some(owner) = known.owner else { continue };
            let nodes = called.entry(owner).or_default();
            if let Some(label) = known.name.as_deref().and_then(Label::of) {
                nodes.entry(label).or_default().insert(known.node);
            }
        }
        let owners: HashMap<NodeId, OwnerId> =
            nodes.iter().filter_map(|known| Some((known.node, known.owner?))).collect();
        zone.reverse = nodes.iter().map(|known| (bits(known.node), (known.node, below_node(known.node)))).collect();
        for (owner, labelled) in called {
            let labelled = zone.tell_apart(owner, labelled);
            zone.owners.insert(owner, labelled);
        }
        for (label, node) in &zone.book.aliases {
            let name = format!("{label}.{MINE}.{TOP}");
            zone.reverse.entry(bits(*node)).or_insert_with(|| (*node, name.clone()));
            zone.listed.push(Listed { name, kind: Kind::Alias, node: *node, owner: owners.get(node).copied() });
        }
        zone.listed.sort();
        zone
    }

    /// Gives nodes of the same name names of their own, and enters each node's best name in the list and under its address.
    fn tell_apart(&mut self, owner: OwnerId, called: Labelled) -> Labelled {
        let place = self.label_of(owner);
        let mut labelled = called.clone();
        for (label, nodes) in called {
            for node in &nodes {
                let own = if nodes.len() == 1 { label.clone() } else { label.told_apart(*node) };
                labelled.entry(own.clone()).or_default().insert(*node);
                let hidden = owner == self.mine && self.book.aliases.contains_key(&own);
                // Its name below `mine` is an alias of perhaps another; below the owner's id it is still there.
                let place = if hidden { owner.to_string() } else { place.clone() };
                let name = format!("{own}.{place}.{TOP}");
                self.reverse.insert(bits(*node), (*node, name.clone()));
                self.listed.push(Listed { name, kind: Kind::Node, node: *node, owner: Some(owner) });
            }
        }
        labelled
    }

    /// What an owner is called here: `mine`, the first of the names given, or the whole id.
    pub fn label_of(&self, owner: OwnerId) -> String {
        if owner == self.mine {
            return MINE.to_owned();
        }
        let given = self.book.owners.iter().find(|(_, named)| **named == owner);
        given.map_or_else(|| owner.to_string(), |(label, _)| label.to_string())
    }

    /// The number that grows with every change.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What was given by hand.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Every name but those that follow from an id, sorted.
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// The node at an address and its best name, if it is known here.
    pub fn at(&self, address: Ipv6Addr) -> Option<(NodeId, &str)> {
        self.reverse.get(&address.to_bits()).map(|(node, name)| (*node, name.as_str()))
    }

    /// What a name stands for: its labels in reading order, in lower case, without the root's.
    pub fn find(&self, labels: &[&str]) -> Found {
        if let [below @ .., TOP] = labels {
            return self.find_name(below);
        }
        if labels.ends_with(&REVERSE) {
            return self.find_address(labels);
        }
        Found::Elsewhere
    }

    fn find_name(&self, below: &[&str]) -> Found {
        let nothing = Found::Nothing(Authority::Names);
        match below {
            [] => Found::Apex(Authority::Names),
            [SERVER] => Found::Server,
            [NODE] => Found::Empty(Authority::Names),
            [id, NODE] => id.parse().map_or(nothing, |node| Found::Nodes(vec![node])),
            [owner] if self.owner(owner).is_some() => Found::Empty(Authority::Names),
            [label, owner] => {
                let nodes = self.owner(owner).and_then(|of| self.nodes(label, of, *owner == MINE));
                nodes.map_or(nothing, Found::Nodes)
            }
            _ => nothing,
        }
    }

    /// The owner that a label stands for, if there is anything below it.
    fn owner(&self, label: &str) -> Option<OwnerId> {
        if label == MINE {
            return Some(self.mine);
        }
        let given = label.parse::<Label>().ok().and_then(|label| self.book.owners.get(&label));
        let by_id = || label.parse().ok().filter(|owner| *owner == self.mine || self.owners.contains_key(owner));
        given.copied().or_else(by_id)
    }

    fn nodes(&self, label: &str, owner: OwnerId, with_aliases: bool) -> Option<Vec<NodeId>> {
        let label: Label = label.parse().ok()?;
        if let Some(node) = self.book.aliases.get(&label).filter(|_| with_aliases) {
            return Some(vec![*node]);
        }
        let nodes = self.owners.get(&owner)?.get(&label)?;
        Some(nodes.iter().take(NODES_PER_NAME_MAX).copied().collect())
    }

    fn find_address(&self, labels: &[&str]) -> Found {
        if labels == REVERSE {
            return Found::Apex(Authority::Reverse);
        }
        let Some(digits) = nibbles(labels) else { return Found::Nothing(Authority::Reverse) };
        let (first, last) = range(&digits);
        match self.reverse.range(first..=last).next() {
            None => Found::Nothing(Authority::Reverse),
            Some((_, (_, name))) if digits.len() == DIGITS => Found::Name(name.clone()),
            Some(_) => Found::Empty(Authority::Reverse),
        }
    }
}

fn bits(node: NodeId) -> u128 {
    node.planetary_address().ip().to_bits()
}

/// The name that every node has.
fn below_node(node: NodeId) -> String {
    format!("{node}.{NODE}.{TOP}")
}

#[cfg(test)]
mod tests;
