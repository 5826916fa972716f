//! What programs ask the node's DNS server, what nodes call themselves, and the machine's `resolv.conf`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use atoll_fuzz::fuzz;
use atoll_ids::{NodeId, OwnerId};
use atoll_names::{
    Book, GivenName, KnownNode, Label, ResolvConf, Server, Step, Transport, Zone, nibbles, question_end, step,
};

fn zone() -> Zone {
    let (node, owner) = (NodeId::from_bytes([1; 32]), OwnerId::from_bytes([2; 32]));
    Zone::new(owner, &[KnownNode { node, owner: Some(owner), name: Some("attic".into()) }], Book::default(), 7)
}

/// One question, as it is sent.
fn question(name: &[&str], kind: u8) -> Vec<u8> {
    let labels = name.iter().flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    header.into_iter().chain(labels).chain([0, 0, kind, 0, 1]).collect()
}

/// The labels of an uncompressed name, read apart from the code under test. They are taken by their lengths: a label may
/// itself hold the bytes of `\x05atoll`, and is then no name of this zone.
fn labels(mut name: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let Some((&length, rest)) = name.split_first().filter(|(length, _)| **length > 0) {
        let (label, after) = rest.split_at(usize::from(length));
        labels.push(label);
        name = after;
    }
    labels
}

#[test]
fn a_label_that_holds_the_bytes_of_the_zone_is_not_in_it() {
    let odd = question(&["\x05atic mine\x05atoll"], 28);
    let own = Server { address: "127.0.0.1".parse().unwrap(), forwards: true };
    assert_eq!(labels(&odd[12..odd.len() - 4]), [b"\x05atic mine\x05atoll"]);
    assert!(matches!(step(&odd, Transport::Udp, &zone(), own), Step::Forward { .. }));
}

#[test]
fn questions() {
    let mut with_edns = question(&["attic", "mine", "atoll"], 28);
    with_edns[11] = 1;
    with_edns.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    let valid = vec![question(&["attic", "mine", "atoll"], 28), question(&["example", "org"], 1), with_edns];
    let (zone, own) = (zone(), Server { address: "127.0.0.1".parse().unwrap(), forwards: true });
    fuzz!(30_000, valid, |bytes: &[u8]| {
        for transport in [Transport::Udp, Transport::Tcp] {
            match step(bytes, transport, &zone, own) {
                Step::Ignore => {}
                Step::Reply(reply) => assert!(reply.len() >= 12 && reply[2] & 0x80 != 0 && reply[..2] == bytes[..2]),
                Step::Forward { failed, payload } => {
                    assert!(failed[2] & 0x80 != 0 && payload >= 512);
                    let Some(end) = question_end(bytes) else { return };
                    let top = labels(&bytes[12..end - 4]).pop().unwrap_or_default();
                    assert!(!top.eq_ignore_ascii_case(b"atoll"), "{bytes:?} is nobody else's business");
                }
            }
        }
    });
}

#[test]
fn ends_of_questions() {
    fuzz!(30_000, vec![question(&["attic", "mine", "atoll"], 28)], |bytes: &[u8]| {
        if let Some(end) = question_end(bytes) {
            assert!(end <= bytes.len() && question_end(&bytes[..end]) == Some(end));
        }
    });
}

#[test]
fn texts() {
    let valid = ["Anna's laptop", "anna", "wiki.mine.atoll", "d.6.0.ip6.arpa"].map(|text| text.as_bytes().to_vec());
    fuzz!(30_000, valid.to_vec(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(label) = Label::of(&text) {
            assert_eq!(label.as_str().parse::<Label>().unwrap(), label);
        }
        if let Ok(name) = text.parse::<GivenName>() {
            assert_eq!(name.to_string().parse::<GivenName>().unwrap(), name);
        }
        let _ = nibbles(&text.split('.').collect::<Vec<_>>());
    });
}

#[test]
fn resolv_conf() {
    let file = "# by hand\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\noptions rotate timeout:1\nsearch a b\n";
    let own: IpAddr = "127.64.0.53".parse().unwrap();
    fuzz!(30_000, vec![file.as_bytes().to_vec()], |bytes: &[u8]| {
        let conf = ResolvConf::parse(&String::from_utf8_lossy(bytes));
        let written = ResolvConf::parse(&conf.with_first(own, "heading"));
        assert_eq!(written.nameservers[0], own);
        assert!(conf.upstreams(own).len() <= 3 && !written.upstreams(own).iter().any(|upstream| upstream.ip() == own));
    });
}
