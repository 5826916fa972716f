//! How much one TCP connection carries.

use anyhow::Result;

use super::Raised;
use crate::Options;
use crate::figures::Sink;
use crate::tools::{Way, iperf_server, transfer};

/// Between two nodes, Gbit/s.
pub(super) const PAIR: [&str; 2] = ["tcp.there", "tcp.back"];

/// Over a line of five, Gbit/s.
pub(super) const LINE: [&str; 2] = ["line.there", "line.back"];

pub(super) fn pair(options: &Options, raised: &mut Raised<'_>, sink: &mut Sink<'_>) -> Result<()> {
    both_ways(options, raised, sink, PAIR)
}

pub(super) fn line(options: &Options, raised: &mut Raised<'_>, sink: &mut Sink<'_>) -> Result<()> {
    both_ways(options, raised, sink, LINE)
}

fn both_ways(options: &Options, raised: &mut Raised<'_>, sink: &mut Sink<'_>, figures: [&str; 2]) -> Result<()> {
    let last = raised.plan.last();
    let _server = iperf_server(&raised.plan.nodes[last])?;
    for (figure, way) in figures.iter().zip([Way::There, Way::Back]) {
        match transfer(&raised.plan.nodes[0], raised.network.address(last), options.seconds, way) {
            Ok(gbits) => sink.value(figure, gbits),
            Err(error) => sink.none(figure, format!("{error:#}")),
        }
    }
    Ok(())
}
