//! The main job, shown on one machine: a directory dispersed over nodes, nodes killed, every byte read back, the loss healed.
//!
//! Every step goes through the control API of real processes. A step that does not hold ends the demo with an error; nothing is
//! reported that was not seen.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use atoll_control::{BucketRequest, Event, GetRequest, HealRequest, HealSummary, PutRequest, Source, Summary};
use atoll_control::{TransferSummary, Usage};
use atoll_ids::{BucketName, ByteCount};
use serde::Serialize;

use crate::tree::{Difference, Entry};
use crate::{Grid, GridConfig, GridError, TreeSpec, digest, generate};

/// As many nodes as 4+2 needs.
const STORAGE_NODES: usize = 6;

/// Room beyond the content for segment preallocation and small trees, per node. A node of six keeps a quarter of what is stored under 4+2; it
/// lends as much as all of it, since space is only taken when it is used.
const CAPACITY_FLOOR_BYTES: u64 = 2 << 30;

/// What to show.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// The `atoll` program.
    pub program: PathBuf,
    /// The directory to store; made up if there is none.
    pub source: Option<PathBuf>,
    /// What to make up.
    pub spec: TreeSpec,
    /// Where the grid keeps its data; must not exist or be empty.
    pub folder: PathBuf,
    /// Leave the grid running at the end.
    pub keep: bool,
    /// Set to stop what runs in the background when the demo is dropped.
    pub stop: Arc<AtomicBool>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What was done.
    pub step: String,
    /// Files it moved, if it moved any.
    pub files: Option<u64>,
    /// Bytes it moved, if it moved any.
    pub bytes: Option<u64>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// What was seen.
    pub seen: String,
}

/// What the demo saw.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Content stored.
    pub content_bytes: u64,
    /// What its shards take on all nodes.
    pub stored_bytes: u64,
    /// The most memory that your node used, in bytes.
    pub home_peak_bytes: Option<u64>,
    /// The most memory that any storage node used, in bytes.
    pub node_peak_bytes: Option<u64>,
}

/// What the demo tells while it runs.
pub enum Tell<'a> {
    /// A step begins.
    Begin(&'a str),
    /// How far the step is.
    Progress(&'a Event),
    /// A step ended.
    End(&'a Step),
}

/// Runs the demo. The grid is handed back so that the caller decides when it ends.
///
/// # Errors
/// The first thing that did not hold.
pub async fn run(
    config: &DemoConfig,
    tell: &mut (dyn FnMut(Tell<'_>) + Send),
) -> Result<(DemoReport, Grid), GridError> {
    let mut demo = Demo::prepare(config, tell).await?;
    demo.store().await?;
    demo.kill(&[0, 1]).await?;
    demo.read_back("read back with two nodes dead", "first").await?;
    demo.restart_and_replace().await?;
    demo.heal().await?;
    demo.kill(&[2, 3]).await?;
    demo.read_back("read back with two others dead", "second").await?;
    demo.finish().await
}

struct Demo<'a> {
    config: &'a DemoConfig,
    tell: &'a mut (dyn FnMut(Tell<'_>) + Send),
    grid: Grid,
    source: PathBuf,
    expected: BTreeMap<Vec<u8>, Entry>,
    bucket: BucketName,
    steps: Vec<Step>,
}

impl<'a> Demo<'a> {
    async fn prepare(config: &'a DemoConfig, tell: &'a mut (dyn FnMut(Tell<'_>) + Send)) -> Result<Self, GridError> {
        let source = match &config.source {
            Some(source) => source.canonicalize().map_err(io_error("cannot read", source))?,
            None => made_up(config, tell).await?,
        };
        tell(Tell::Begin("hashing what will be stored"));
        let expected = blocking({
            let source = source.clone();
            move || digest(&source).map_err(io_error("cannot read", &source))
        })
        .await?;
        let bytes: u64 = expected.values().map(Entry::bytes).sum();
        let capacity = bytes.max(CAPACITY_FLOOR_BYTES);
        let grid_config = GridConfig {
            program: config.program.clone(),
            folder: config.folder.join("grid"),
            storage_nodes: STORAGE_NODES,
            capacity: capacity.to_string(),
            keep: config.keep,
        };
        let began = Instant::now();
        let grid = Grid::raise(grid_config, |step| tell(Tell::Begin(step))).await?;
        let bucket: BucketName = "demo".parse().map_err(|_| GridError::Wrong("bucket name".into()))?;
        let mut demo = Self { config, tell, grid, source, expected, bucket, steps: Vec::new() };
        let seen = format!("{STORAGE_NODES} nodes and yours, joined by ticket");
        demo.record("raise the grid", None, began.elapsed(), seen);
        Ok(demo)
    }

    async fn store(&mut self) -> Result<(), GridError> {
        (self.tell)(Tell::Begin("storing"));
        let request = BucketRequest { policy: "4+2".into() };
        let created = self.grid.client().create_bucket(&self.bucket, &request).await;
        created.map_err(|source| self.grid.home.control(source))?;
        let metadata = self.source.metadata().map_err(io_error("cannot read", &self.source))?;
        let request = PutRequest {
            sources: vec![Source {
                path: self.source.clone(),
                device: metadata.dev(),
                inode: metadata.ino(),
                contents_only: true,
            }],
            bucket: self.bucket.clone(),
            key: String::new(),
            force: false,
        };
        let events = self.grid.client().put(&request).await;
        let summary = self.transfer(events).await?;
        if summary.skipped > 0 {
            return Err(GridError::Wrong(format!("{} files could not be stored", summary.skipped)));
        }
        self.record_transfer("store under 4+2", summary, "every shard synced to its node's disk".into());
        Ok(())
    }

    async fn kill(&mut self, victims: &[usize]) -> Result<(), GridError> {
        let began = Instant::now();
        let mut names = Vec::new();
        for &victim in victims {
            self.grid.nodes[victim].kill().await?;
            names.push(self.grid.nodes[victim].name().to_owned());
        }
        self.record("SIGKILL two nodes", None, began.elapsed(), names.join(", "));
        Ok(())
    }

    async fn read_back(&mut self, step: &str, name: &str) -> Result<(), GridError> {
        (self.tell)(Tell::Begin(step));
        let destination = self.config.folder.join("read-back").join(name);
        std::fs::create_dir_all(&destination).map_err(io_error("cannot make", &destination))?;
        let destination = destination.canonicalize().map_err(io_error("cannot read", &destination))?;
        let request = GetRequest {
            bucket: self.bucket.clone(),
            key: String::new(),
            destination: destination.clone(),
            force: false,
        };
        let events = self.grid.client().get(&request).await;
        let summary = self.transfer(events).await?;
        (self.tell)(Tell::Begin("comparing"));
        let found = blocking({
            let destination = destination.clone();
            move || digest(&destination).map_err(io_error("cannot read", &destination))
        })
        .await?;
        if let Some(difference) = Difference::between(&self.expected, &found) {
            return Err(GridError::Wrong(format!("what was read back differs: {difference:?}")));
        }
        let seen = format!("all {} hashes equal", found.len());
        std::fs::remove_dir_all(&destination).map_err(io_error("cannot remove", &destination))?;
        self.record_transfer(step, summary, seen);
        Ok(())
    }

    async fn restart_and_replace(&mut self) -> Result<(), GridError> {
        (self.tell)(Tell::Begin("one killed node returns, an empty one takes the place of the other"));
        let began = Instant::now();
        self.grid.nodes[0].start_again().await?;
        let empty = self.grid.start_empty_node().await?;
        let gone = std::mem::replace(&mut self.grid.nodes[1], empty);
        let lost = gone.status().await;
        if lost.is_ok() {
            return Err(GridError::Wrong(format!("{} was killed and still answers", gone.name())));
        }
        let folder = gone.data_dir().to_path_buf();
        std::fs::remove_dir_all(&folder).map_err(io_error("cannot remove", &folder))?;
        let seen = format!(
            "{} restarted, {} lost for good, {} empty",
            self.grid.nodes[0].name(),
            gone.name(),
            self.grid.nodes[1].name()
        );
        self.record("one returns, one is replaced", None, began.elapsed(), seen);
        Ok(())
    }

    async fn heal(&mut self) -> Result<(), GridError> {
        (self.tell)(Tell::Begin("healing"));
        let request = HealRequest { bucket: None, dry_run: false, deep: false };
        let events = self.grid.client().heal(&request).await.map_err(|source| self.grid.home.control(source))?;
        let tell = &mut self.tell;
        let summary = events.finish(|event| tell(Tell::Progress(event))).await;
        let Summary::Heal(healed) = summary.map_err(|source| self.grid.home.control(source))? else {
            return Err(GridError::Wrong("healing answered with something else".into()));
        };
        if !healed.unrecoverable.is_empty() || healed.rebuilt < healed.missing + healed.rotten {
            return Err(GridError::Wrong(format!("not everything was healed: {healed:?}")));
        }
        self.record_heal(&healed);
        Ok(())
    }

    async fn finish(mut self) -> Result<(DemoReport, Grid), GridError> {
        let usage = self.grid.client().usage(&self.bucket, "").await;
        let Usage { bytes, stored, .. } = usage.map_err(|source| self.grid.home.control(source))?;
        let report = DemoReport {
            steps: std::mem::take(&mut self.steps),
            content_bytes: bytes.0,
            stored_bytes: stored.0,
            home_peak_bytes: self.grid.home.peak_memory_bytes(),
            node_peak_bytes: self.grid.nodes.iter().filter_map(crate::NodeProcess::peak_memory_bytes).max(),
        };
        Ok((report, self.grid))
    }

    async fn transfer(
        &mut self,
        events: Result<atoll_control::Events, atoll_control::ClientError>,
    ) -> Result<TransferSummary, GridError> {
        let tell = &mut self.tell;
        let summary = match events {
            Ok(events) => events.finish(|event| tell(Tell::Progress(event))).await,
            Err(error) => Err(error),
        };
        match summary.map_err(|source| self.grid.home.control(source))? {
            Summary::Transfer(summary) => Ok(summary),
            _ => Err(GridError::Wrong("a transfer answered with something else".into())),
        }
    }

    fn record_transfer(&mut self, step: &str, summary: TransferSummary, seen: String) {
        self.push(Step {
            step: step.to_owned(),
            files: Some(summary.items),
            bytes: Some(summary.bytes),
            seconds: summary.seconds,
            seen,
        });
    }

    fn record_heal(&mut self, healed: &HealSummary) {
        self.push(Step {
            step: "heal".into(),
            files: Some(healed.objects),
            bytes: Some(healed.rebuilt_bytes),
            seconds: healed.seconds,
            seen: format!("{} shards made again, none beyond repair", healed.rebuilt),
        });
    }

    fn record(&mut self, step: &str, files: Option<u64>, took: Duration, seen: String) {
        self.push(Step { step: step.to_owned(), files, bytes: None, seconds: took.as_secs_f64(), seen });
    }

    fn push(&mut self, step: Step) {
        (self.tell)(Tell::End(&step));
        self.steps.push(step);
    }
}

async fn made_up(config: &DemoConfig, tell: &mut (dyn FnMut(Tell<'_>) + Send)) -> Result<PathBuf, GridError> {
    let spec = config.spec;
    tell(Tell::Begin(&format!("making up {} files, {}", spec.files, ByteCount(spec.bytes))));
    let folder = config.folder.join("source");
    blocking({
        let (folder, stop) = (folder.clone(), config.stop.clone());
        move || generate(&folder, spec, &stop).map_err(io_error("cannot write", &folder))
    })
    .await?;
    folder.canonicalize().map_err(io_error("cannot read", &folder))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GridError> + Send + 'static,
) -> Result<T, GridError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| GridError::Wrong(error.to_string()))?
}

fn io_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> GridError + use<> {
    let what = format!("{what} {}", path.display());
    move |source| GridError::Io { what, source }
}

impl Entry {
    fn bytes(&self) -> u64 {
        match self {
            Self::File(bytes, _) => *bytes,
            Self::Symlink(_) | Self::Directory => 0,
        }
    }
}
