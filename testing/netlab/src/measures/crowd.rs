//! Networks of many nodes: how soon a new node's ping is answered, what the network sends when nobody uses it, and what memory a node takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::REACHED_WITHIN;
use crate::Options;
use crate::figures::Sink;
use crate::product::{Network, Product};
use crate::shape::{Plan, Shape};
use crate::tools::first_answer;

/// How long the first answer may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// The same for a node that is up.
const MET_WITHIN: Duration = Duration::from_secs(30);

/// What is kept of a network of so many nodes.
pub(super) const KINDS: [&str; 7] = ["contact", "other", "met", "met_slowest", "idle", "idle_median", "memory"];

/// The name of a figure of a network of so many nodes.
pub(super) fn figure(nodes: usize, kind: &str) -> String {
    format!("join.{nodes:03}.{kind}")
}

pub(super) fn take(options: &Options, nodes: usize, product: &dyn Product, sink: &mut Sink<'_>) {
    if let Some(why) = product.cannot(Shape::Crowd(nodes)) {
        return KINDS.iter().for_each(|kind| sink.none(&figure(nodes, kind), why));
    }
    if let Err(error) = measure(options, nodes, product, sink) {
        KINDS.iter().for_each(|kind| sink.none(&figure(nodes, kind), format!("{error:#}")));
    }
}

fn measure(options: &Options, nodes: usize, product: &dyn Product, sink: &mut Sink<'_>) -> Result<()> {
    let plan = Plan::new(Shape::Crowd(nodes))?;
    let mut network = product.prepare(&plan)?;
    let last = plan.last();
    let mut met = Vec::new();
    for node in 0..last {
        network.before(node)?;
        network.start(node)?;
        met.extend(meet(&plan, network.as_ref(), node));
    }
    keep_met(nodes, met, sink);
    if last > 1 {
        let reached = first_answer(&plan.nodes[last - 1], network.address(0), REACHED_WITHIN);
        ensure!(reached.is_some(), "the network of {last} did not come up");
    }
    join(&plan, network.as_mut(), sink)?;
    std::thread::sleep(Duration::from_secs(options.settle.into()));
    let (before, began) = (sent_bytes(&plan)?, Instant::now());
    std::thread::sleep(Duration::from_secs(options.idle.into()));
    let (after, seconds) = (sent_bytes(&plan)?, began.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    let rates: Vec<f64> = after.iter().zip(&before).map(|(after, before)| (after - before) as f64 / seconds).collect();
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    let all = nodes as f64;
    sink.value(&figure(nodes, "idle"), rates.iter().sum::<f64>() / all);
    sink.value(&figure(nodes, "idle_median"), median(rates));
    match memory_mib(&plan) {
        Some(mib) => sink.value(&figure(nodes, "memory"), mib / all),
        None => sink.none(&figure(nodes, "memory"), "no process"),
    }
    Ok(())
}

/// How long a node that has just joined waits for the first answer of some other, in seconds; not of the one that it was told of. Infinite if it waits in vain.
fn meet(plan: &Plan, network: &dyn Network, node: usize) -> Option<f64> {
    // Any: spread over them by a multiplier without common factors.
    let other = 1 + (node * 7919) % node.checked_sub(1).filter(|others| *others > 0)?;
    let began = Instant::now();
    let answered = first_answer(&plan.nodes[node], network.address(other), MET_WITHIN);
    Some(answered.map_or(f64::INFINITY, |at| (at - began).as_secs_f64()))
}

fn keep_met(nodes: usize, met: Vec<f64>, sink: &mut Sink<'_>) {
    let slowest = met.iter().copied().reduce(f64::max);
    let middle = (!met.is_empty()).then(|| median(met));
    for (kind, value) in [("met", middle), ("met_slowest", slowest)] {
        match value {
            Some(seconds) if seconds.is_finite() => sink.value(&figure(nodes, kind), seconds),
            Some(_) => sink.none(&figure(nodes, kind), format!("not within {} s", MET_WITHIN.as_secs())),
            None => sink.none(&figure(nodes, kind), "there is no other"),
        }
    }
}

/// The one in the middle; there is one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts the last node; keeps how long its first pings took to be answered: by the node that it was told of, and by one that it was not.
fn join(plan: &Plan, network: &mut dyn Network, sink: &mut Sink<'_>) -> Result<()> {
    let (last, nodes) = (plan.last(), plan.nodes.len());
    network.before(last)?;
    let other = (nodes > 2).then_some(last / 2).filter(|other| *other > 0);
    let targets: Vec<_> = [Some((0, "contact")), other.map(|other| (other, "other"))].into_iter().flatten().collect();
    let targets: Vec<_> = targets.into_iter().map(|(node, kind)| (network.address(node), kind)).collect();
    let began = Instant::now();
    let answered = std::thread::scope(|scope| {
        let asking = |address| scope.spawn(move || first_answer(&plan.nodes[last], address, ANSWERED_WITHIN));
        let asked: Vec<_> = targets.iter().map(|(address, kind)| (asking(*address), *kind)).collect();
        let started = network.start(last);
        let answered: Vec<_> = asked.into_iter().map(|(asked, kind)| (asked.join().ok().flatten(), kind)).collect();
        started.map(|()| answered)
    })?;
    for (at, kind) in answered {
        match at {
            Some(at) => sink.value(&figure(nodes, kind), (at - began).as_secs_f64()),
            None => sink.none(&figure(nodes, kind), format!("not within {} s", ANSWERED_WITHIN.as_secs())),
        }
    }
    if other.is_none() {
        sink.none(&figure(nodes, "other"), "there is no other");
    }
    Ok(())
}

/// What each node has sent so far, in bytes with Ethernet headers: what the hub has received from it.
fn sent_bytes(plan: &Plan) -> Result<Vec<u64>> {
    let output = plan.hub().command("ip").args(["-json", "-statistics", "link", "show", "type", "veth"]).output()?;
    let links: Value = serde_json::from_slice(&output.stdout).context("`ip` said nothing of the cables")?;
    let received = links.as_array().into_iter().flatten().map(|link| link["stats64"]["rx"]["bytes"].as_u64());
    received.map(|bytes| bytes.context("`ip` does not say what was received")).collect()
}

/// The memory of all that runs on the nodes, in MiB, what is shared being divided among those who share it (`Pss` of proc(5)).
fn memory_mib(plan: &Plan) -> Option<f64> {
    let mut kib = 0;
    for netns in &plan.nodes {
        let pids = std::process::Command::new("ip").args(["netns", "pids", netns.name()]).output().ok()?;
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let Ok(rollup) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            kib += pss.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "mebibytes for people")]
    (kib > 0).then_some(kib as f64 / 1024.0)
}
