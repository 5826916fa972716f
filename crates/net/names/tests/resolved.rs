//! What systemd-resolved is told of an interface, on a machine of a lab. Takes root and iproute2.
//!
//! A script stands in for resolvectl: the real one wants the whole machine's system bus.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use atoll_lab::{Host, Lab};
use atoll_names::Resolved;

/// A program that writes down what it is asked, and refuses one thing.
fn recorder(folder: &Path, refused: &str) -> Resolved {
    let program = folder.join("resolvectl");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\nif [ \"$1\" = \"{refused}\" ]; then echo 'Unknown verb' >&2; exit 1; fi\n",
        folder.join("asked").display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Resolved::by(program)
}

fn asked(folder: &Path) -> Vec<String> {
    std::fs::read_to_string(folder.join("asked")).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// Whether the interface has the address that makes it one to be asked over.
fn is_marked(host: &Host) -> bool {
    let shown = host.command("ip").args(["-4", "address", "show", "dev", "eth0"]).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().contains("inet 127.64.0.1/32 scope site")
}

fn on<T: Send>(host: &Host, work: impl Future<Output = T> + Send) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    host.inside(|| Ok(runtime.block_on(work))).unwrap()
}

#[test]
fn it_is_told_of_the_names_and_nothing_else() {
    let (lab, folder) = (Lab::new(1).unwrap(), tempfile::tempdir().unwrap());
    let resolved = recorder(folder.path(), "");
    let set = on(lab.host(0), resolved.set("eth0", "127.64.0.53:53".parse().unwrap()));
    set.unwrap();
    assert!(is_marked(lab.host(0)));
    on(lab.host(0), resolved.revert("eth0")).unwrap();
    assert!(!is_marked(lab.host(0)));
    let expect = [
        "dns eth0 127.64.0.53",
        "domain eth0 ~atoll ~6.0.ip6.arpa",
        "default-route eth0 no",
        "dnssec eth0 no",
        "llmnr eth0 no",
        "mdns eth0 no",
        "revert eth0",
    ];
    assert_eq!(asked(folder.path()), expect);
}

#[test]
fn a_refusal_is_said_and_nothing_is_left() {
    let (lab, folder) = (Lab::new(1).unwrap(), tempfile::tempdir().unwrap());
    let resolved = recorder(folder.path(), "domain");
    let said = on(lab.host(0), resolved.set("eth0", "127.64.0.53:5300".parse().unwrap())).unwrap_err();
    assert!(said.contains("resolvectl domain") && said.contains("Unknown verb"), "{said}");
    assert!(!is_marked(lab.host(0)));
    let expect = ["dns eth0 127.64.0.53:5300", "domain eth0 ~atoll ~6.0.ip6.arpa", "revert eth0"];
    assert_eq!(asked(folder.path()), expect);
    let said = on(lab.host(0), resolved.set("nowhere0", "127.64.0.53:53".parse().unwrap())).unwrap_err();
    assert!(said.contains("the interface nowhere0"), "{said}");
}
