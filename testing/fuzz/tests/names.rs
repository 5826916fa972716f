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
                    let name = bytes[12..end - 4].to_ascii_lowercase();
                    assert!(!name.ends_with(b"\x05atoll\0"), "{bytes:?} is nobody else's business");
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
