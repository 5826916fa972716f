//! How long pings take between two nodes, with nothing else and beside a transfer that takes all it can get.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Raised;
use crate::Options;
use crate::figures::{Sink, at_share};
use crate::tools::{Way, iperf_client, iperf_result, iperf_server, ping_series};

/// Milliseconds; the share that was not answered.
pub(super) const FIGURES: [&str; 8] = [
    "ping.idle.median",
    "ping.idle.p99",
    "ping.idle.max",
    "ping.idle.lost",
    "ping.load.median",
    "ping.load.p99",
    "ping.load.max",
    "ping.load.lost",
];

/// A transfer is at its full speed by then.
const UNDER_WAY: Duration = Duration::from_secs(2);

pub(super) fn take(options: &Options, raised: &mut Raised<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let (near, far) = (&raised.plan.nodes[0], &raised.plan.nodes[1]);
    let to = raised.network.address(1);
    keep(ping_series(near, to, options.seconds)?, &FIGURES[..4], sink)?;
    let _server = iperf_server(far)?;
    // It goes on a little longer than the pings do.
    let load = iperf_client(near, to, options.seconds + 4, Way::There)?;
    std::thread::sleep(UNDER_WAY);
    let pings = ping_series(near, to, options.seconds);
    // Without the transfer the figures would be those of an idle network.
    let carried = iperf_result(load)?;
    ensure!(carried > 0.0, "nothing was transferred");
    keep(pings?, &FIGURES[4..], sink)
}

fn keep((mut times, asked): (Vec<f64>, usize), figures: &[&str], sink: &mut Sink<'_>) -> Result<()> {
    ensure!(!times.is_empty(), "no ping was answered");
    times.sort_by(f64::total_cmp);
    for (figure, share) in figures.iter().zip([0.5, 0.99, 1.0]) {
        sink.value(figure, at_share(&times, share));
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    sink.value(figures[3], 1.0 - times.len() as f64 / asked as f64);
    Ok(())
}
