//! Beyond the nodes: by rule, and by no trick to what no rule names.

use atoll_proxy::Routes;

use crate::support::{Make, Node, asks, echo, pair_of};

async fn with_exit(rules: &'static [&'static str]) -> (Node, Node) {
    let (one, other) = pair_of(Make::default(), Make { exit: rules, ..Make::default() }).await;
    one.reacher.set_routes(Routes::new(vec![other.id().to_string().parse().unwrap()]));
    (one, other)
}

#[tokio::test]
async fn an_address_that_a_rule_names_exactly_is_reached_by_address_and_by_name() {
    let (one, _other) = with_exit(&["peers 127.0.0.1/32"]).await;
    let port = echo().await;
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "localhost", "127.1"] {
        asks(&mut one.socks(host, port).await.unwrap_or_else(|code| panic!("{host}: {code}"))).await;
    }
    assert_eq!(one.socks("127.0.0.2", port).await.unwrap_err(), 2);
}

#[tokio::test]
async fn without_a_rule_nothing_is_reached_and_nothing_looked_up() {
    let (one, other) = with_exit(&[]).await;
    for host in ["127.0.0.1", "localhost", "no-such-name.invalid", "192.0.2.1"] {
        assert_eq!(one.socks(host, 80).await.unwrap_err(), 2, "{host}");
    }
    assert_eq!(other.server.counts().now().denied, 4);
}

/// Every way to say "you yourself" to a machine that leads everywhere else.
#[tokio::test]
async fn no_trick_leads_to_the_exit_itself() {
    let (one, other) =
        with_exit(&["peers internet", "peers 127.0.0.0/8", "peers 0.0.0.0/1", "peers ::/1", "peers 10.0.0.0/8"]).await;
    let port = echo().await;
    let ways = [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.0.0.1",
        "::1",
        "::",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "64:ff9b::7f00:1",
        "169.254.169.254",
        "fe80::1",
        "255.255.255.255",
        "224.0.0.1",
        // Names that lead there; the resolver takes numbers in many forms.
        "localhost",
        "LOCALHOST.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0",
    ];
    for host in ways {
        assert_eq!(one.socks(host, port).await.unwrap_err(), 2, "{host}");
    }
    assert_eq!(other.server.counts().now().connected, 0);
}

/// This machine's own addresses lead to what listens on all of them, past whatever guards it from outside.
#[tokio::test]
async fn own_addresses_are_not_the_network_they_are_in() {
    let Some(own) = own_address() else { return };
    let network = format!("peers {}/8", std::net::Ipv4Addr::from(u32::from(own) & 0xff00_0000)).leak();
    let (one, _other) = with_exit(vec![&*network].leak()).await;
    let port = echo().await;
    assert_eq!(one.socks(&own.to_string(), port).await.unwrap_err(), 2);
}

/// The address that this machine would send from, if it has one.
fn own_address() -> Option<std::net::Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

#[tokio::test]
async fn planetary_addresses_are_not_exits() {
    let (one, other) = with_exit(&["peers 600::/8", "peers internet"]).await;
    // Nobody's address: it goes to no exit, though there is one.
    assert_eq!(one.socks("600::1", 80).await.unwrap_err(), 4);
    assert_eq!(other.server.counts().now().denied, 0);
}

#[tokio::test]
async fn an_exit_that_is_this_node_is_none() {
    let (one, _other) = with_exit(&["peers 127.0.0.1"]).await;
    one.reacher.set_routes(Routes::new(vec![one.id().to_string().parse().unwrap()]));
    assert_eq!(one.socks("127.0.0.1", echo().await).await.unwrap_err(), 2);
}

#[tokio::test]
async fn a_name_that_means_nothing_there_is_told_so() {
    let (one, _other) = with_exit(&["peers internet"]).await;
    assert_eq!(one.socks("no-such-name.invalid", 80).await.unwrap_err(), 4);
}
