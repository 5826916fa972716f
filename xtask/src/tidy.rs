//! The rules of this workspace that no compiler and no lint checks, each a function from the tree of files to problems.
//!
//! | rule | what it holds |
//! |---|---|
//! | `layers` | which crate may depend on which: arrows point down |
//! | `crates` | the table in `ARCHITECTURE.md` and the crates agree; every crate says what it is, takes the workspace's lints, uses what it depends on |
//! | `pure` | crates that promise to do no I/O have no means to |
//! | `unsafe` | `unsafe` is in the erasure kernels only |
//! | `docs` | every source file opens with a sentence on what it is for; no `mod.rs` |
//! | `size` | files and functions stay short; what is longer is recorded in `xtask/ratchet.toml` and may only shrink |
//! | `licences` | every dependency's licence is one `deny.toml` allows |
//! | `duplicates` | heavy dependencies are built once, refused ones not at all |
//! | `words` | no note to self in place of work, no path of one machine, a newline at the end |
//!
//! A rule knows nothing of the others and of the disk: tests hand it a tree made of strings.

use std::{fmt, path::Path};

use anyhow::Result;

pub use crate::tidy::tree::Tree;

mod code;
mod crates;
mod deps;
mod rust;
mod text;
mod tree;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The rule, as in the table above.
    pub rule: &'static str,
    /// The file, with a line where there is one.
    pub place: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.place, self.what, self.rule)
    }
}

/// Checks the workspace in `root`.
///
/// # Errors
/// When a file cannot be read or cargo cannot list the dependencies.
pub fn run(root: &Path) -> Result<Vec<Problem>> {
    let tree = Tree::read(root)?;
    let mut problems = check_files(&tree);
    problems.extend(deps::check(&tree, &deps::list(root)?));
    problems.sort();
    Ok(problems)
}

/// Every rule that needs only the files.
pub fn check_files(tree: &Tree) -> Vec<Problem> {
    let rules: [fn(&Tree) -> Vec<Problem>; 7] = [
        crates::layers,
        crates::table_and_manifests,
        code::pure,
        code::unsafe_code,
        code::docs,
        code::sizes,
        text::words,
    ];
    rules.iter().flat_map(|rule| rule(tree)).collect()
}

/// Shorthand for the rules.
fn problem(rule: &'static str, place: impl Into<String>, what: impl Into<String>) -> Problem {
    Problem { rule, place: place.into(), what: what.into() }
}
