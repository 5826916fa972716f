//! Two TCP connections, one each way at a moderate rate, while the processes that carry them end and start again in turn: the third node, then either end, in order
//! and by kill -9. The programs at the ends are not told.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Raised;
use crate::figures::Sink;
use crate::tools::iperf_server;

/// Connections that were lost; restarts; the longest time in which nothing arrived either way, in seconds; what arrived in all, in Gbit/s.
pub(super) const FIGURES: [&str; 4] = ["restarts.lost", "restarts.count", "restarts.longest", "restarts.rate"];

/// Between two restarts: several times what a peer needs to notice one.
const EVERY: Duration = Duration::from_secs(15);

/// Each way. What is asked here is whether it goes on, beside whatever else the machine does.
const RATE: &str = "100M";

pub(super) fn take(seconds: u32, raised: &mut Raised<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let _server = iperf_server(&raised.plan.nodes[1])?;
    let mut command = raised.plan.nodes[0].command("iperf3");
    command.args([
        "-J",
        "--bidir",
        "-b",
        RATE,
        "-t",
        &seconds.to_string(),
        "-c",
        &raised.network.address(1).to_string(),
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let client = command.spawn().context("cannot start iperf3")?;
    let ends = Instant::now() + Duration::from_secs(seconds.into());
    let mut restarts = 0;
    for (node, orderly) in [(2, true), (0, true), (1, true), (2, false), (0, false), (1, false)].into_iter().cycle() {
        // The last is over while there is still something to be carried.
        if Instant::now() + EVERY * 2 > ends {
            break;
        }
        std::thread::sleep(EVERY);
        raised.network.restart(node, orderly)?;
        restarts += 1;
    }
    let output = client.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 said nothing")?;
    sink.value(FIGURES[1], f64::from(restarts));
    if let Some(error) = report["error"].as_str() {
        sink.value(FIGURES[0], 2.0);
        bail!("iperf3: {error}, after {} s", intervals(&report).len());
    }
    sink.value(FIGURES[0], 0.0);
    sink.value(FIGURES[2], longest_standstill(&intervals(&report)));
    let received =
        ["sum_received", "sum_received_bidir_reverse"].map(|sum| report["end"][sum]["bits_per_second"].as_f64());
    sink.value(FIGURES[3], received.into_iter().flatten().sum::<f64>() / 1e9);
    Ok(())
}

/// Seconds and bytes of each interval, there and back.
fn intervals(report: &Value) -> Vec<(f64, [u64; 2])> {
    let of = |interval: &Value| {
        let bytes = ["sum", "sum_bidir_reverse"].map(|sum| interval[sum]["bytes"].as_u64().unwrap_or(0));
        (interval["sum"]["seconds"].as_f64().unwrap_or(0.0), bytes)
    };
    report["intervals"].as_array().into_iter().flatten().map(of).collect()
}

/// The longest time without a byte, of either direction.
fn longest_standstill(intervals: &[(f64, [u64; 2])]) -> f64 {
    let of = |way: usize| {
        let runs = intervals.chunk_by(|one, other| (one.1[way] == 0) == (other.1[way] == 0));
        runs.filter(|run| run[0].1[way] == 0)
            .map(|run| run.iter().map(|(seconds, _)| seconds).sum())
            .fold(0.0, f64::max)
    };
    f64::max(of(0), of(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_of_one_direction() {
        let check = |bytes: &[[u64; 2]], expected: f64| {
            let intervals: Vec<_> = bytes.iter().map(|bytes| (1.0, *bytes)).collect();
            assert!((longest_standstill(&intervals) - expected).abs() < f64::EPSILON, "{bytes:?}");
        };
        check(&[], 0.0);
        check(&[[1, 1], [1, 1]], 0.0);
        check(&[[0, 1], [1, 0], [0, 1]], 1.0);
        check(&[[1, 0], [0, 0], [0, 0], [1, 0], [0, 1]], 4.0);
    }
}
