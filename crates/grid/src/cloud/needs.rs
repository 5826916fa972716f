//! What the story takes of a machine beyond the program itself.

use std::path::Path;
use std::process::{Command, Stdio};

/// Programs, how they are asked whether they are there, and what they are in.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("ip", "-Version", "iproute2"),
    ("nsenter", "--version", "util-linux"),
    ("nft", "--version", "nftables"),
    ("ping", "-V", "iputils-ping"),
    ("curl", "--version", "curl"),
    ("kubectl", "--help", "kubernetes-client"),
];

/// What is in the way, in words; nothing if the story can be told here.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("it takes root: network namespaces, mounts and containers".to_owned());
    }
    for device in ["/dev/net/tun", "/dev/fuse"] {
        if !Path::new(device).exists() {
            missing.push(format!("there is no {device}"));
        }
    }
    for (program, flag, package) in PROGRAMS {
        let mut command = Command::new(program);
        command.arg(flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_err() {
            missing.push(format!("{program} is missing: apt-get install {package}"));
        }
    }
    missing
}
