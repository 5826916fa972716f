//! The programs that measure: iperf3 and ping, and what their output says.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use atoll_lab::Netns;
use serde_json::Value;

use crate::product::Running;

/// iperf3's own port, which the products' filters have to let in.
pub(crate) const IPERF_PORT: u16 = 5201;

/// Between two pings of a series: often enough for a p99 in a few seconds, far from being load.
const PING_EVERY: &str = "0.01";

/// Between two pings while waiting for the first answer, or watching for a gap: what such a figure is exact to.
const WATCH_EVERY: &str = "0.02";

/// What is needed, and the packages that it is in.
const NEEDED: [(&str, &str, &str); 4] = [
    ("iperf3", "--version", "iperf3"),
    ("ping", "-V", "iputils-ping"),
    ("ip", "-Version", "iproute2"),
    ("nft", "--version", "nftables"),
];

/// Checks that they are there.
pub(crate) fn check() -> Result<()> {
    for (program, flag, package) in NEEDED {
        let ran = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if ran.is_err() {
            bail!("{program} is missing: apt-get install {package}");
        }
    }
    Ok(())
}

/// Which way the bytes of a transfer go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who begins it.
    There,
    /// To who begins it.
    Back,
}

/// An iperf3 server, until it is dropped.
pub(crate) fn iperf_server(at: &Netns) -> Result<Running> {
    let mut command = at.command("iperf3");
    command.arg("-s").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Running::of(command.spawn().context("cannot start iperf3")?);
    let listens = || at.inside(|| std::fs::read_to_string("/proc/thread-self/net/tcp6")).unwrap_or_default();
    // The port in hexadecimal (proc(5), `/proc/net/tcp`).
    let port = format!(":{IPERF_PORT:04X} ");
    server.until("iperf3 listens", std::path::Path::new("/dev/null"), || listens().contains(&port))?;
    Ok(server)
}

/// Starts a transfer over one TCP connection.
pub(crate) fn iperf_client(at: &Netns, to: IpAddr, seconds: u32, way: Way) -> Result<Child> {
    let mut command = at.command("iperf3");
    // The first second is the congestion window's.
    command.args(["-J", "-O", "1", "-t", &seconds.to_string(), "-c", &to.to_string()]);
    if way == Way::Back {
        command.arg("-R");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().context("cannot start iperf3")
}

/// What a transfer came to, in Gbit/s at the receiver.
pub(crate) fn iperf_result(client: Child) -> Result<f64> {
    let output = client.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 said nothing")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 does not say what was received")? / 1e9)
}

/// Transfers for so long, one way.
pub(crate) fn transfer(at: &Netns, to: IpAddr, seconds: u32, way: Way) -> Result<f64> {
    iperf_result(iperf_client(at, to, seconds, way)?)
}

fn ping(at: &Netns, to: IpAddr, arguments: &[&str]) -> Command {
    let mut command = at.command("ping");
    command.args(["-n"]).args(arguments).arg(to.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// A series of pings: how long each answer took, in milliseconds, and how many were asked for.
pub(crate) fn ping_series(at: &Netns, to: IpAddr, seconds: u32) -> Result<(Vec<f64>, usize)> {
    let count = (seconds * 100) as usize;
    let output = ping(at, to, &["-i", PING_EVERY, "-W", "2", "-c", &count.to_string()]).output()?;
    let times = String::from_utf8_lossy(&output.stdout).lines().filter_map(answer_ms).collect();
    Ok((times, count))
}

/// How long the answer in a line of ping's took, in milliseconds.
fn answer_ms(line: &str) -> Option<f64> {
    line.split_once(" time=")?.1.split_once(' ')?.0.parse().ok()
}

/// Pings until the first answer; gives when that came, or `None` if it did not within the time.
pub(crate) fn first_answer(at: &Netns, to: IpAddr, within: Duration) -> Option<Instant> {
    let began = Instant::now();
    while began.elapsed() < within {
        // With a deadline, -c is the number of answers that end it.
        let answered = ping(at, to, &["-i", WATCH_EVERY, "-c", "1", "-w", "2"]).output();
        if answered.is_ok_and(|output| output.status.success()) {
            return Some(Instant::now());
        }
        // It gives up at once where there is no route yet.
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Pings all the time, and keeps when answers came.
pub(crate) struct Watch {
    _ping: Running,
    answers: Arc<Mutex<Vec<Instant>>>,
}

impl Watch {
    pub(crate) fn start(at: &Netns, to: IpAddr) -> Result<Self> {
        let mut child = ping(at, to, &["-i", WATCH_EVERY]).spawn().context("cannot start ping")?;
        let lines = BufReader::new(child.stdout.take().context("ping's output")?).lines();
        let answers = Arc::<Mutex<Vec<Instant>>>::default();
        let kept = answers.clone();
        // Ends with ping.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if answer_ms(&line).is_some() {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
            }
        });
        Ok(Self { _ping: Running::of(child), answers })
    }

    /// When answers came that came after `since`, and the last one before.
    pub(crate) fn answers_since(&self, since: Instant) -> Vec<Instant> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = answers.partition_point(|at| *at < since).saturating_sub(1);
        answers[first..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_the_rest() {
        let check = |line: &str, expected: Option<f64>| assert_eq!(answer_ms(line), expected, "{line}");
        check("64 bytes from 10.60.0.1: icmp_seq=1 ttl=64 time=0.041 ms", Some(0.041));
        check("64 bytes from 600::1: icmp_seq=7 ttl=64 time=12.4 ms (DUP!)", Some(12.4));
        check("From 10.60.0.2 icmp_seq=9 Destination Host Unreachable", None);
        check("PING 10.60.0.1 (10.60.0.1) 56(84) bytes of data.", None);
        check("rtt min/avg/max/mdev = 0.018/0.021/0.041/0.003 ms", None);
    }
}
