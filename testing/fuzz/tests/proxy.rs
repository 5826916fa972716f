//! What programs say to the proxy, and what peers ask the far side to connect to.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_proxy::{
    DialRequest, ExitRule, Place, Protocol, Reply, Route, Special, Target, decode_dial, decode_greeting,
    decode_request, encode_reply, owner_in,
};
use atoll_wire::encode;

#[test]
fn socks_greetings() {
    fuzz!(30_000, vec![vec![5, 1, 0], vec![5, 3, 2, 1, 0], vec![5, 0]], |bytes: &[u8]| {
        if let Ok(Some((greeting, used))) = decode_greeting(bytes) {
            assert!(used <= bytes.len());
            assert_eq!(greeting.without_authentication, bytes[2..used].contains(&0));
            // It is read as soon as it is there, and not before.
            assert_eq!(decode_greeting(&bytes[..used]), Ok(Some((greeting, used))));
            assert_eq!(decode_greeting(&bytes[..used - 1]), Ok(None));
        }
    });
}

#[test]
fn socks_requests() {
    let request = |kind: u8, address: &[u8]| [&[5, 1, 0, kind], address, &[0, 80]].concat();
    let valid = vec![
        request(1, &[127, 0, 0, 1]),
        request(4, &[6; 16]),
        request(3, b"\x0cattic.atoll."),
        request(3, b"\x09127.0.0.1"),
        encode_reply(Reply::Succeeded, "127.0.0.1:80".parse().unwrap()),
    ];
    fuzz!(30_000, valid, |bytes: &[u8]| {
        if let Ok(Some((request, used))) = decode_request(bytes) {
            assert!(used <= bytes.len() && used <= 262);
            assert_eq!(decode_request(&bytes[..used - 1]), Ok(None));
            assert_eq!(decode_request(&bytes[..used]), Ok(Some((request.clone(), used))));
            // What it is for has a text that means the same.
            assert_eq!(request.target.to_string().parse::<Target>(), Ok(request.target));
        }
    });
}

#[test]
fn requests_to_connect() {
    let request = |place: Place| encode(&DialRequest { place, port: 443, protocol: Protocol::Tcp });
    let valid = vec![
        request(Place::Here),
        request(Place::Address([10, 0, 0, 1].into())),
        request(Place::Address([6; 16].into())),
        request(Place::Name("www.example.com".into())),
    ];
    fuzz!(30_000, valid, |bytes: &[u8]| {
        if let Ok(request) = decode_dial(bytes) {
            assert_eq!(decode_dial(&encode(&request)).unwrap(), request);
            if let Place::Name(name) = request.place {
                assert!(atoll_proxy::is_host_name(&name));
            }
        }
    });
}

#[test]
fn texts() {
    let node = NodeId::from_bytes([7; 32]);
    let valid = [
        format!("node:{node} 10.1.0.0/16 tcp/443"),
        "peers internet".to_owned(),
        format!("corp.example={node}"),
        format!("10.0.0.0/8={node}"),
        format!("{node}.atoll"),
        "[600::1]".to_owned(),
        "::ffff:127.0.0.1".to_owned(),
    ];
    fuzz!(30_000, valid.into_iter().map(String::into_bytes).collect(), |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(rule) = text.parse::<ExitRule>() {
            assert_eq!(rule.to_string().parse::<ExitRule>(), Ok(rule));
        }
        if let Ok(route) = text.parse::<Route>() {
            assert_eq!(route.to_string().parse::<Route>(), Ok(route));
        }
        if let Ok(target) = text.parse::<Target>() {
            assert_eq!(target.to_string().parse::<Target>(), Ok(target.clone()));
            if let Target::Address(ip) = target {
                assert_eq!(ip, ip.to_canonical());
                let _: Special = Special::of(ip);
            }
        }
    });
}

/// The system's table is not foreign, but its lines are read with the same care.
#[test]
fn tables_of_sockets() {
    let line =
        "head\n   0: 0100007F:D431 0100007F:1694 01 00000000:00000000 00:00000000 00000000  1000        0 25321 1\n";
    let (local, remote) = ("127.0.0.1:54321".parse().unwrap(), "127.0.0.1:5780".parse().unwrap());
    fuzz!(20_000, vec![line.as_bytes().to_vec()], |bytes: &[u8]| {
        let _: Option<u32> = owner_in(&String::from_utf8_lossy(bytes), local, remote);
    });
}
