//! The whole story as the README starts it, on machines of its own; and that nothing is left of it, however it ends. Needs root and what the story itself needs.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::program;

/// Every step, in order. Each was only reported because it held.
const STEPS: [&str; 14] = [
    "raise machines",
    "planetary network",
    "atoll plan",
    "atoll apply",
    "kubectl get nodes",
    "open the page",
    "idle",
    "SIGKILL two nodes",
    "page again",
    "heal",
    "dashboard",
    "write with two nodes dead",
    "start them again",
    "roll over",
];

const LAST_STEP: &str = "atoll destroy";

/// The steps in which a node is killed: all but raising the machines, a plan (some milliseconds), looking at idle nodes, what the dashboards showed, and the killing itself.
const STRUCK_STEPS: usize = 10;

/// What the five nodes may use together while nothing is asked of them.
const IDLE_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// The guardian ends containers and removes namespaces within some seconds.
const GONE_WITHIN: Duration = Duration::from_secs(60);

fn start(folder: &Path, further: &[&str]) -> Child {
    let mut demo = Command::new(program());
    demo.args(["--output", "json", "demo", "--part", "cloud", "--folder"])
        .arg(folder)
        .args(further)
        .env_remove("ATOLL_DATA_DIR");
    demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn the_whole_story_is_true_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("story");
    let demo = start(&place, &[]);
    let pid = demo.id();
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps: Vec<&str> = report["steps"].as_array().unwrap().iter().map(|it| it["step"].as_str().unwrap()).collect();
    assert_eq!(steps, [&STEPS[..], &[LAST_STEP]].concat(), "{report}");
    let memory = report["idle"]["memory_bytes"].as_u64().unwrap();
    assert!(memory < IDLE_MEMORY_BYTES_MAX, "{memory} bytes of memory while idle");
    assert!(report["requests_rolling"].as_u64() > Some(10), "{report}");
    // The grace for a silent node and the eviction of its pods take 20 s: sooner, and it was not the node that died.
    assert!(report["back_seconds"].as_f64() > Some(1.0), "{report}");
    assert_eq!(report["struck"], Value::Array(Vec::new()), "{report}");
    assert_eq!(left(&place, pid), Vec::<String>::new());
}

/// In the middle of every step a node is killed, whichever it is: the tenant's, the gateway, the one that serves the Kubernetes API, the database's. Started
/// again, it goes on from there, and so does the story.
#[test]
fn a_story_goes_on_whichever_node_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("story");
    let seed = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos())
    });
    eprintln!("drawn by STORY_SEED={seed}");
    let demo = start(&place, &["--hunt", &seed.to_string()]);
    let pid = demo.id();
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "drawn by STORY_SEED={seed}: {said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps: Vec<&str> = report["steps"].as_array().unwrap().iter().map(|it| it["step"].as_str().unwrap()).collect();
    assert_eq!(steps, [&STEPS[..], &[LAST_STEP]].concat(), "{report}");
    assert_eq!(report["struck"].as_array().unwrap().len(), STRUCK_STEPS, "{report}");
    assert_eq!(left(&place, pid), Vec::<String>::new());
}

/// Ctrl-C in the middle, and SIGKILL when everything runs: the guardian of the machines outlives both.
#[test]
fn a_story_that_is_broken_off_leaves_nothing() {
    for (after, signal) in [("planetary network", Signal::INT), ("open the page", Signal::KILL)] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("story");
        let mut demo = start(&place, &[]);
        let pid = demo.id();
        let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut heard = Vec::new();
        let came = lines.by_ref().inspect(|line| heard.push(line.clone())).any(|line| line.contains(after));
        assert!(came, "{heard:?}");
        kill_process(Pid::from_child(&demo), signal).unwrap();
        lines.for_each(drop);
        assert!(!demo.wait().unwrap().success());
        let began = Instant::now();
        while !left(&place, pid).is_empty() && began.elapsed() < GONE_WITHIN {
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(left(&place, pid), Vec::<String>::new(), "after {signal:?}");
    }
}

/// What is still there of a story told by process `pid` in `place`.
fn left(place: &Path, pid: u32) -> Vec<String> {
    let mut left = Vec::new();
    if place.exists() {
        left.push(place.display().to_string());
    }
    let name = format!("atoll-lab-{pid}-");
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    left.extend(namespaces.map(|it| it.file_name().into_string().unwrap()).filter(|it| it.starts_with(&name)));
    let place = place.to_str().unwrap();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let file = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
        // A container's processes have its file system, whose layers lie in the folder; nodes and helpers are told the folder.
        let mounts = String::from_utf8_lossy(&file("mountinfo")).contains(place);
        let arguments = String::from_utf8_lossy(&file("cmdline")).contains(place);
        let is_ours = process.file_name() == *std::process::id().to_string();
        if (mounts || arguments) && !is_ours {
            left.push(format!("process {}", process.file_name().display()));
        }
    }
    left
}
