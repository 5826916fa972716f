//! Several nodes that know each other, and one of them yours.

use std::path::{Path, PathBuf};

use atoll_control::{Client, InviteRequest, JoinRequest};

use crate::{GridError, NodeProcess, Start};

/// What grid to raise.
#[derive(Debug, Clone)]
pub struct GridConfig {
    /// The `atoll` program.
    pub program: PathBuf,
    /// Where the nodes keep their data, a folder each.
    pub folder: PathBuf,
    /// How many nodes lend storage.
    pub storage_nodes: usize,
    /// What each of them lends, as a setting's text (`8G`).
    pub capacity: String,
    /// Leave the processes running at the end.
    pub keep: bool,
}

/// Storage nodes, and one node that lends nothing, holds the owner's key and is spoken to: `home`.
#[derive(Debug)]
pub struct Grid {
    config: GridConfig,
    /// Your own node.
    pub home: NodeProcess,
    /// The nodes that lend storage.
    pub nodes: Vec<NodeProcess>,
    started: usize,
}

impl Grid {
    /// Starts the nodes and joins each of them to home by ticket. `on_step` is told what is being done.
    ///
    /// # Errors
    /// [`GridError`] of the first node that does not come up or join.
    pub async fn raise(config: GridConfig, mut on_step: impl FnMut(&str)) -> Result<Self, GridError> {
        on_step("starting your node");
        let home_start = start(&config, &["node.roles=network"]);
        let home = NodeProcess::start("home", &config.folder.join("home"), home_start).await?;
        let mut grid = Self { config, home, nodes: Vec::new(), started: 0 };
        for _ in 0..grid.config.storage_nodes {
            on_step(&format!("starting storage node {}", grid.started + 1));
            let node = grid.start_empty_node().await?;
            grid.nodes.push(node);
        }
        Ok(grid)
    }

    /// Starts one more storage node over an empty folder and joins it to home. It is not put into [`Self::nodes`]: it may be meant
    /// to stand in for one of them.
    ///
    /// # Errors
    /// See [`Self::raise`].
    pub async fn start_empty_node(&mut self) -> Result<NodeProcess, GridError> {
        self.started += 1;
        let name = format!("node{}", self.started);
        let capacity = format!("storage.capacity={}", self.config.capacity);
        let settings = ["node.roles=network,storage", &capacity];
        let node = NodeProcess::start(&name, &self.config.folder.join(&name), start(&self.config, &settings)).await?;
        let invited = self.home.client().invite(&InviteRequest { ttl_seconds: 600, uses: 1 }).await;
        let ticket = invited.map_err(|source| self.home.control(source))?.ticket;
        node.client().join(&JoinRequest { ticket }).await.map_err(|source| node.control(source))?;
        Ok(node)
    }

    /// Lets the processes live on.
    pub fn leave_running(self) {
        // Dropping it would end them.
        std::mem::forget(self);
    }

    /// Speaks to your own node.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.home.client()
    }

    /// The folder that holds all nodes' data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.config.folder
    }
}

/// Ports are chosen by the system, and only loopback is used.
fn start(config: &GridConfig, settings: &[&str]) -> Start {
    let common = [
        "network.bind=127.0.0.1:0",
        "network.lane=127.0.0.1:0",
        "node.metrics=127.0.0.1:0",
        "node.dashboard=127.0.0.1:0",
    ];
    let settings = common.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
    Start { program: config.program.clone(), settings, host: None, keep: config.keep }
}
