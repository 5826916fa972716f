//! What happens to the bytes: all arrive, each direction ends by itself, and what breaks is not taken for an end.

use std::time::Duration;

use atoll_proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{Make, OTHER, PATIENCE, asks, echo, eventually, pair, pair_of, program};

/// Much more than all buffers on the way hold.
const MUCH: usize = 48 << 20;

fn content(seed: &[u8]) -> Vec<u8> {
    let mut content = vec![0; MUCH];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut content);
    content
}

/// Sends what is given and reads to the end, both at the same time; gives the hash of what came.
async fn exchange(mut stream: TcpStream, content: &[u8]) -> blake3::Hash {
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        writer.write_all(content).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let (_, received) = tokio::join!(sending, reader.read_to_end(&mut came));
    received.unwrap();
    blake3::hash(&came)
}

async fn much_both_ways(lanes: bool) {
    let (one, other) = pair_of(Make::default(), Make { lanes, ..Make::default() }).await;
    let (tell, mut told) = mpsc::channel(1);
    let port = program(move |stream| {
        let tell = tell.clone();
        async move { tell.send(exchange(stream, &content(b"back")).await).await.unwrap() }
    })
    .await;
    other.allow(port);
    let (there, back) = (content(b"there"), content(b"back"));
    let stream = one.socks(OTHER, port).await.unwrap();
    let came = timeout(2 * PATIENCE, exchange(stream, &there)).await.unwrap();
    assert_eq!(came, blake3::hash(&back));
    assert_eq!(told.recv().await.unwrap(), blake3::hash(&there));
    eventually("it is over", || one.reacher.counts().now().open == 0 && other.server.counts().now().open == 0).await;
    assert_eq!(one.reacher.counts().now().sent, MUCH as u64);
    assert_eq!(other.server.counts().now().received, MUCH as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_arrives_whole_both_ways_over_a_lane() {
    much_both_ways(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_arrives_whole_both_ways_over_quic() {
    much_both_ways(false).await;
}

/// As `ssh host command < file` does: the question ends first, the answer comes after.
#[tokio::test]
async fn one_direction_ends_before_the_other() {
    let (one, other) = pair().await;
    let port = program(|mut stream| async move {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        stream.write_all(format!("{} bytes", question.len()).as_bytes()).await.unwrap();
    })
    .await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "100000 bytes");
}

/// And the other way round: the program there says all it has to say and still listens.
#[tokio::test]
async fn the_other_direction_ends_before_the_one() {
    let (one, other) = pair().await;
    let (tell, mut told) = mpsc::channel(1);
    let port = program(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"welcome").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            tell.send(rest).await.unwrap();
        }
    })
    .await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    let mut welcome = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut welcome)).await.unwrap().unwrap();
    assert_eq!(welcome, "welcome");
    stream.write_all(b"thanks").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap().unwrap(), "thanks");
}

async fn breaks_there(lanes: bool) {
    let (one, other) = pair_of(Make::default(), Make { lanes, ..Make::default() }).await;
    let port = program(|mut stream| async move {
        stream.write_all(b"half of an ans").await.unwrap();
        let mut go_on = [0; 1];
        stream.read_exact(&mut go_on).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    let mut half = [0; 14];
    stream.read_exact(&mut half).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let ended = timeout(PATIENCE, stream.read(&mut half)).await.unwrap();
    assert!(ended.is_err(), "it looks like an end: {ended:?}");
}

#[tokio::test]
async fn what_breaks_there_breaks_here_over_a_lane() {
    breaks_there(true).await;
}

#[tokio::test]
async fn what_breaks_there_breaks_here_over_quic() {
    breaks_there(false).await;
}

#[tokio::test]
async fn what_breaks_here_breaks_there() {
    let (one, other) = pair().await;
    let (tell, mut told) = mpsc::channel(1);
    let port = program(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            tell.send(stream.read_to_end(&mut all).await.is_err()).await.unwrap();
        }
    })
    .await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    stream.write_all(b"half of a que").await.unwrap();
    eventually("it is there", || other.server.counts().now().sent == 13).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert!(timeout(PATIENCE, told.recv()).await.unwrap().unwrap(), "it looks like an end");
}

/// A program that does not read holds up who writes to it and nobody else, and no more than the buffers on the way are filled.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_stalls_only_its_own_writer() {
    let (one, other) = pair().await;
    let stalled = program(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let port = echo().await;
    other.allow(stalled);
    other.allow(port);
    let mut stuck = one.socks(OTHER, stalled).await.unwrap();
    let mut taken = 0;
    // Nothing moves any more once a write waits as long as this.
    while let Ok(written) = timeout(Duration::from_secs(2), stuck.write(&[0; 64 << 10])).await {
        taken += written.unwrap();
        assert!(taken < MUCH * 2, "somebody keeps what nobody reads");
    }
    asks(&mut one.socks(OTHER, port).await.unwrap()).await;
    assert_eq!(one.reacher.counts().now().open, 2);
}

/// A peer that keeps a connection without using it is ended there, and learns it here.
#[tokio::test]
async fn what_is_idle_for_too_long_is_ended() {
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let (one, other) = pair_of(Make::default(), Make { limits, ..Make::default() }).await;
    let port = echo().await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    asks(&mut stream).await;
    let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert!(ended.is_err(), "it looks like an end: {ended:?}");
    eventually("nothing is left", || one.reacher.counts().now().open + other.server.counts().now().open == 0).await;
}

#[tokio::test]
async fn a_node_that_stops_breaks_connections_off() {
    let (one, other) = pair().await;
    let port = echo().await;
    other.allow(port);
    let mut stream = one.socks(OTHER, port).await.unwrap();
    asks(&mut stream).await;
    other.stop.cancel();
    assert!(timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap().is_err());
    assert_eq!(one.socks(OTHER, port).await.unwrap_err(), 1);
}
