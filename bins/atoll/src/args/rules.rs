//! What can be typed after `atoll net allow`, `deny` and `check`.

use clap::Args;

use super::parse_duration;

#[derive(Debug, Args)]
pub(crate) struct NetAllow {
    /// peers, owner:ID, node:ID, group:NAME, or a peer's name, id or planetary address
    pub(crate) who: String,
    /// tcp/443, udp/5000-6000, tcp, icmp, all
    pub(crate) what: String,
    /// How long it holds (30s, 10m, 2h, 7d) [default: until it is taken back]
    #[arg(long = "for", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) seconds: Option<u64>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Let this node begin it with the peer, where only what is listed goes out (setting network.out)
    #[arg(long)]
    pub(crate) out: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetDeny {
    /// Its number, or the rule itself, as `atoll net rules` prints them
    #[arg(required = true, num_args = 1.., value_name = "GRANT")]
    pub(crate) rule: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NetCheck {
    /// Who would begin it: `me`, or a peer's name, id or planetary address
    pub(crate) from: String,
    /// With whom
    pub(crate) to: String,
    /// What: tcp/443, udp/53, icmp
    pub(crate) what: String,
}
