//! The workspace follows its own rules; `cargo xtask tidy` prints the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{env, path::Path};

#[test]
fn the_workspace_is_tidy() {
    let manifest_dir = env::var("CARGO_MANIFEST_DIR").unwrap();
    let problems = xtask::tidy::run(Path::new(&manifest_dir).parent().unwrap()).unwrap();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} problems:\n{}", lines.len(), lines.join("\n"));
}
