//! The demo as the README starts it, on a real tree: this repository's own sources.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{output, program};

#[test]
fn the_demo_ends_with_every_hash_equal_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
    let grid = folder.path().join("demo");
    let arguments = ["--output", "json", "demo", sources.to_str().unwrap(), "--folder", grid.to_str().unwrap()];
    let output = output(folder.path(), &arguments, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let equal = |step: &&serde_json::Value| step["seen"].as_str().unwrap().contains("hashes equal");
    assert_eq!(steps.iter().filter(equal).count(), 2, "{report}");
    assert!(report["stored_bytes"].as_u64() > report["content_bytes"].as_u64().map(|bytes| bytes / 4), "{report}");
    assert!(!grid.exists());
}

/// Ctrl-C at a few moments: while the tree is made up, while nodes start, while they store.
#[test]
fn an_interrupted_demo_leaves_nothing() {
    for seen in ["", "raise the grid", "store under"] {
        let folder = tempfile::tempdir().unwrap();
        let grid = folder.path().join("demo");
        let mut child = Command::new(program())
            .args(["demo", "--bytes", "8M", "--files", "200", "--folder", grid.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        if !seen.is_empty() {
            assert!(lines.any(|line| line.unwrap().contains(seen)), "{seen}");
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let said: Vec<String> = lines.map(Result::unwrap).collect();
        let status = child.wait().unwrap();
        assert!(!status.success());
        // Interrupted before it listens for it, it ends at once and has made nothing.
        if status.code().is_some() {
            assert!(said.iter().any(|line| line.contains("interrupted")), "{seen}: {said:?}");
        }
        assert!(!grid.exists(), "{seen}: {said:?}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_with_the_reason() {
    let demo = |arguments: &[&str]| {
        let mut demo = Command::new(program());
        let ran = demo.args(["demo", "--part", "cloud"]).args(arguments).env("PATH", "/nonexistent").output().unwrap();
        assert!(!ran.status.success());
        String::from_utf8(ran.stderr).unwrap()
    };
    let said = demo(&[]);
    assert!(said.contains("takes root") || said.contains("apt-get install iproute2"), "{said}");
    let said = demo(&["/etc"]);
    assert!(said.contains("stores no directory"), "{said}");
}
