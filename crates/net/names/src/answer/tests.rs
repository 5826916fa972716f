//! What is answered to questions, as tables.

#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_ids::OwnerId;

use super::*;
use crate::reverse::reverse_name;
use crate::zone::{Book, KnownNode};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn zone() -> Zone {
    let owner = OwnerId::from_bytes([0x81; 32]);
    let known = |number: u8, name: &str| KnownNode { node: node(number), owner: Some(owner), name: Some(name.into()) };
    let mut nodes = vec![known(1, "attic")];
    nodes.extend((10..60).map(|number| known(number, "crowd")));
    Zone::new(owner, &nodes, Book::default(), 7)
}

fn server(forwards: bool) -> Server {
    Server { address: "127.64.0.53".parse().unwrap(), forwards }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn ask_over(transport: Transport, query: &Message, forwards: bool) -> Message {
    let Step::Reply(reply) = step(&query.to_vec().unwrap(), transport, &zone(), server(forwards)) else {
        panic!("no reply to {query}")
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (query.metadata.id, MessageType::Response));
    assert_eq!(reply.metadata.recursion_desired, query.metadata.recursion_desired);
    assert_eq!(reply.metadata.recursion_available, forwards);
    assert_eq!(reply.edns.is_some(), query.edns.is_some(), "EDNS is answered with EDNS and nothing else is");
    reply
}

fn ask(name: &str, kind: RecordType) -> Message {
    let reply = ask_over(Transport::Udp, &query(name, kind), false);
    assert_eq!(reply.queries, query(name, kind).queries);
    reply
}

#[test]
fn answers_with_authority() {
    #[track_caller]
    fn check(name: &str, kind: RecordType, expect: &[&str]) {
        let reply = ask(name, kind);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{reply}");
        assert!(reply.metadata.authoritative && reply.authorities.is_empty(), "{reply}");
        let said: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(said, expect, "{reply}");
        assert!(reply.answers.iter().all(|record| record.ttl == TTL_SECONDS && record.name == reply.queries[0].name));
    }
    let address = node(1).planetary_address().ip();
    let there = address.to_string();
    check("attic.mine.atoll.", RecordType::AAAA, &[&there]);
    check("ATTIC.Mine.aToLL.", RecordType::AAAA, &[&there]);
    check("attic.mine.atoll.", RecordType::ANY, &[&there]);
    check(&format!("{}.node.atoll.", node(1)), RecordType::AAAA, &[&there]);
    check(&format!("{}.", reverse_name(address)), RecordType::PTR, &["attic.mine.atoll."]);
    check("ns.atoll.", RecordType::A, &["127.64.0.53"]);
    check("atoll.", RecordType::NS, &["ns.atoll."]);
    check("6.0.ip6.arpa.", RecordType::NS, &["ns.atoll."]);
    let soa = "ns.atoll. hostmaster.atoll. 7 3600 600 86400 3";
    check("atoll.", RecordType::SOA, &[soa]);
    check("atoll.", RecordType::ANY, &[soa, "ns.atoll."]);
}

#[test]
fn what_there_is_not() {
    #[track_caller]
    fn check(name: &str, kind: RecordType, code: ResponseCode, zone: &str) {
        let reply = ask(name, kind);
        assert_eq!(reply.metadata.response_code, code, "{reply}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty(), "{reply}");
        let [soa] = reply.authorities.as_slice() else { panic!("{reply}") };
        assert_eq!((soa.name.to_ascii().as_str(), soa.record_type(), soa.ttl), (zone, RecordType::SOA, 3), "{reply}");
    }
    let (none, no) = (ResponseCode::NXDomain, ResponseCode::NoError);
    check("cellar.mine.atoll.", RecordType::AAAA, none, "atoll.");
    check("bert.atoll.", RecordType::A, none, "atoll.");
    check("a.b.c.d.atoll.", RecordType::TXT, none, "atoll.");
    check("attic.mine.atoll.", RecordType::A, no, "atoll.");
    check("attic.mine.atoll.", RecordType::HTTPS, no, "atoll.");
    check("mine.atoll.", RecordType::AAAA, no, "atoll.");
    check("atoll.", RecordType::AAAA, no, "atoll.");
    check("ns.atoll.", RecordType::AAAA, no, "atoll.");
    let address = reverse_name(node(1).planetary_address().ip()) + ".";
    check(&address, RecordType::AAAA, no, "6.0.ip6.arpa.");
    check(&address[2..], RecordType::PTR, no, "6.0.ip6.arpa.");
    check(&(reverse_name("6ff::1".parse().unwrap()) + "."), RecordType::PTR, none, "6.0.ip6.arpa.");
    check("z.6.0.ip6.arpa.", RecordType::PTR, none, "6.0.ip6.arpa.");
    let odd = Name::from_labels([&b"\xff\xfe"[..], b"mine", b"atoll"]).unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(odd, RecordType::AAAA));
    let reply = ask_over(Transport::Udp, &query, true);
    assert_eq!(reply.metadata.response_code, none, "a name that is no text is still below atoll: {reply}");
}

#[test]
fn refusals() {
    #[track_caller]
    fn check(what: &str, change: impl FnOnce(&mut Message), code: ResponseCode) {
        let mut query = query("attic.mine.atoll.", RecordType::AAAA);
        change(&mut query);
        let reply = ask_over(Transport::Udp, &query, false);
        // By number: 16 has two names.
        let said = (u16::from(reply.metadata.response_code), reply.answers.len());
        assert_eq!(said, (u16::from(code), 0), "{what}: {reply}");
    }
    let kind = |kind| move |query: &mut Message| query.queries[0].query_type = kind;
    check("the whole zone", kind(RecordType::AXFR), ResponseCode::Refused);
    check("what changed in it", kind(RecordType::IXFR), ResponseCode::Refused);
    check("another class", |query| query.queries[0].query_class = DNSClass::CH, ResponseCode::Refused);
    check("an update", |query| query.metadata.op_code = OpCode::Update, ResponseCode::NotImp);
    check("no question", |query| query.queries.clear(), ResponseCode::FormErr);
    check("two questions", |query| query.queries.push(query.queries[0].clone()), ResponseCode::FormErr);
    let newer = |query: &mut Message| query.edns = Some(Edns::new().set_version(1).clone());
    check("another EDNS", newer, ResponseCode::BADVERS);
    let elsewhere = |query: &mut Message| query.queries[0].name = Name::from_ascii("a.example.").unwrap();
    check("elsewhere", elsewhere, ResponseCode::Refused);
}

#[test]
fn only_what_is_elsewhere_is_asked_of_others() {
    #[track_caller]
    fn check(name: &str, expect: bool) {
        let mut query = query(name, RecordType::MX);
        query.edns = Some(Edns::new().set_max_payload(4000).clone());
        match step(&query.to_vec().unwrap(), Transport::Udp, &zone(), server(true)) {
            Step::Forward { failed, payload } if expect => {
                let failed = Message::from_vec(&failed).unwrap();
                assert_eq!((failed.metadata.response_code, payload), (ResponseCode::ServFail, 4000));
                assert!(failed.metadata.recursion_available && !failed.metadata.authoritative);
            }
            step => assert_eq!(matches!(step, Step::Forward { .. }), expect, "{name}: {step:?}"),
        }
    }
    check("example.org.", true);
    check(".", true);
    check("atoll.example.", true);
    check("7.0.ip6.arpa.", true);
    check("atoll.", false);
    check("AToll.", false);
    check("anything.at.all.atoll.", false);
    check("6.0.ip6.arpa.", false);
    check("f.f.f.6.0.IP6.arpa.", false);
}

#[test]
fn answers_that_do_not_fit_are_cut_and_whole_over_tcp() {
    #[track_caller]
    fn check(transport: Transport, payload: Option<u16>, cut: bool) {
        let mut query = query("crowd.mine.atoll.", RecordType::AAAA);
        query.edns = payload.map(|payload| Edns::new().set_max_payload(payload).clone());
        let reply = ask_over(transport, &query, false);
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (cut, if cut { 0 } else { 32 }), "{payload:?}");
    }
    check(Transport::Udp, None, true);
    check(Transport::Udp, Some(0), true);
    check(Transport::Udp, Some(1232), false);
    check(Transport::Udp, Some(u16::MAX), false);
    check(Transport::Tcp, None, false);
}

#[test]
fn what_is_no_question_is_said_to_be_none_or_left() {
    let ask = |bytes: &[u8]| step(bytes, Transport::Udp, &zone(), server(true));
    assert_eq!(ask(&[]), Step::Ignore);
    assert_eq!(ask(&[1; 11]), Step::Ignore);
    let mut query = query("attic.mine.atoll.", RecordType::AAAA).to_vec().unwrap();
    query.truncate(20);
    let Step::Reply(reply) = ask(&query) else { panic!() };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(reply.metadata.id.to_be_bytes(), query[..2]);
    query[2] |= 0x80;
    assert_eq!(ask(&query), Step::Ignore, "an answer is never answered");
}
