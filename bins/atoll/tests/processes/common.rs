//! What the process tests share: a grid of real nodes in a temporary folder, and the command line run as a person would.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atoll_grid::{Grid, GridConfig, NodeProcess, Start};
use tempfile::TempDir;

/// The program under test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_atoll"))
}

/// A grid that is gone with its folder when it is dropped.
pub(crate) struct TestGrid {
    pub(crate) grid: Grid,
    pub(crate) folder: TempDir,
}

impl TestGrid {
    /// Home and `nodes` storage nodes.
    pub(crate) async fn raise(nodes: usize) -> Self {
        Self::raise_with(nodes, "2G").await
    }

    /// The same with what each node lends.
    pub(crate) async fn raise_with(nodes: usize, capacity: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = GridConfig {
            program: program(),
            folder: folder.path().join("grid"),
            storage_nodes: nodes,
            capacity: capacity.to_owned(),
            keep: false,
        };
        let grid = Grid::raise(config, |_| {}).await.unwrap();
        Self { grid, folder }
    }

    /// Runs a command against home and expects it to succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run(self.grid.home.data_dir(), arguments, b"")
    }

    /// Runs a command against home and expects it to fail; gives what it said.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        fail(self.grid.home.data_dir(), arguments)
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text for a command.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// One node alone, on ports the system chooses.
pub(crate) async fn lone_node(data_dir: &Path, settings: &[&str]) -> Result<NodeProcess, atoll_grid::GridError> {
    let common = [
        "network.bind=127.0.0.1:0",
        "network.lane=127.0.0.1:0",
        "node.metrics=127.0.0.1:0",
        "node.dashboard=127.0.0.1:0",
    ];
    let settings = common.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
    NodeProcess::start("lone", data_dir, Start { program: program(), settings, host: None, keep: false }).await
}

/// Runs the program over `data_dir` with `input` on standard input.
pub(crate) fn output(data_dir: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program())
        .env_remove("ATOLL_DATA_DIR")
        .arg("--data-dir")
        .arg(data_dir)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that does not read its input closes it: that is no failure of the test.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Runs the program and expects it to succeed; gives its standard output.
pub(crate) fn run(data_dir: &Path, arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8(run_bytes(data_dir, arguments, input)).unwrap()
}

/// The same for output that is not text.
pub(crate) fn run_bytes(data_dir: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = output(data_dir, arguments, input);
    assert!(output.status.success(), "atoll {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The same as parsed JSON.
pub(crate) fn run_json(data_dir: &Path, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run(data_dir, &[&["--output", "json"], arguments].concat(), b"")).unwrap()
}

/// Runs the program and expects it to fail with a message; gives the message.
pub(crate) fn fail(data_dir: &Path, arguments: &[&str]) -> String {
    let output = output(data_dir, arguments, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "atoll {arguments:?} did not fail: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}
