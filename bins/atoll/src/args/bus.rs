//! What can be typed after `atoll net` about messages.

use std::path::PathBuf;

use atoll_ids::MessageId;
use clap::{Args, Subcommand};

use super::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Send a message to a node, or to all known nodes of an owner; it waits for nodes that are away
    Send(BusSend),
    /// Print messages that arrived and acknowledge each; what is acknowledged is gone
    Receive(BusReceive),
    /// Answer a message that arrived
    Reply(BusReply),
    /// List what waits to be delivered, what waits to be received, and the last of what does not any more
    Messages,
}

#[derive(Debug, Args)]
pub(crate) struct BusSend {
    /// A node's name, id or planetary address, or owner:ID for all known nodes of that owner
    #[arg(value_name = "NODE|owner:ID")]
    pub(crate) to: String,
    /// What it is about: words of a-z A-Z 0-9 - _ joined by dots, such as backup.done
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) payload: BusPayload,
    /// How long it may wait to be delivered and received (1s to 30d)
    #[arg(long, default_value = "1d", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) ttl: u64,
    /// Wait until it is delivered, refused or expired; fail unless every node has it
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait this long for answers and print them; fail if there is none
    #[arg(long, value_parser = parse_duration, value_name = "TIME", conflicts_with = "wait")]
    pub(crate) reply: Option<u64>,
}

/// What is sent: at most 256 KiB.
#[derive(Debug, Args)]
pub(crate) struct BusPayload {
    /// The text to send; `-` sends what comes on standard input
    #[arg(conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Send what is in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BusReceive {
    /// Which topics: `*` is any one word, `**` at the end any number of words
    #[arg(default_value = "**", value_name = "PATTERN")]
    pub(crate) topics: String,
    /// Only from these nodes: own, peers, owner:ID or node:ID
    #[arg(long, value_name = "WHO")]
    pub(crate) from: Option<String>,
    /// Wait for more, for ever
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Wait until there were so many, then end
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    pub(crate) count: Option<u64>,
    /// Print what was sent as it is, and nothing else
    #[arg(long, conflicts_with = "exec")]
    pub(crate) raw: bool,
    /// Instead of printing, run this with sh for each message, which comes on its standard input; acknowledge it if that succeeds, else end. The variables
    /// MESSAGE_ID, MESSAGE_FROM, MESSAGE_OWNER, MESSAGE_TOPIC and MESSAGE_ANSWERS say the rest
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BusReply {
    /// The message's id
    pub(crate) id: MessageId,
    #[command(flatten)]
    pub(crate) payload: BusPayload,
    /// How long it may wait to be delivered and received (1s to 30d)
    #[arg(long, default_value = "1d", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) ttl: u64,
    /// Wait until it is delivered, refused or expired; fail unless the node has it
    #[arg(long)]
    pub(crate) wait: bool,
}
