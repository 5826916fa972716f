//! No overlay at all: the cables themselves, with the routes that a person would set. It is the limit of all others.

use std::net::IpAddr;

use anyhow::Result;

use crate::product::{Network, Product};
use crate::shape::{Plan, Shape};

/// As it is called in the tables.
pub(crate) const NAME: &str = "raw veth";

/// See the module.
pub(super) struct Raw;

struct Routes<'a> {
    plan: &'a Plan,
}

impl Product for Raw {
    fn name(&self) -> &str {
        NAME
    }

    fn cannot(&self, shape: Shape) -> Option<&'static str> {
        (shape == Shape::Triangle).then_some("a cable has no second way")
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        Ok(Box::new(Routes { plan }))
    }
}

impl Network for Routes<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        if self.plan.shape != Shape::Line {
            return Ok(());
        }
        let netns = &self.plan.nodes[node];
        netns.set("ipv4/ip_forward", "1")?;
        for (beyond, next) in self.beyond(node) {
            netns.ip(&["route", "add", &format!("{beyond}/24"), "via", &next])?;
        }
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        // The address that faces the other end.
        let from = if node == 0 { 1 } else { node - 1 };
        self.plan.shape.reach(from, node)[0].into()
    }
}

impl Routes<'_> {
    /// The segments of the line that a node has no cable to, each with the neighbour that is nearer to it.
    fn beyond(&self, node: usize) -> Vec<(String, String)> {
        let (shape, last) = (self.plan.shape, self.plan.last());
        let segments = (0..last).filter(|segment| *segment != node && segment + 1 != node);
        segments
            .map(|segment| {
                let next = if segment < node { node - 1 } else { node + 1 };
                let network = shape.reach(segment + 1, segment)[0].octets();
                let [a, b, c, _] = network;
                (format!("{a}.{b}.{c}.0"), shape.reach(node, next)[0].to_string())
            })
            .collect()
    }
}
