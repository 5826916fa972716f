//! What can be typed after `atoll net proxy` and `atoll net connect`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct NetProxy {
    /// Until the node restarts, this node takes what lies outside the network; or only a network or domain of it; or `off` (for good: setting network.exit_via)
    #[arg(long, value_name = "NODE|NETWORK=NODE|DOMAIN=NODE", value_delimiter = ',')]
    pub(crate) exit: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NetConnect {
    /// The node's id, its planetary address, or a name that ends in .atoll; or what an exit reaches
    pub(crate) node: String,
    /// The TCP port there
    pub(crate) port: u16,
}
