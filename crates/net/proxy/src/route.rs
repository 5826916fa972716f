//! Which node takes what lies outside the planetary network: `NODEID` for everything, `10.1.0.0/16=NODEID` for a network, `corp.example=NODEID` for a domain.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use atoll_ids::NodeId;
use ipnet::IpNet;

use crate::hosts::is_host_name;

/// What one route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    Everything,
    Network(IpNet),
    /// A name and all below it, lower case.
    Domain(String),
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    over: Over,
    exit: NodeId,
}

/// Why a text is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no route to an exit: {reason} (one is like NODEID, 10.1.0.0/16=NODEID or corp.example=NODEID)")]
pub struct RouteError {
    text: String,
    reason: String,
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        // More characters than a route takes would drown the message.
        let refuse = |reason: String| RouteError { text: text.chars().take(120).collect(), reason };
        let (over, exit) = match text.trim().split_once('=') {
            Some((over, exit)) => (parse_over(over).map_err(refuse)?, exit),
            None => (Over::Everything, text.trim()),
        };
        Ok(Self { over, exit: exit.parse().map_err(|error| refuse(format!("{error}")))? })
    }
}

fn parse_over(text: &str) -> Result<Over, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok());
    if let Some(network) = network {
        return Ok(Over::Network(network.trunc()));
    }
    let name = text.trim_start_matches('.').to_ascii_lowercase();
    // Behind a dot, but still no domain.
    let is_address = name.parse::<IpAddr>().is_ok();
    if is_host_name(&name) && !is_address {
        Ok(Over::Domain(name))
    } else {
        Err(format!("{text:?} is neither a network nor a domain"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.over {
            Over::Everything => {}
            Over::Network(network) => write!(f, "{network}=")?,
            Over::Domain(name) => write!(f, "{name}=")?,
        }
        self.exit.fmt(f)
    }
}

/// Routes; the one that says most about a target is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// These.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// Which node takes an address.
    #[must_use]
    pub fn for_address(&self, ip: IpAddr) -> Option<NodeId> {
        let length = |route: &Route| match &route.over {
            Over::Everything => Some(0),
            // A /0 says more than nothing does.
            Over::Network(network) => network.contains(&ip).then(|| 1 + usize::from(network.prefix_len())),
            Over::Domain(_) => None,
        };
        self.longest(length)
    }

    /// Which node looks a name up and takes what it finds.
    #[must_use]
    pub fn for_name(&self, name: &str) -> Option<NodeId> {
        let below = |name: &str, domain: &str| {
            name.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        let length = |route: &Route| match &route.over {
            Over::Everything => Some(0),
            Over::Domain(domain) => below(name, domain).then_some(domain.len()),
            Over::Network(_) => None,
        };
        self.longest(length)
    }

    /// The first of those that say most.
    fn longest(&self, length: impl Fn(&Route) -> Option<usize>) -> Option<NodeId> {
        let mut best: Option<(usize, NodeId)> = None;
        for route in &self.0 {
            if let Some(length) = length(route)
                && best.is_none_or(|(longest, _)| length > longest)
            {
                best = Some((length, route.exit));
            }
        }
        best.map(|(_, exit)| exit)
    }

    /// As texts.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn routes() -> Routes {
        let texts = [
            node(1).to_string(),
            format!("10.0.0.0/8={}", node(2)),
            format!("10.1.0.0/16={}", node(3)),
            format!("2001:db8::/32={}", node(4)),
            format!(".corp.example={}", node(5)),
            format!("eu.corp.example={}", node(6)),
        ];
        Routes::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn the_route_that_says_most_is_taken() {
        let check =
            |ip: &str, expect: u8| assert_eq!(routes().for_address(ip.parse().unwrap()), Some(node(expect)), "{ip}");
        check("1.1.1.1", 1);
        check("10.9.9.9", 2);
        check("10.1.9.9", 3);
        check("2001:db8::1", 4);
        check("2001:db9::1", 1);
        let check = |name: &str, expect: u8| assert_eq!(routes().for_name(name), Some(node(expect)), "{name}");
        check("example.com", 1);
        check("corp.example", 5);
        check("a.corp.example", 5);
        check("notcorp.example", 1);
        check("a.eu.corp.example", 6);
    }

    #[test]
    fn without_a_route_there_is_no_exit() {
        let only = Routes::new(vec![format!("10.0.0.0/8={}", node(2)).parse().unwrap()]);
        assert_eq!(only.for_address("11.0.0.1".parse().unwrap()), None);
        assert_eq!(only.for_name("example.com"), None);
        assert_eq!(Routes::default().for_address("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn routes_are_written_as_they_are_read() {
        for text in [node(1).to_string(), format!("10.0.0.0/8={}", node(2)), format!("corp.example={}", node(2))] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        let behind_a_dot = format!(".10.0.0.1={}", node(1));
        for text in ["", "x", "a b=c", &format!("/8={}", node(1)), "10.0.0.0/8=", &behind_a_dot] {
            assert!(text.parse::<Route>().is_err(), "{text:?}");
        }
    }
}
