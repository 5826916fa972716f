//! The files the rules look at: everything in the workspace but build output and version control.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 2] = [".git", "target"];

/// Files by path, relative to the workspace and with `/` between names.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Reads the workspace in `root`.
    ///
    /// # Errors
    /// When a directory or file cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_directory(root, "")?;
        Ok(tree)
    }

    /// A tree made of text, for tests.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        Self { files: files.collect() }
    }

    /// The text of a file; `None` when it is missing or binary.
    pub fn text(&self, path: &str) -> Option<&str> {
        text_of(self.files.get(path)?)
    }

    /// All text files.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, bytes)| Some((path.as_str(), text_of(bytes)?)))
    }

    /// All Rust sources.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with(".rs"))
    }

    fn read_directory(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let context = || format!("cannot read {}", directory.display());
        for entry in fs::read_dir(directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().with_context(context)?;
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                self.read_directory(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && name != ".git" {
                let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                self.files.insert(path, bytes);
            }
        }
        Ok(())
    }
}

/// Bytes that are text: UTF-8 without a zero byte.
fn text_of(bytes: &[u8]) -> Option<&str> {
    if bytes.contains(&0) { None } else { std::str::from_utf8(bytes).ok() }
}
