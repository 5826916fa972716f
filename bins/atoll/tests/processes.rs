//! The program as real processes, spoken to as a person or another program would.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "processes/apps.rs"]
mod apps;
#[path = "processes/attacker.rs"]
mod attacker;
#[path = "processes/attacks.rs"]
mod attacks;
#[path = "processes/bus.rs"]
mod bus;
#[path = "processes/cloud.rs"]
mod cloud;
#[path = "processes/common.rs"]
mod common;
#[path = "processes/demo.rs"]
mod demo;
#[path = "processes/faults.rs"]
mod faults;
#[path = "processes/filesystems.rs"]
mod filesystems;
#[path = "processes/find.rs"]
mod find;
#[path = "processes/floods.rs"]
mod floods;
#[path = "processes/forgeries.rs"]
mod forgeries;
#[path = "processes/help.rs"]
mod help;
#[path = "processes/kill.rs"]
mod kill;
#[path = "processes/kubelet.rs"]
mod kubelet;
#[path = "processes/lab_node.rs"]
mod lab_node;
#[path = "processes/names.rs"]
mod names;
#[path = "processes/nat.rs"]
mod nat;
#[path = "processes/nat_relay.rs"]
mod nat_relay;
#[path = "processes/network.rs"]
mod network;
#[path = "processes/node.rs"]
mod node;
#[path = "processes/partition.rs"]
mod partition;
#[path = "processes/pods.rs"]
mod pods;
#[path = "processes/policies.rs"]
mod policies;
#[path = "processes/reach.rs"]
mod reach;
#[path = "processes/relay.rs"]
mod relay;
#[path = "processes/restarts.rs"]
mod restarts;
#[path = "processes/store.rs"]
mod store;
#[path = "processes/story.rs"]
mod story;
#[path = "processes/volumes.rs"]
mod volumes;
#[path = "processes/world.rs"]
mod world;
