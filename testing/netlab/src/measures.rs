//! What is measured of a product, and how it is raised for it.

mod crowd;
mod latency;
mod outage;
mod restarts;
mod throughput;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::Options;
use crate::figures::{Figures, Sink};
use crate::product::{Network, Product};
use crate::shape::{Plan, Shape};
use crate::tools::first_answer;

/// How long the ends may take to reach each other before a measure begins.
const REACHED_WITHIN: Duration = Duration::from_secs(45);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Measure {
    /// One TCP connection between two nodes, each way
    Throughput,
    /// One TCP connection over a line of five nodes
    Line,
    /// Pings between two nodes, idle and beside a transfer
    Ping,
    /// How long nothing arrives when the direct link goes silent
    Outage,
    /// Whether TCP connections outlive restarts of what carries them
    Restarts,
    /// From the start of a node to its first answered ping, and what an idle network sends
    Join,
}

impl Measure {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Line => "line",
            Self::Ping => "ping",
            Self::Outage => "outage",
            Self::Restarts => "restarts",
            Self::Join => "join",
        }
    }

    /// Takes it. What goes wrong is kept in place of the figures.
    pub(crate) fn take(self, options: &Options, product: &dyn Product, sink: &mut Sink<'_>) {
        match self {
            Self::Throughput => on(Shape::Pair, product, sink, &throughput::PAIR, |raised, sink| {
                throughput::pair(options, raised, sink)
            }),
            Self::Line => on(Shape::Line, product, sink, &throughput::LINE, |raised, sink| {
                throughput::line(options, raised, sink)
            }),
            Self::Ping => {
                on(Shape::Pair, product, sink, &latency::FIGURES, |raised, sink| latency::take(options, raised, sink));
            }
            Self::Outage => on(Shape::Triangle, product, sink, &outage::FIGURES, outage::take),
            Self::Restarts => on(Shape::Triangle, product, sink, &restarts::FIGURES, |raised, sink| {
                restarts::take(options.restarts, raised, sink)
            }),
            Self::Join => options.nodes.iter().for_each(|nodes| crowd::take(options, *nodes, product, sink)),
        }
    }
}

/// The names of the figures of networks that were joined, by their number of nodes.
pub(crate) fn crowd_figures(figures: &Figures) -> Vec<(usize, [String; 4])> {
    let numbers =
        figures.names().into_iter().filter_map(|name| name.strip_prefix("join.")?.split_once('.')?.0.parse().ok());
    let numbers: BTreeSet<usize> = numbers.collect();
    numbers.into_iter().map(|nodes| (nodes, crowd::KINDS.map(|kind| crowd::figure(nodes, kind)))).collect()
}

/// A product on a plan, all nodes up and the ends reaching each other.
struct Raised<'a> {
    plan: &'a Plan,
    network: Box<dyn Network + 'a>,
}

/// Raises a product and takes figures of it; says of each that was not taken why.
fn on(
    shape: Shape,
    product: &dyn Product,
    sink: &mut Sink<'_>,
    figures: &[&str],
    take: impl FnOnce(&mut Raised<'_>, &mut Sink<'_>) -> Result<()>,
) {
    let taken = match product.cannot(shape) {
        Some(why) => Err(anyhow::anyhow!("{why}")),
        None => raise(shape, product, |raised| take(raised, sink)),
    };
    if let Err(error) = taken {
        for figure in figures {
            sink.none(figure, format!("{error:#}"));
        }
    }
}

fn raise(shape: Shape, product: &dyn Product, work: impl FnOnce(&mut Raised<'_>) -> Result<()>) -> Result<()> {
    let plan = Plan::new(shape)?;
    let mut network = product.prepare(&plan)?;
    for node in 0..plan.nodes.len() {
        network.before(node)?;
        network.start(node)?;
    }
    // In a triangle the third node is only the second way.
    let far = if shape == Shape::Triangle { 1 } else { plan.last() };
    for (from, to) in [(0, far), (far, 0)] {
        if first_answer(&plan.nodes[from], network.address(to), REACHED_WITHIN).is_none() {
            bail!("the ends did not reach each other within {} s", REACHED_WITHIN.as_secs());
        }
    }
    work(&mut Raised { plan: &plan, network })
}
