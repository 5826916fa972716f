//! Messages between real nodes: to who is dead, from who dies, to who does not want them, too many of them, and there and back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_control::{Base64, InviteRequest, JoinRequest, ReceivedMessage, SendRequest};
use atoll_grid::NodeProcess;
use serde_json::Value;

use crate::common::{fail, lone_node, output, program, run, run_bytes, run_json};

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

const SETTINGS: [&str; 2] = ["node.roles=network", "storage.capacity=64M"];

async fn start(folder: &Path, name: &str, more: &[&str]) -> NodeProcess {
    lone_node(&folder.join(name), &[&SETTINGS[..], more].concat()).await.unwrap()
}

/// A node of the same owner.
async fn start_of_owner(folder: &Path, name: &str, of: &NodeProcess, more: &[&str]) -> NodeProcess {
    let phrase = run(of.data_dir(), &["id", "phrase"], b"");
    run(&folder.join(name), &["id", "restore"], phrase.as_bytes());
    start(folder, name, more).await
}

async fn join(one: &NodeProcess, two: &NodeProcess) {
    let ticket = one.client().invite(&InviteRequest { ttl_seconds: 600, uses: 1 }).await.unwrap().ticket;
    two.client().join(&JoinRequest { ticket }).await.unwrap();
}

async fn id(node: &NodeProcess) -> String {
    node.status().await.unwrap().node.to_string()
}

/// Everything there is to receive now, acknowledged.
fn drain(node: &NodeProcess) -> Vec<Value> {
    let lines = run(node.data_dir(), &["--output", "json", "net", "receive"], b"");
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn receive_one(node: &NodeProcess, pattern: &str) -> Value {
    let line = run(node.data_dir(), &["--output", "json", "net", "receive", pattern, "--count", "1"], b"");
    serde_json::from_str(&line).unwrap()
}

async fn unread(node: &NodeProcess) -> Vec<ReceivedMessage> {
    let received = node.client().messages().await.unwrap().received;
    received.into_iter().filter(|message| message.state == "unread").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_outlive_the_death_of_either_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = start(folder.path(), "one", &[]).await;
    let mut two = start_of_owner(folder.path(), "two", &one, &[]).await;
    join(&one, &two).await;
    let to = id(&two).await;

    two.kill().await.unwrap();
    let sent = run_json(one.data_dir(), &["net", "send", &to, "backup.done", "all of it"]);
    assert_eq!(sent["recipients"][0]["state"], "waiting", "{sent}");
    two.start_again().await.unwrap();
    let received = receive_one(&two, "backup.*");
    assert_eq!((&received["text"], &received["id"]), (&Value::from("all of it"), &sent["id"]), "{received}");
    assert_eq!(received["from"].as_str().unwrap(), id(&one).await);
    assert!(drain(&two).is_empty(), "it comes once");

    two.kill().await.unwrap();
    let sent = run_json(one.data_dir(), &["net", "send", &to, "backup.done", "and more"]);
    one.kill().await.unwrap();
    two.start_again().await.unwrap();
    assert!(drain(&two).is_empty());
    one.start_again().await.unwrap();
    let received = receive_one(&two, "**");
    assert_eq!((&received["text"], &received["id"]), (&Value::from("and more"), &sent["id"]));
    let fate = one.client().message_fate(sent["id"].as_str().unwrap().parse().unwrap(), Some(PATIENCE)).await.unwrap();
    assert_eq!(fate[0].state, "delivered");

    // What was not acknowledged comes again, also after the death of the receiver.
    run(one.data_dir(), &["net", "send", &to, "job", "--wait", "try me"], b"");
    let said = fail(two.data_dir(), &["net", "receive", "job", "--exec", "exit 3"]);
    assert!(said.contains("not acknowledged"), "{said}");
    two.kill().await.unwrap();
    two.start_again().await.unwrap();
    let got = run(two.data_dir(), &["net", "receive", "--exec", "cat; echo \" on $MESSAGE_TOPIC\""], b"");
    assert_eq!(got, "try me on job\n");
    assert!(drain(&two).is_empty());
    let listed = run(two.data_dir(), &["net", "messages"], b"");
    assert!(listed.contains("taken") && !listed.contains("unread"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_go_there_and_answers_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let one = start(folder.path(), "one", &[]).await;
    let two = start(folder.path(), "two", &["bus.allow=peers ask.*,peers file"]).await;
    join(&one, &two).await;
    let to = id(&two).await;

    let said = fail(one.data_dir(), &["net", "send", &to, "secret", "x", "--wait"]);
    assert!(said.contains("1 of 1 nodes did not take the message"), "{said}");
    let refused = output(one.data_dir(), &["net", "send", &to, "secret", "x", "--wait"], b"");
    let shown = String::from_utf8(refused.stdout).unwrap();
    assert!(shown.contains("refused") && shown.contains("bus.allow"), "{shown}");
    let said = fail(one.data_dir(), &["net", "send", &to, "no topic", "x"]);
    assert!(said.contains("is no topic"), "{said}");
    let said = fail(one.data_dir(), &["net", "send", &"a".repeat(52), "x"]);
    assert!(said.contains("not known here") && said.contains("atoll join"), "{said}");

    let bytes: Vec<u8> = (0..=255_u8).cycle().take(256 << 10).collect();
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    run(one.data_dir(), &["net", "send", &to, "file", "--wait", "--file", file.to_str().unwrap()], b"");
    assert!(run_bytes(two.data_dir(), &["net", "receive", "file", "--raw"], b"") == bytes);
    std::fs::write(&file, vec![0; (256 << 10) + 1]).unwrap();
    let said = fail(one.data_dir(), &["net", "send", &to, "file", "--file", file.to_str().unwrap()]);
    assert!(said.contains("262144 bytes") && said.contains("atoll put"), "{said}");

    // The other end answers by program; it may not send anything by itself.
    let reply = format!(
        "'{}' --data-dir '{}' net reply $MESSAGE_ID \"$(cat), too\"",
        program().display(),
        two.data_dir().display()
    );
    let mut answering = Command::new(program());
    answering.arg("--data-dir").arg(two.data_dir()).args(["net", "receive", "ask.*", "--count", "1", "--exec", &reply]);
    let mut answering = answering.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let asked = run_json(one.data_dir(), &["net", "send", &to, "ask.me", "I am here", "--reply", "60s"]);
    assert_eq!(asked["replies"][0]["text"], "I am here, too", "{asked}");
    assert_eq!(asked["replies"][0]["answers"], asked["id"]);
    assert!(answering.wait().unwrap().success());
    let said = fail(one.data_dir(), &["net", "send", &to, "ask.me", "and now?", "--reply", "1s"]);
    assert!(said.contains("no answer to message"), "{said}");
    let said = fail(two.data_dir(), &["net", "send", &id(&one).await, "by.myself", "x", "--wait"]);
    assert!(said.contains("did not take"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_fills_its_share_and_others_go_on() {
    /// A peer's share is 16 MiB.
    const FLOOD: usize = 80;
    let folder = tempfile::tempdir().unwrap();
    let one = start(folder.path(), "one", &[]).await;
    let two = start_of_owner(folder.path(), "two", &one, &["bus.allow=own,peers quiet"]).await;
    let three = start(folder.path(), "three", &[]).await;
    join(&one, &two).await;
    join(&two, &three).await;
    let to = id(&two).await;
    for number in 0..FLOOD {
        let payload = Base64([vec![0; (256 << 10) - 1], vec![number as u8]].concat());
        let request = SendRequest { to: to.clone(), topic: "flood".into(), payload, ttl_seconds: None };
        one.client().send_message(&request).await.unwrap();
    }
    let began = Instant::now();
    loop {
        let sent = one.client().messages().await.unwrap().sent;
        if sent.iter().any(|sent| sent.why.as_deref().is_some_and(|why| why.starts_with("full"))) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{sent:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let kept = unread(&two).await.len();
    assert!((50..64).contains(&kept), "{kept} of {FLOOD} fill 16 MiB");
    run(three.data_dir(), &["net", "send", &to, "quiet", "excuse me", "--wait"], b"");
    assert_eq!(receive_one(&two, "quiet")["text"], "excuse me");
    let owner = two.status().await.unwrap().owner.to_string();
    let to_owner = format!("owner:{owner}");
    let said = run_json(three.data_dir(), &["net", "send", &to_owner, "quiet", "all of you", "--wait"]);
    assert_eq!(said["recipients"].as_array().unwrap().len(), 1, "of that owner it knows one node: {said}");
    let count = FLOOD.to_string();
    let all = run_bytes(two.data_dir(), &["net", "receive", "flood", "--count", &count, "--raw"], b"");
    let numbers: Vec<u8> = all.chunks(256 << 10).map(|payload| payload[payload.len() - 1]).collect();
    assert_eq!(numbers, (0..FLOOD as u8).collect::<Vec<_>>(), "all of it, in order, once there is room");
}
