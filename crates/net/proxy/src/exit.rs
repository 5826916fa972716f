//! Rules of an exit: who may reach what beyond this node through it.
//!
//! As text, a rule is *who*, *where* and *what*: `owner:o… 10.1.0.0/16 tcp/443`, `node:n… internet`, `peers 192.168.1.20/32 tcp/80-90`. Without *what* it is TCP to any
//! port. There are only rules that allow: what none of them names is not reached.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use atoll_ids::{NodeId, OwnerId};
use ipnet::IpNet;

use crate::special::Special;

/// Every port.
const ALL_PORTS: RangeInclusive<u16> = 0..=u16::MAX;

/// Whom a rule is about, as in the rules of the packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Peers,
    Owner(OwnerId),
    Node(NodeId),
}

/// What a rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Addresses of the Internet, of both families.
    Internet,
    Network(IpNet),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRule {
    who: Who,
    to: Where,
    ports: RangeInclusive<u16>,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no rule of an exit: {reason} (one is like `owner:ID internet tcp/443`, `node:ID 10.1.0.0/16` or `peers 192.168.1.20/32 tcp/80`)"
)]
pub struct ExitRuleError {
    text: String,
    reason: String,
}

impl FromStr for ExitRule {
    type Err = ExitRuleError;

    fn from_str(text: &str) -> Result<Self, ExitRuleError> {
        // More characters than a rule takes would drown the message.
        let refuse = |reason: String| ExitRuleError { text: text.chars().take(120).collect(), reason };
        let mut words = text.split_whitespace();
        let (Some(who), Some(to)) = (words.next(), words.next()) else {
            return Err(refuse("it names who and where to".into()));
        };
        let ports = words.next().map_or(Ok(ALL_PORTS), parse_what).map_err(refuse)?;
        if let Some(word) = words.next() {
            return Err(refuse(format!("{word:?} is one word too many")));
        }
        Ok(Self { who: parse_who(who).map_err(refuse)?, to: parse_where(to).map_err(refuse)?, ports })
    }
}

fn parse_who(text: &str) -> Result<Who, String> {
    match text.split_once(':') {
        None if text == "peers" => Ok(Who::Peers),
        Some(("owner", id)) => id.parse().map(Who::Owner).map_err(|error| format!("{error}")),
        Some(("node", id)) => id.parse().map(Who::Node).map_err(|error| format!("{error}")),
        _ => Err(format!("{text:?} is nobody; it begins with `peers`, `owner:ID` or `node:ID`")),
    }
}

fn parse_what(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port from 0 to 65535"));
    let ports = match text.split_once('/') {
        None if text == "tcp" => ALL_PORTS,
        Some(("tcp", ports)) => match ports.split_once('-') {
            Some((first, last)) => port(first)?..=port(last)?,
            None => port(ports)?..=port(ports)?,
        },
        _ => return Err(format!("only TCP leads through an exit, not {text}")),
    };
    if ports.is_empty() { Err(format!("{text} is no range: the first port is above the last")) } else { Ok(ports) }
}

fn parse_where(text: &str) -> Result<Where, String> {
    if text == "internet" {
        return Ok(Where::Internet);
    }
    let whole = |ip: IpAddr| IpNet::from(ip);
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse().map(whole).ok());
    let network = network.ok_or_else(|| format!("{text:?} is neither `internet` nor a network like 10.1.0.0/16"))?;
    if network.trunc() != network {
        return Err(format!("{text} has bits behind its length; is {} meant?", network.trunc()));
    }
    match network.addr().to_canonical() {
        _ if network.prefix_len() == 0 => Err("everything is not a network; is `internet` meant?".into()),
        ip if ip != network.addr() => Err(format!("{text} is IPv4 in another form; write {ip}")),
        _ => Ok(Where::Network(network)),
    }
}

impl fmt::Display for ExitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.who {
            Who::Peers => f.write_str("peers"),
            Who::Owner(owner) => write!(f, "owner:{owner}"),
            Who::Node(node) => write!(f, "node:{node}"),
        }?;
        match self.to {
            Where::Internet => f.write_str(" internet tcp"),
            Where::Network(network) => write!(f, " {network} tcp"),
        }?;
        match (self.ports.start(), self.ports.end()) {
            (0, &u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

impl ExitRule {
    /// Whether it is about this node, which is `owner`'s as far as that was proven, and this port.
    fn is_for(&self, node: NodeId, owner: Option<OwnerId>, port: u16) -> bool {
        let named = match self.who {
            Who::Peers => true,
            Who::Owner(named) => owner == Some(named),
            Who::Node(named) => node == named,
        };
        named && self.ports.contains(&port)
    }

    /// Whether it leads to this address; `ours` is whether that is one of this machine's own.
    fn leads_to(&self, ip: IpAddr, ours: bool) -> bool {
        let special = if ours { Special::Exact } else { Special::of(ip) };
        match (special, &self.to) {
            (Special::Never, _) | (Special::Exact, Where::Internet) => false,
            (Special::Exact, Where::Network(network)) => *network == IpNet::from(ip),
            (Special::No { global }, Where::Internet) => global,
            (Special::No { .. }, Where::Network(network)) => network.contains(&ip),
        }
    }
}

/// Whether `node`, which is `owner`'s, may reach this port anywhere at all: who may not is not worth a look-up.
pub(crate) fn may_leave(rules: &[ExitRule], node: NodeId, owner: Option<OwnerId>, port: u16) -> bool {
    rules.iter().any(|rule| rule.is_for(node, owner, port))
}

/// Whether `node`, which is `owner`'s as far as that was proven, may reach this port of this address. `ours` is whether the address is one of this machine's own:
/// like loopback, such a one is reached only by a rule that names it alone.
#[must_use]
pub fn judge(rules: &[ExitRule], node: NodeId, owner: Option<OwnerId>, ip: IpAddr, port: u16, ours: bool) -> bool {
    let ip = ip.to_canonical();
    // What nobody connects to is no machine's own either, whatever the system lets be bound.
    let ours = ours && Special::of(ip) != Special::Never;
    rules.iter().any(|rule| rule.is_for(node, owner, port) && rule.leads_to(ip, ours))
}

#[cfg(test)]
mod tests;
