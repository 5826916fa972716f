//! Bad luck in the middle of work: a node that hangs, a node that is full, your own node killed during an upload.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use atoll_control::{Event, GetRequest, PutRequest, Source};
use atoll_grid::NodeProcess;

use crate::common::{TestGrid, run, run_bytes};

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_read_around_and_written_around() {
    let test = TestGrid::raise(4).await;
    let home = test.grid.home.data_dir().to_path_buf();
    test.run(&["bucket", "create", "data", "--policy", "2+1"]);
    let (before, during) = (noise(1, 6 << 20), noise(2, 6 << 20));
    run(&home, &["put", "-", "data/before"], &before);
    test.grid.nodes[0].pause().unwrap();
    assert_eq!(run_bytes(&home, &["get", "data/before", "-"], b""), before);
    run(&home, &["put", "-", "data/during"], &during);
    assert_eq!(run_bytes(&home, &["get", "data/during", "-"], b""), during);
    test.grid.nodes[0].resume().unwrap();
    let healed = test.run(&["heal"]);
    assert!(healed.contains(" 0 shards missing"), "what was written meanwhile has all its shards elsewhere: {healed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_refuses_and_keeps_what_it_has() {
    let test = TestGrid::raise_with(2, "64M").await;
    let home = test.grid.home.data_dir().to_path_buf();
    test.run(&["bucket", "create", "data", "--policy", "1+1"]);
    let content = noise(3, 12 << 20);
    run(&home, &["put", "-", "data/kept"], &content);
    std::fs::write(test.path("much"), noise(4, 80 << 20)).unwrap();
    let said = test.fail(&["put", &test.text("much"), "data/much"]);
    assert!(said.contains("full"), "{said}");
    assert!(test.fail(&["stat", "data/much"]).contains("no object"));
    assert_eq!(run_bytes(&home, &["get", "data/kept", "-"], b""), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_killed_goes_on_where_it_was() {
    const SIZE: usize = 200 << 20;
    const KILLED_AT: u64 = 150 << 20;
    let mut test = TestGrid::raise(3).await;
    test.run(&["bucket", "create", "data", "--policy", "2+1"]);
    let source = test.path("source");
    std::fs::write(&source, noise(5, SIZE)).unwrap();
    let metadata = source.metadata().unwrap();
    let request = PutRequest {
        sources: vec![Source {
            path: source.clone(),
            device: metadata.dev(),
            inode: metadata.ino(),
            contents_only: false,
        }],
        bucket: "data".parse().unwrap(),
        key: "object".into(),
        force: false,
    };
    let mut events = test.grid.client().put(&request).await.unwrap();
    loop {
        match events.next().await.unwrap() {
            Some(Event::Progress { bytes, .. }) if bytes >= KILLED_AT => break,
            Some(Event::Progress { .. }) => {}
            other => panic!("the upload was over before it was killed: {other:?}"),
        }
    }
    test.grid.home.kill().await.unwrap();
    test.grid.home.start_again().await.unwrap();
    test.run(&["put", source.to_str().unwrap(), "data/object"]);
    let mut stored = 0;
    for node in &test.grid.nodes {
        stored += metric(node, "atoll_shard_stored_bytes_total").await;
    }
    // Begun anew it would be one and a half times what was sent before and after: what lay between the last durable page and the kill is sent twice.
    let begun_anew = (KILLED_AT + SIZE as u64) * 3 / 2;
    assert!(stored < begun_anew * 9 / 10, "{stored} of {begun_anew}");
    test.run(&["get", "data/object", &test.text("back")]);
    assert!(same(&source, &test.path("back")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_killed_goes_on_where_it_was() {
    const SIZE: usize = 200 << 20;
    const KILLED_AT: u64 = 120 << 20;
    let mut test = TestGrid::raise(3).await;
    test.run(&["bucket", "create", "data", "--policy", "2+1"]);
    let source = test.path("source");
    std::fs::write(&source, noise(6, SIZE)).unwrap();
    test.run(&["put", source.to_str().unwrap(), "data/object"]);
    let destination = test.path("back");
    let request = GetRequest {
        bucket: "data".parse().unwrap(),
        key: "object".into(),
        destination: destination.clone(),
        force: false,
    };
    let mut events = test.grid.client().get(&request).await.unwrap();
    loop {
        match events.next().await.unwrap() {
            Some(Event::Progress { bytes, .. }) if bytes >= KILLED_AT => break,
            Some(Event::Progress { .. }) => {}
            other => panic!("the download was over before it was killed: {other:?}"),
        }
    }
    test.grid.home.kill().await.unwrap();
    assert!(!destination.exists(), "a file has its name only when it is whole");
    let part = part_beside(&destination).expect("what was read so far stays");
    let kept = part.metadata().unwrap().len();
    assert!(kept >= KILLED_AT, "{kept}");

    let before = read_from_nodes(&test).await;
    test.grid.home.start_again().await.unwrap();
    test.run(&["get", "data/object", &test.text("back")]);
    assert!(same(&source, &destination));
    assert_eq!(part_beside(&destination), None);
    // Only the rest is fetched, and shards that were asked for twice because one was late.
    let fetched = read_from_nodes(&test).await - before;
    assert!(fetched < SIZE as u64 * 9 / 10, "{fetched} of {SIZE} bytes were fetched again");

    // A part that is not what was written is found out, and not continued a second time.
    let damaged = part.clone();
    let mut bytes = std::fs::read(&source).unwrap();
    bytes.truncate(64 << 20);
    bytes[1000] ^= 1;
    std::fs::remove_file(&destination).unwrap();
    std::fs::write(&damaged, bytes).unwrap();
    let said = test.fail(&["get", "data/object", &test.text("back")]);
    assert!(said.contains("damaged"), "{said}");
    assert!(!destination.exists() && !damaged.exists());
    test.run(&["get", "data/object", &test.text("back")]);
    assert!(same(&source, &destination));
}

/// The unfinished file beside `destination`.
fn part_beside(destination: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(destination.parent().unwrap()).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "atoll-part"))
}

/// Bytes of shards that all nodes together have given out.
async fn read_from_nodes(test: &TestGrid) -> u64 {
    let mut read = 0;
    for node in &test.grid.nodes {
        read += metric(node, "atoll_shard_read_bytes_total").await;
    }
    read
}

fn same(one: &Path, other: &Path) -> bool {
    std::fs::read(one).unwrap() == std::fs::read(other).unwrap()
}

/// One value of a node's `/metrics`.
async fn metric(node: &NodeProcess, name: &str) -> u64 {
    let address = node.status().await.unwrap().metrics.unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse::<f64>().unwrap() as u64
}
