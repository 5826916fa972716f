//! The demo as the README starts it, on a real tree: this repository's own sources.

use std::path::Path;

use crate::common::output;

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
