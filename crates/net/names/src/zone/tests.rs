//! The table of names, by examples and for any card.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::reverse::reverse_name;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn owner(number: u8) -> OwnerId {
    OwnerId::from_bytes([0x80 | number; 32])
}

fn known(number: u8, owned: u8, name: &str) -> KnownNode {
    KnownNode { node: node(number), owner: Some(owner(owned)), name: Some(name.to_owned()) }
}

/// Owner 1 is this node's; owner 2 is called anna here.
fn zone() -> Zone {
    let nodes = [
        known(1, 1, "Attic"),
        known(2, 1, "wiki"),
        known(3, 2, "web1"),
        known(4, 2, "Web 1"),
        known(5, 2, "web1"),
        known(6, 3, "web1"),
        KnownNode { node: node(7), owner: None, name: Some("attic".to_owned()) },
        KnownNode { node: node(8), owner: Some(owner(4)), name: None },
    ];
    let book = Book {
        owners: [("anna", 2), ("nobody", 9)].map(|(name, of)| (name.parse().unwrap(), owner(of))).into(),
        aliases: [("wiki", 6), ("far", 99)].map(|(name, of)| (name.parse().unwrap(), node(of))).into(),
    };
    Zone::new(owner(1), &nodes, book, 7)
}

fn found(zone: &Zone, name: &str) -> Found {
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    zone.find(&labels)
}

fn nodes<const N: usize>(numbers: [u8; N]) -> Found {
    Found::Nodes(numbers.map(node).to_vec())
}

#[test]
fn names() {
    let zone = zone();
    #[track_caller]
    fn check(zone: &Zone, name: &str, expect: Found) {
        assert_eq!(found(zone, name), expect, "{name}");
    }
    let (nothing, empty) = (Found::Nothing(Authority::Names), Found::Empty(Authority::Names));
    let [one, two, three, four, nine] = [1, 2, 3, 4, 9].map(|number| owner(number).to_string());
    check(&zone, "atoll", Found::Apex(Authority::Names));
    check(&zone, "ns.atoll", Found::Server);
    check(&zone, "x.ns.atoll", nothing.clone());
    for below_which_is_something in ["node", "mine", "anna", "nobody", &one, &two, &three, &four] {
        check(&zone, &format!("{below_which_is_something}.atoll"), empty.clone());
    }
    check(&zone, "bert.atoll", nothing.clone());
    check(&zone, &format!("{nine}.atoll"), nothing.clone());
    // By id: any node there can be.
    check(&zone, &format!("{}.node.atoll", node(3)), nodes([3]));
    check(&zone, &format!("{}.node.atoll", node(200)), nodes([200]));
    check(&zone, "attic.node.atoll", nothing.clone());
    check(&zone, &format!("x.{}.node.atoll", node(3)), nothing.clone());
    // By the names on cards.
    check(&zone, "attic.mine.atoll", nodes([1]));
    check(&zone, &format!("attic.{one}.atoll"), nodes([1]));
    check(&zone, &format!("web1.{three}.atoll"), nodes([6]));
    check(&zone, "web1.mine.atoll", nothing.clone());
    check(&zone, "x.attic.mine.atoll", nothing.clone());
    // An alias comes before a node of that name, but only below `mine`.
    check(&zone, "wiki.mine.atoll", nodes([6]));
    check(&zone, &format!("wiki.{one}.atoll"), nodes([2]));
    check(&zone, "far.mine.atoll", nodes([99]));
    check(&zone, &format!("far.{one}.atoll"), nothing.clone());
    // Two of the same name.
    check(&zone, "web1.anna.atoll", nodes([3, 5]));
    check(&zone, &format!("web1-{}.anna.atoll", node(3).short()), nodes([3]));
    check(&zone, &format!("web1-{}.{two}.atoll", node(5).short()), nodes([5]));
    check(&zone, "web-1.anna.atoll", nodes([4]));
    check(&zone, "web1.nobody.atoll", nothing.clone());
    check(&zone, "_x._tcp.atoll", nothing);
    // Not ours.
    for name in ["", "org", "atoll.org", "xatoll", "arpa", "ip6.arpa", "0.ip6.arpa", "7.0.ip6.arpa"] {
        check(&zone, name, Found::Elsewhere);
    }
}

#[test]
fn addresses() {
    let zone = zone();
    let two = owner(2).to_string();
    #[track_caller]
    fn check(zone: &Zone, node: NodeId, expect: Option<&str>) {
        let address = node.planetary_address().ip();
        let found = found(zone, &reverse_name(address));
        let expected = expect.map_or(Found::Nothing(Authority::Reverse), |name| Found::Name(name.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(zone.at(address), expect.map(|name| (node, name)));
    }
    check(&zone, node(1), Some("attic.mine.atoll"));
    check(&zone, node(2), Some(&format!("wiki.{}.atoll", owner(1))));
    check(&zone, node(3), Some(&format!("web1-{}.anna.atoll", node(3).short())));
    check(&zone, node(4), Some("web-1.anna.atoll"));
    check(&zone, node(6), Some(&format!("web1.{}.atoll", owner(3))));
    check(&zone, node(7), Some(&format!("{}.node.atoll", node(7))));
    check(&zone, node(8), Some(&format!("{}.node.atoll", node(8))));
    check(&zone, node(99), Some("far.mine.atoll"));
    check(&zone, node(100), None);
    assert!(!zone.listed().iter().any(|listed| listed.name.contains(&two)), "it has a name here");

    assert_eq!(found(&zone, "6.0.ip6.arpa"), Found::Apex(Authority::Reverse));
    assert_eq!(found(&zone, "g.6.0.ip6.arpa"), Found::Nothing(Authority::Reverse));
    let whole = reverse_name(node(1).planetary_address().ip());
    for cut in 1..30 {
        let prefix: Vec<&str> = whole.split('.').skip(cut).collect();
        assert_eq!(found(&zone, &prefix.join(".")), Found::Empty(Authority::Reverse), "{prefix:?}");
    }
    assert_eq!(found(&zone, &format!("0.{whole}")), Found::Nothing(Authority::Reverse));
}

#[test]
fn every_listed_name_leads_to_its_node() {
    let zone = zone();
    assert_eq!(zone.listed().len(), 8, "{:?}", zone.listed());
    for listed in zone.listed() {
        assert_eq!(found(&zone, &listed.name), Found::Nodes(vec![listed.node]), "{listed:?}");
    }
}

proptest! {
    /// Whatever others call themselves, and however they are called here.
    #[test]
    fn nobody_is_found_below_somebody_else(
        nodes in vec((any::<u8>(), 0_u8..4, "[a-c1-]{0,3}|mine|node|ns|anna|[a-z2-7]{52}"), 0..12),
        asked in "[a-c1-]{1,3}|mine|node|ns|anna|[a-z2-7]{52}",
    ) {
        let nodes: Vec<KnownNode> = nodes.iter().map(|(number, owned, name)| known(*number, *owned, name)).collect();
        let book = Book { owners: [("anna".parse().unwrap(), owner(2))].into(), aliases: BTreeMap::new() };
        let zone = Zone::new(owner(1), &nodes, book, 1);
        let places = [("mine".to_owned(), owner(1)), ("anna".to_owned(), owner(2)), (owner(3).to_string(), owner(3))];
        for (place, of) in places {
            match found(&zone, &format!("{asked}.{place}.atoll")) {
                Found::Nodes(ids) => for id in ids {
                    prop_assert!(nodes.iter().any(|known| known.node == id && known.owner == Some(of)));
                },
                other => prop_assert_eq!(other, Found::Nothing(Authority::Names)),
            }
        }
        for listed in zone.listed() {
            match found(&zone, &listed.name) {
                Found::Nodes(ids) => prop_assert!(ids.contains(&listed.node)),
                other => prop_assert!(false, "{:?} for {:?}", other, listed),
            }
        }
    }
}
