//! Programs reach programs: by every name there is, and not where no rule leads.

use std::collections::BTreeSet;

use atoll_ids::NodeId;
use atoll_proxy::Users;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{Make, OTHER, asks, echo, eventually, pair, pair_of};

#[tokio::test]
async fn a_node_is_reached_by_id_address_and_name() {
    let (one, other) = pair().await;
    let port = echo().await;
    other.allow(port);
    let id = other.id();
    for host in [id.to_string(), format!("{id}.atoll"), id.planetary_address().to_string(), OTHER.to_owned()] {
        asks(&mut one.socks(&host, port).await.unwrap()).await;
    }
    eventually("all is over", || one.reacher.counts().now().open == 0 && other.server.counts().now().open == 0).await;
    let (here, there) = (one.reacher.counts().now(), other.server.counts().now());
    assert_eq!((here.connected, here.denied, here.sent, here.received), (4, 0, 56, 56));
    assert_eq!((there.connected, there.denied, there.sent, there.received), (4, 0, 56, 56));
}

#[tokio::test]
async fn without_lanes_streams_do_as_well() {
    let (one, other) = pair_of(Make::default(), Make { lanes: false, ..Make::default() }).await;
    let port = echo().await;
    other.allow(port);
    asks(&mut one.socks(OTHER, port).await.unwrap()).await;
}

#[tokio::test]
async fn this_node_is_reached_as_any() {
    let (one, _other) = pair().await;
    let port = echo().await;
    asks(&mut one.socks(&one.id().to_string(), port).await.unwrap()).await;
}

#[tokio::test]
async fn what_is_not_reached_has_a_code() {
    let own = echo().await;
    let (one, other) = pair_of(Make::default(), Make { own: vec![own], ..Make::default() }).await;
    let (port, closed) = (echo().await, closed_port().await);
    other.allow(closed);
    other.allow(own);
    let check = async |host: &str, port: u16, expect: u8| {
        assert_eq!(one.socks(host, port).await.unwrap_err(), expect, "{host} {port}");
    };
    check(OTHER, port, 2).await;
    check(OTHER, own, 2).await;
    check(OTHER, closed, 5).await;
    check("nobody.atoll", port, 4).await;
    check("600::1", port, 4).await;
    check(&NodeId::from_bytes([9; 32]).to_string(), port, 4).await;
    check("example.com", 80, 2).await;
    check("192.0.2.1", 80, 2).await;
    check("a b", 80, 8).await;
    // Refused is not connected: the program heard nothing.
    assert_eq!(other.server.counts().now().connected, 0);
}

async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn what_socks_does_not_do_here_is_refused() {
    let (one, _other) = pair().await;
    let check = async |said: &[u8], expect: &[u8]| {
        let mut stream = TcpStream::connect(one.proxy).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, expect, "{said:?}");
    };
    let refused = |code: u8| [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    // Bind, and UDP.
    check(&[5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 80], &refused(7)).await;
    check(&[5, 1, 0, 5, 3, 0, 1, 127, 0, 0, 1, 0, 80], &refused(7)).await;
    check(&[5, 1, 0, 5, 1, 0, 9, 0], &refused(8)).await;
    check(&[5, 1, 2], &[5, 0xff]).await;
    check(&[5, 0], &[5, 0xff]).await;
}

/// A program may say everything at once, and its first bytes for the target with it.
#[tokio::test]
async fn what_is_said_early_is_not_lost() {
    let (one, other) = pair().await;
    let port = echo().await;
    other.allow(port);
    let mut stream = UnixStream::connect(&one.socket).await.unwrap();
    let name = OTHER.as_bytes();
    let length = [u8::try_from(name.len()).unwrap()];
    let said = [&[5, 1, 0, 5, 1, 0, 3][..], &length, name, &port.to_be_bytes(), b"early"].concat();
    stream.write_all(&said).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"early"].concat());
}

#[tokio::test]
async fn other_users_of_the_machine_get_nothing() {
    let nobody = Users::These(BTreeSet::new());
    let (one, other) = pair_of(Make { users: nobody, ..Make::default() }, Make::default()).await;
    let port = echo().await;
    other.allow(port);
    assert_eq!(one.socks(OTHER, port).await.unwrap_err(), 0xff);
    let mut stream = TcpStream::connect(one.proxy).await.unwrap();
    let request = format!("CONNECT {OTHER}:{port} HTTP/1.1\r\nHost: {OTHER}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    assert_eq!(other.server.counts().now().connected, 0);
}
