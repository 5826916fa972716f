//! Tables, and that a message is read the same in whatever pieces it comes.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[VERSION, CONNECT, 0, kind], address, &port.to_be_bytes()].concat()
}

fn named(name: &str, port: u16) -> Vec<u8> {
    request(NAME, &[&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat(), port)
}

#[test]
fn greetings() {
    let check = |bytes: &[u8], expect: Result<Option<(bool, usize)>, SocksError>| {
        let found = decode_greeting(bytes).map(|it| it.map(|(it, used)| (it.without_authentication, used)));
        assert_eq!(found, expect, "{bytes:?}");
    };
    check(&[], Ok(None));
    check(&[5], Ok(None));
    check(&[5, 1], Ok(None));
    check(&[5, 0], Ok(Some((false, 2))));
    check(&[5, 1, 0], Ok(Some((true, 3))));
    check(&[5, 2, 2, 0, 9], Ok(Some((true, 4))));
    check(&[5, 2, 1, 2], Ok(Some((false, 4))));
    check(&[4, 1, 0], Err(SocksError::Version(4)));
    check(b"GET", Err(SocksError::Version(b'G')));
}

#[test]
fn requests() {
    #[track_caller]
    fn check(bytes: &[u8], target: &str, port: u16) {
        let expect = Request { target: target.parse().unwrap(), port };
        assert_eq!(decode_request(bytes), Ok(Some((expect, bytes.len()))));
    }
    check(&request(IPV4, &[192, 0, 2, 1], 80), "192.0.2.1", 80);
    check(&request(IPV6, &Ipv6Addr::LOCALHOST.octets(), 65535), "::1", 65535);
    check(&request(IPV6, &"600::1".parse::<Ipv6Addr>().unwrap().octets(), 1), "600::1", 1);
    check(&request(IPV6, &"::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap().octets(), 1), "127.0.0.1", 1);
    check(&named("attic.atoll", 22), "attic.atoll", 22);
    // Some programs write addresses as names.
    check(&named("127.0.0.1", 22), "127.0.0.1", 22);
    check(&named("12.7.0.0.", 22), "12.7.0.0", 22);
}

#[test]
fn what_is_no_request_is_refused_with_its_code() {
    #[track_caller]
    fn check(bytes: &[u8], expect: SocksError, reply: Reply) {
        assert_eq!(decode_request(bytes), Err(expect.clone()));
        assert_eq!(expect.reply(), reply);
    }
    check(&[4, 1, 0, 80], SocksError::Version(4), Reply::Failure);
    check(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0], SocksError::Command(2), Reply::CommandNotSupported);
    check(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0], SocksError::Command(3), Reply::CommandNotSupported);
    check(&[5, 1, 0, 2, 0], SocksError::AddressType(2), Reply::AddressNotSupported);
    check(&named("", 1), SocksError::Name, Reply::AddressNotSupported);
    check(&named("a b", 1), SocksError::Name, Reply::AddressNotSupported);
    check(&request(NAME, &[2, 0xff, 0xfe], 1), SocksError::Name, Reply::AddressNotSupported);
}

#[test]
fn replies() {
    let check =
        |reply: Reply, bound: &str, expect: &[u8]| assert_eq!(encode_reply(reply, bound.parse().unwrap()), expect);
    check(Reply::Succeeded, "0.0.0.0:0", &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    check(Reply::Refused, "127.0.0.1:258", &[5, 5, 0, 1, 127, 0, 0, 1, 1, 2]);
    check(Reply::NotAllowed, "[::1]:1", &[&[5, 2, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 1]].concat());
}

proptest! {
    /// Cut anywhere, a message is not read before it is all there, and then without what follows it.
    #[test]
    fn pieces_make_the_same_message(host in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}", port: u16, more: Vec<u8>) {
        let whole = named(&host, port);
        for cut in 0..whole.len() {
            prop_assert_eq!(decode_request(&whole[..cut]), Ok(None));
        }
        let (request, used) = decode_request(&[&whole[..], &more].concat()).unwrap().unwrap();
        prop_assert_eq!((request.target.to_string(), request.port, used), (host, port, whole.len()));
    }

    #[test]
    fn nothing_that_comes_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for used in [decode_greeting(&bytes).ok().flatten().map(|it| it.1), decode_request(&bytes).ok().flatten().map(|it| it.1)] {
            prop_assert!(used.is_none_or(|used| used <= bytes.len() && used <= 262));
        }
        // Whatever it is, it is decided on after 262 bytes.
        if bytes.len() >= 262 {
            prop_assert!(!matches!(decode_greeting(&bytes), Ok(None)) && !matches!(decode_request(&bytes), Ok(None)));
        }
    }
}
