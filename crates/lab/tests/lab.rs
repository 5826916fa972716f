//! The lab itself: hosts reach each other, a cut one does not, and nothing is left.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_lab::{Host, Lab, LabError};

fn pings(from: &Host, to: &Host) -> bool {
    let ping = |address: String| {
        let mut command = from.command("ping");
        command.args(["-c", "1", "-W", "1", &address]).stdout(Stdio::null());
        command.status().expect("ping is there: apt-get install iputils-ping").success()
    };
    let (v4, v6) = (ping(to.ipv4().to_string()), ping(to.ipv6().to_string()));
    assert_eq!(v4, v6, "both families or none");
    v4
}

#[test]
fn hosts_reach_each_other_until_one_is_cut() {
    let lab = Lab::new(2).unwrap();
    let (one, two) = (lab.host(0), lab.host(1));
    assert!(pings(one, two));
    assert!(pings(lab.outside(), two));
    lab.cut(two).unwrap();
    assert!(!pings(one, two));
    lab.restore(two).unwrap();
    assert!(pings(one, two));
}

#[test]
fn nothing_is_left() {
    let lab = Lab::new(1).unwrap();
    let namespace = Path::new("/run/netns").join(lab.host(0).namespace());
    assert!(namespace.exists());
    // A process that nobody ends.
    let mut forgotten = lab.host(0).command("sleep").arg("1000").spawn().unwrap();
    drop(lab);
    assert!(!namespace.exists());
    assert!(!forgotten.wait().unwrap().success());
}

/// This program again, killed in the middle: the guardian survives it.
#[test]
fn nothing_is_left_of_a_test_that_is_killed() {
    const VARIABLE: &str = "ATOLL_LAB_TEST_VICTIM";
    if std::env::var_os(VARIABLE).is_some() {
        let lab = Lab::new(1).unwrap();
        let mut out = std::io::stderr();
        writeln!(out, "namespace {}", lab.host(0).namespace()).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(60));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_is_left_of_a_test_that_is_killed", "--nocapture"])
        .env(VARIABLE, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut errors = victim.stderr.take().unwrap();
    while !said.ends_with('\n') {
        let mut byte = [0];
        errors.read_exact(&mut byte).unwrap();
        said.push(char::from(byte[0]));
    }
    let namespace = Path::new("/run/netns").join(said.trim().strip_prefix("namespace ").unwrap());
    assert!(namespace.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    for _ in 0..600 {
        if !namespace.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{} is left", namespace.display());
}

#[test]
fn too_many_hosts_are_refused() {
    assert!(matches!(Lab::new(201), Err(LabError::TooMany { wanted: 201 })));
}

/// The script of the end finds the namespaces there, and what ran in them ended.
#[test]
fn last_words_are_heard_before_the_hosts_go() {
    let heard = tempfile::NamedTempFile::new().unwrap();
    let script = |hosts: &[Host]| {
        let (name, file) = (hosts[0].namespace(), heard.path().display());
        format!("ip netns pids {name} >{file}; ip netns list | grep -c -w {name} >>{file}")
    };
    let lab = Lab::with_last_words(1, script).unwrap();
    let mut forgotten = lab.host(0).command("sleep").arg("1000").spawn().unwrap();
    drop(lab);
    forgotten.wait().unwrap();
    assert_eq!(std::fs::read_to_string(heard.path()).unwrap(), "1\n");
}
