//! One running node: what the configuration names, built and composed.
//!
//! [`Config`] says what; [`Node::start`] brings it up; [`Node::run`] serves until it is told to stop. This is the only crate that
//! knows both the network and the store: it hands the engine something that opens streams, and the link something that
//! serves them. Parsing of command lines is not here.

mod api;
mod bus;
mod card;
mod check;
mod clear;
mod cloud;
mod config;
mod daemon;
mod dashboard;
mod data_dir;
mod failure;
mod filesystems;
mod grants;
mod handlers;
mod healing;
mod kube_ports;
pub mod metrics;
mod names;
mod network;
mod peer_table;
mod peers;
mod ports;
mod proxy;
mod society;
mod sockets;
mod storage;
mod transfer;

use std::net::SocketAddr;

pub use card::{Card, CardError, Checked, check as check_card};
pub use check::{Answer as CheckAnswer, Question as CheckQuestion};
pub use clear::{ClearError, Cleared, clear};
pub use config::{Config, ConfigError, Role, SettingOverride};
pub use daemon::{Node, NodeError, StopHandle};
pub use data_dir::{CONFIG_FILE, DataDir, DataDirError, NODE_KEY, OWNER_KEY, wait_until_unlocked};

/// Socket addresses as the status shows them.
fn addresses(quic: &[SocketAddr], lane: &[SocketAddr]) -> Vec<String> {
    let quic = quic.iter().map(|address| format!("quic {address}"));
    quic.chain(lane.iter().map(|address| format!("lane {address}"))).collect()
}
