//! The daemon from outside: what it refuses and how it says so, its sockets, its end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use crate::common::{TestGrid, fail, lone_node, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_makes_its_keys_serves_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = lone_node(folder.path(), &["storage.capacity=2G", "node.name=attic"]).await.unwrap();
    for key in ["node.key", "owner.key"] {
        let mode = std::fs::metadata(folder.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let status = node.status().await.unwrap();
    assert!(status.planetary_address.starts_with('6'), "{status:?}");
    assert_eq!(status.storage.unwrap().capacity.0, 2 << 30);
    let shown = run(folder.path(), &["status"], b"");
    assert!(shown.contains("attic") && shown.contains("storage on") && shown.contains("no peers yet"), "{shown}");
    let id = run(folder.path(), &["id", "show"], b"");
    assert!(id.contains(&status.node.to_string()) && id.contains(&status.owner.to_string()), "{id}");
    assert_eq!(run(folder.path(), &["id", "phrase"], b"").split_whitespace().count(), 24);

    let metrics = status.metrics.unwrap();
    assert!(http_get(&metrics, "/healthz").ends_with("ok\n"));
    let scraped = http_get(&metrics, "/metrics");
    for (name, _) in atoll_node::metrics::NAMES {
        assert!(scraped.contains(name), "{name} is not in {scraped}");
    }

    let said = fail(folder.path(), &["up", "--set", "network.bind=127.0.0.1:0"]);
    assert!(said.contains("in use by another atoll node"), "{said}");
    assert!(node.stop().await.unwrap().success());
    assert!(!folder.path().join("control.sock").exists());
    let said = fail(folder.path(), &["status"]);
    assert!(said.contains("no node is running") && said.contains("atoll up"), "{said}");

    node.start_again().await.unwrap();
    assert_eq!(node.status().await.unwrap().node, status.node);
    run(folder.path(), &["down"], b"");
}

fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_of_a_start_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = [
        "--set",
        "network.bind=127.0.0.1:0",
        "--set",
        "network.lane=127.0.0.1:0",
        "--set",
        "node.metrics=127.0.0.1:0",
        "--set",
        "node.dashboard=127.0.0.1:0",
    ];
    let up = |more: &[&str]| fail(folder.path(), &[&["up"], &quiet[..], more].concat());

    let said = up(&["--set", "storage.capcity=1G"]);
    assert!(said.contains("storage.capacity"), "{said}");
    std::fs::write(folder.path().join("atoll.toml"), "[storage]\ncapacity = 1\nqota = 2\n").unwrap();
    let said = up(&[]);
    assert!(said.contains("storage.quota") && said.contains("atoll.toml"), "{said}");
    std::fs::remove_file(folder.path().join("atoll.toml")).unwrap();

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = up(&["--set", &format!("network.lane={address}")]);
    assert!(said.contains(&address.to_string()) && said.contains("in use"), "{said}");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let said = up(&["--set", &format!("network.bind={address}")]);
    assert!(said.contains(&address.to_string()) && said.contains("in use"), "{said}");

    let (node_key, owner_key) = (folder.path().join("node.key"), folder.path().join("owner.key"));
    let good = std::fs::read(&node_key).unwrap();
    std::fs::copy(&owner_key, &node_key).unwrap();
    let said = up(&[]);
    assert!(said.contains("node.key") && said.contains("owner"), "{said}");
    std::fs::write(&node_key, &good[..good.len() / 2]).unwrap();
    let said = up(&[]);
    assert!(said.contains("node.key"), "{said}");
    std::fs::write(&node_key, &good).unwrap();
    std::fs::set_permissions(&node_key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = up(&[]);
    assert!(said.contains("chmod 600"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_stay_known_across_restarts_and_can_be_forgotten() {
    let mut test = TestGrid::raise(1).await;
    let node = test.grid.nodes[0].status().await.unwrap().node;
    let known = test.grid.home.status().await.unwrap().peers;
    assert_eq!(known.len(), 1);
    assert!(known[0].reachable && known[0].node == node, "{known:?}");
    assert!(known[0].owner.is_some() && known[0].storage.is_some(), "{known:?}");

    test.grid.home.kill().await.unwrap();
    test.grid.nodes[0].kill().await.unwrap();
    test.grid.home.start_again().await.unwrap();
    test.grid.nodes[0].start_again().await.unwrap();
    let healed = test.run(&["heal"]);
    assert!(healed.contains("0 objects"), "{healed}");
    let known = test.grid.home.status().await.unwrap().peers;
    assert!(known.len() == 1 && known[0].reachable, "{known:?}");

    test.run(&["forget", &node.to_string()]);
    assert!(test.grid.home.status().await.unwrap().peers.is_empty());
    assert!(test.fail(&["forget", &node.to_string()]).contains("no peer"));
    assert!(test.fail(&["join", "atoll1rubbish"]).contains("ticket"));
}

#[test]
fn every_setting_is_shown_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("atoll.toml"), "[node]\nsite = \"barn\"\n").unwrap();
    let shown = run(folder.path(), &["config", "show", "--capacity", "3G"], b"");
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {shown}"));
    assert!(line("node.site").contains("barn") && line("node.site").contains("atoll.toml"), "{shown}");
    assert!(line("storage.capacity").contains("--capacity"), "{shown}");
    assert!(line("network.lane").contains("default"), "{shown}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for form in ["text", "json"] {
        let mut command = std::process::Command::new(crate::common::program());
        command
            .env_remove("ATOLL_DATA_DIR")
            .args(["--output", form, "config", "show", "--data-dir"])
            .arg(folder.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran =
            command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert!(ran.status.success(), "{form}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}
