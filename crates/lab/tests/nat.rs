//! That the routers of the lab do to UDP and TCP what their names say. Takes root, iproute2, util-linux and nftables.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use atoll_lab::{End, Internet, Nat, Netns, Site, Wires};

/// Nothing here waits this long but for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// Time enough for what must come, on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);

/// The port that clients use on their machine.
const OWN_PORT: u16 = 4500;

fn udp(at: &Netns, port: u16) -> UdpSocket {
    let socket = at.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

/// Sends something and says from where it arrives.
fn seen_from(from: &UdpSocket, to: &UdpSocket, at: Ipv4Addr) -> SocketAddrV4 {
    from.send_to(b"here I am", (at, to.local_addr().unwrap().port())).unwrap();
    let (_, source) = to.recv_from(&mut [0; 64]).unwrap();
    match source {
        std::net::SocketAddr::V4(source) => source,
        std::net::SocketAddr::V6(_) => unreachable!("the lab has no IPv6"),
    }
}

/// Whether something sent to an address arrives there.
fn arrives(from: &UdpSocket, to: SocketAddrV4, at: &UdpSocket) -> bool {
    from.send_to(b"are you there?", to).unwrap();
    at.set_read_timeout(Some(SILENCE)).unwrap();
    let came = match at.recv_from(&mut [0; 64]) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("{error}"),
    };
    at.set_read_timeout(Some(ANSWER)).unwrap();
    came
}

/// What a site behind routers is like to the outside.
#[derive(Debug, PartialEq, Eq)]
struct Manner {
    same_port_for_all: bool,
    other_port_of_who_was_met: bool,
    who_was_never_met: bool,
}

fn manner(routers: &[Nat]) -> Manner {
    let sites = ["one", "two", "never"].map(Site::public).into_iter().chain([Site::behind("home", routers)]);
    let internet = Internet::new(&sites.collect::<Vec<_>>()).unwrap();
    let client = udp(internet.machine("home"), OWN_PORT);
    let servers = ["one", "one", "two", "never"].map(|site| udp(internet.machine(site), 0));
    let [met, same_host, also_met, never_met] = &servers;
    let [one, two] = ["one", "two"].map(|site| internet.public_address(site));

    // Somebody who came too early must not change anything.
    let too_early = SocketAddrV4::new(internet.public_address("home"), OWN_PORT);
    assert!(!arrives(never_met, too_early, &client), "before anything was sent out, nothing comes in");
    let seen = seen_from(&client, met, one);
    assert_eq!(*seen.ip(), internet.public_address("home"), "the outside sees the router's address");
    assert!(arrives(met, seen, &client), "who was sent to may answer");
    let manner = Manner {
        same_port_for_all: seen_from(&client, also_met, two) == seen,
        other_port_of_who_was_met: arrives(same_host, seen, &client),
        who_was_never_met: arrives(never_met, seen, &client),
    };
    assert!(arrives(met, seen, &client), "the first is not cut off by the others");
    manner
}

#[test]
fn routers_do_what_their_names_say() {
    let check = |routers: &[Nat], same_port_for_all, other_port_of_who_was_met, who_was_never_met| {
        let expected = Manner { same_port_for_all, other_port_of_who_was_met, who_was_never_met };
        assert_eq!(manner(routers), expected, "{routers:?}");
    };
    check(&[Nat::FullCone], true, true, true);
    check(&[Nat::Restricted], true, true, false);
    check(&[Nat::PortRestricted], true, false, false);
    check(&[Nat::Symmetric], false, false, false);
    // Behind two, the stricter decides.
    check(&[Nat::FullCone, Nat::PortRestricted], true, false, false);
    check(&[Nat::Symmetric, Nat::FullCone], false, false, false);
    check(&[Nat::PortRestricted, Nat::Symmetric], false, false, false);
}

fn connects(from: &Netns, to: &Netns, address: Ipv4Addr) -> bool {
    let listener = to.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080))).unwrap();
    let connected = from.inside(|| TcpStream::connect_timeout(&(address, 8080).into(), Duration::from_secs(1)));
    drop(listener);
    match connected {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn tcp_goes_out_and_never_in() {
    for nat in Nat::ALL {
        let internet = Internet::new(&[Site::public("server"), Site::behind("home", &[nat])]).unwrap();
        let (server, home) = (internet.machine("server"), internet.machine("home"));
        assert!(connects(home, server, internet.public_address("server")), "{nat:?}: out");
        assert!(!connects(server, home, internet.public_address("home")), "{nat:?}: in");
        // Even if the whole world knew the way.
        let own = format!("{}/32", internet.own_address("home"));
        internet.core().ip(&["route", "add", &own, "via", &internet.public_address("home").to_string()]).unwrap();
        assert!(!connects(server, home, internet.own_address("home")), "{nat:?}: past the router");
    }
}

#[test]
fn an_internet_is_parted_and_heals() {
    let internet = Internet::new(&["a", "b", "c"].map(Site::public)).unwrap();
    let sockets = ["a", "b", "c"].map(|site| udp(internet.machine(site), OWN_PORT));
    let at = |site| SocketAddrV4::new(internet.public_address(site), OWN_PORT);
    let check = |a_and_b, a_and_c, b_and_c| {
        assert_eq!(arrives(&sockets[0], at("b"), &sockets[1]), a_and_b);
        assert_eq!(arrives(&sockets[0], at("c"), &sockets[2]), a_and_c);
        assert_eq!(arrives(&sockets[2], at("b"), &sockets[1]), b_and_c);
    };
    check(true, true, true);
    internet.part(&["c"]).unwrap();
    check(true, false, false);
    internet.heal().unwrap();
    internet.part(&["a", "b"]).unwrap();
    check(true, false, false);
    internet.heal().unwrap();
    check(true, true, true);
}

#[test]
fn a_narrow_way_swallows_what_is_too_large_without_a_word() {
    let internet = Internet::new(&["a", "b"].map(Site::public)).unwrap();
    let [a, b] = ["a", "b"].map(|site| udp(internet.machine(site), OWN_PORT));
    let to_b = SocketAddrV4::new(internet.public_address("b"), OWN_PORT);
    let pings = |bytes: &str| {
        let mut ping = internet.machine("a").command("ping");
        ping.args(["-c", "1", "-W", "1", "-M", "do", "-s", bytes, &to_b.ip().to_string()]);
        ping.output().expect("ping is there: apt-get install iputils-ping")
    };
    assert!(pings("1400").status.success());
    internet.narrow("b", 1300).unwrap();
    let lost = pings("1400");
    assert!(!lost.status.success());
    let said = String::from_utf8_lossy(&lost.stdout).to_lowercase();
    assert!(!said.contains("frag needed"), "somebody told: {said}");
    assert!(pings("1200").status.success());
    assert!(arrives(&a, to_b, &b));
}

#[test]
fn a_public_address_changes() {
    let internet = Internet::new(&[Site::public("server"), Site::behind("home", &[Nat::PortRestricted])]).unwrap();
    let (client, server) = (udp(internet.machine("home"), OWN_PORT), udp(internet.machine("server"), 0));
    let at = internet.public_address("server");
    let before = seen_from(&client, &server, at);
    internet.renumber("home", 77).unwrap();
    let after = seen_from(&client, &server, at);
    assert_eq!((before.ip().octets()[3], after.ip().octets()[3]), (2, 77));
    assert!(!arrives(&server, before, &client), "nobody has the old address");
    assert!(arrives(&server, after, &client));
}

#[test]
fn a_deaf_interface_hears_nothing_and_stays_up() {
    let wires = Wires::new(&["a", "b"]).unwrap();
    let end = |at, addresses| End { at, interface: "eth0", addresses };
    wires.cable(end("a", &["10.9.0.1/24", "fd09::1/64"]), end("b", &["10.9.0.2/24", "fd09::2/64"])).unwrap();
    let (a, b) = (udp(wires.at("a"), OWN_PORT), udp(wires.at("b"), OWN_PORT));
    let to_b = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), OWN_PORT);
    assert!(arrives(&a, to_b, &b));
    wires.at("b").deafen("eth0").unwrap();
    assert!(!arrives(&a, to_b, &b));
    wires.at("b").undeafen("eth0").unwrap();
    assert!(arrives(&a, to_b, &b));
}
