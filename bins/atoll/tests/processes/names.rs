//! Names of nodes, asked for as programs ask: by dig, and by the C library where `resolv.conf` leads to the node. Takes dig (bind9-dnsutils).

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;

use crate::common::{fail, lone_node, run, run_json};

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node of this name, on ports the system chooses.
async fn named(folder: &Path, name: &str, more: &[&str]) -> NodeProcess {
    let name = format!("node.name={name}");
    let settings = ["storage.capacity=64M", "network.dns_bind=127.0.0.1:0", &name];
    lone_node(folder, &[&settings[..], more].concat()).await.unwrap()
}

/// What dig says in the fewest words, asked of a node's own server.
fn dig(node: &NodeProcess, arguments: &[&str]) -> String {
    let names = run_json(node.data_dir(), &["net", "names"]);
    let (at, port) = names["server"].as_str().unwrap().rsplit_once(':').unwrap();
    let mut dig = Command::new("dig");
    dig.args([&format!("@{at}"), "-p", port, "+short", "+time=10", "+tries=1"]).args(arguments);
    let output = dig.output().expect("dig is there: apt-get install bind9-dnsutils");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_found_by_the_names_on_their_cards() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut home = named(folders[0].path(), "Home", &[]).await;
    let mut other = named(folders[1].path(), "Web 1", &[]).await;
    let ticket = run(other.data_dir(), &["invite"], b"");
    run(home.data_dir(), &["join", ticket.trim()], b"");
    let (here, there) = (home.status().await.unwrap(), other.status().await.unwrap());

    assert_eq!(dig(&home, &["home.mine.atoll", "AAAA"]), here.planetary_address);
    assert_eq!(dig(&home, &[&format!("{}.node.atoll", there.node), "AAAA"]), there.planetary_address);
    let by_id = format!("web-1.{}.atoll", there.owner);
    eventually("the name on its card", || dig(&home, &[&by_id, "AAAA"]) == there.planetary_address);
    eventually("and the other way", || {
        dig(&other, &[&format!("home.{}.atoll", here.owner), "AAAA"]) == here.planetary_address
    });
    assert_eq!(dig(&home, &["-x", &there.planetary_address]), format!("{by_id}."));
    assert_eq!(dig(&home, &["web-1.mine.atoll", "AAAA"]), "", "another owner's node is not below mine");

    let folder = home.data_dir().to_path_buf();
    run(&folder, &["net", "name", "set", "anna", &there.owner.to_string()], b"");
    run(&folder, &["net", "name", "set", "wiki.mine", "web-1.anna"], b"");
    assert_eq!(dig(&home, &["web-1.anna.atoll", "AAAA"]), there.planetary_address);
    assert_eq!(dig(&home, &["+tcp", "wiki.mine.atoll", "AAAA"]), there.planetary_address);
    assert_eq!(dig(&home, &["-x", &there.planetary_address]), "web-1.anna.atoll.");
    let listed = run(&folder, &["net", "names"], b"");
    for part in ["home.mine.atoll", "web-1.anna.atoll", "wiki.mine.atoll", "anna", "alias"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let resolved = run(&folder, &["net", "resolve", "Wiki.mine"], b"");
    assert_eq!(resolved, format!("{} web-1.anna.atoll\n", there.planetary_address));
    let back = run_json(&folder, &["net", "resolve", &there.planetary_address]);
    assert_eq!(back["nodes"][0]["name"], "web-1.anna.atoll");

    let said = fail(&folder, &["net", "resolve", "nobody.anna"]);
    assert!(said.contains("there is no nobody.anna.atoll"), "{said}");
    let said = fail(&folder, &["net", "name", "set", "bert", &there.node.to_string()]);
    assert!(said.contains("is a node's id"), "{said}");
    let said = fail(&folder, &["net", "name", "set", "mine", &there.owner.to_string()]);
    assert!(said.contains("of its own"), "{said}");
    assert!(fail(&folder, &["net", "name", "remove", "bert"]).contains("was not given"));

    // Names hold while a node is away, from the first moment, and what was taken back is gone.
    other.kill().await.unwrap();
    home.kill().await.unwrap();
    home.start_again().await.unwrap();
    assert_eq!(dig(&home, &["web-1.anna.atoll", "AAAA"]), there.planetary_address);
    run(&folder, &["net", "name", "remove", "wiki.mine"], b"");
    assert_eq!(dig(&home, &["wiki.mine.atoll", "AAAA"]), "");
    run(&folder, &["forget", &there.node.to_string()], b"");
    eventually("who was forgotten has no name", || dig(&home, &["web-1.anna.atoll", "AAAA"]).is_empty());
}

/// Loopback addresses of this test alone, whatever runs beside it.
fn own_address(last: u8) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | (high >> 1), low, last)
}

/// A resolver that knows one address for every name; programs and nodes ask at port 53, so this takes root.
fn resolver(at: Ipv4Addr) {
    let socket = UdpSocket::bind((at, 53)).expect("this takes root");
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // The header and the question, as long as its name is; an address if that is what was asked for.
            let name = buffer[12..length].iter().position(|byte| *byte == 0).unwrap();
            let mut answer = buffer[..12 + name + 5].to_vec();
            let is_address = answer[12 + name + 1..12 + name + 3] == [0, 1];
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

/// What the C library finds where this file is `resolv.conf`: in a mount namespace of its own, so the machine's stays as it is.
fn found_by_programs(resolv_conf: &Path, name: &str) -> String {
    let script = "mount --bind \"$1\" /etc/resolv.conf && exec getent hosts \"$2\"";
    let output =
        Command::new("unshare").args(["--mount", "sh", "-c", script, "sh"]).arg(resolv_conf).arg(name).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    said.split_whitespace().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_find_names_through_resolv_conf_which_is_put_back_whatever_happens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let (own, upstream) = (own_address(1), own_address(2));
    resolver(upstream);
    let before = format!("# by hand\nnameserver {upstream}\noptions rotate timeout:3\n");
    std::fs::write(&file, &before).unwrap();
    let settings = [
        "network.dns=system".to_owned(),
        format!("network.resolv_conf={}", file.display()),
        format!("network.dns_bind={own}:53"),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let data_dir = folder.path().join("node");
    let mut node = named(&data_dir, "attic", &settings).await;
    let is_ours =
        || std::fs::read_to_string(&file).unwrap().contains(&format!("\nnameserver {own}\nnameserver {upstream}\n"));
    let is_back =
        || std::fs::read_to_string(&file).unwrap() == before && std::fs::read_dir(&folder).unwrap().count() == 2;

    eventually("it is written", is_ours);
    let address = node.status().await.unwrap().planetary_address;
    assert_eq!(found_by_programs(&file, "attic.mine.atoll"), address);
    assert_eq!(found_by_programs(&file, "example.org"), "192.0.2.7");
    assert_eq!(found_by_programs(&file, "cellar.mine.atoll"), "");
    let names = run_json(&data_dir, &["net", "names"]);
    assert!(names["note"].as_str().unwrap().contains("by all programs, through"), "{names}");
    assert_eq!(names["upstreams"][0], format!("{upstream}:53"));

    // Ended in order.
    assert!(node.stop().await.unwrap().success());
    assert!(is_back(), "{}", std::fs::read_to_string(&file).unwrap());
    // Killed: programs go on asking the others until somebody puts it back.
    node.start_again().await.unwrap();
    eventually("it is written again", is_ours);
    node.kill().await.unwrap();
    assert!(is_ours());
    assert_eq!(found_by_programs(&file, "example.org"), "192.0.2.7");
    let cleared = run(&data_dir, &["down", "--clear"], b"");
    assert!(cleared.contains("resolv.conf is as it was") && is_back(), "{cleared}");
    // Killed, and started again.
    node.start_again().await.unwrap();
    eventually("it is written once more", is_ours);
    node.kill().await.unwrap();
    node.start_again().await.unwrap();
    eventually("it is written over what was there at first", is_ours);
    // What somebody else writes stays.
    std::fs::write(&file, "nameserver 192.0.2.9\n").unwrap();
    let names = run_json(&data_dir, &["net", "names"]);
    assert!(names["note"].as_str().unwrap().contains("somebody else has changed"), "{names}");
    node.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.9\n");
}
