//! The help texts are part of the product: a change of one is seen in review, as a change of `tests/help.txt`.

use std::fmt::Write as _;
use std::path::Path;

/// Every command, in the order of `atoll --help`.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["up"],
    &["down"],
    &["status"],
    &["config"],
    &["config", "show"],
    &["id"],
    &["id", "show"],
    &["id", "phrase"],
    &["id", "restore"],
    &["invite"],
    &["join"],
    &["forget"],
    &["net"],
    &["net", "status"],
    &["net", "rules"],
    &["net", "proxy"],
    &["net", "connect"],
    &["net", "send"],
    &["net", "receive"],
    &["net", "reply"],
    &["net", "messages"],
    &["bucket"],
    &["bucket", "create"],
    &["bucket", "ls"],
    &["bucket", "rm"],
    &["put"],
    &["get"],
    &["ls"],
    &["rm"],
    &["stat"],
    &["du"],
    &["heal"],
    &["fs"],
    &["fs", "create"],
    &["fs", "ls"],
    &["fs", "show"],
    &["fs", "rm"],
    &["fs", "mount"],
    &["fs", "umount"],
    &["plan"],
    &["apply"],
    &["destroy"],
    &["drift"],
    &["app"],
    &["app", "list"],
    &["app", "search"],
    &["app", "show"],
    &["app", "install"],
    &["app", "upgrade"],
    &["app", "rollback"],
    &["app", "status"],
    &["app", "rm"],
    &["image"],
    &["image", "ls"],
    &["image", "load"],
    &["image", "sample"],
    &["image", "rm"],
    &["demo"],
    &["sample"],
];

#[test]
fn help_says_what_was_reviewed() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = String::new();
    for command in COMMANDS {
        let help = crate::common::run(folder.path(), &[command, &["--help"][..]].concat(), b"");
        writeln!(found, "$ atoll {}\n{help}", [command, &["--help"][..]].concat().join(" ")).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == reviewed, "the help changed; look at it and run this test with UPDATE_EXPECT=1\n{found}");
}
