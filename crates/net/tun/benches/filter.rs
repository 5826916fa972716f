//! What the filter costs per packet: 10,000 conversations under way with 100 peers, 100 rules.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Instant;

use atoll_ids::{NodeId, OwnerId};
use atoll_tun::{Filter, PeerEntry, Rule};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PEERS: u8 = 100;
const FLOWS_PER_PEER: u16 = 100;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Packets judged under one lock, as the interface does it.
const BATCH: usize = 128;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn address(number: u8) -> Ipv6Addr {
    node(number).planetary_address().ip()
}

fn ipv6(from: u8, to: u8, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], protocol, 64], &address(from).octets()[..], &address(to).octets(), body]
        .concat()
}

fn tcp(from: u8, to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let ports = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    ipv6(from, to, 6, &[&ports[..], &[0; 8], &[0x50, flags], &[0; 6], &[0; 1200]].concat())
}

fn udp(from: u8, to: u8, ports: (u16, u16)) -> Vec<u8> {
    let ports = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    ipv6(from, to, 17, &[&ports[..], &[0, 8, 0, 0], &[0; 1200]].concat())
}

/// 100 rules, of which the last lets in port 9000 from everybody; 100 peers; 10,000 connections that this node opened.
fn filter(now: Instant) -> Filter {
    let rule = |number: u16| -> Rule {
        let text = match number % 3 {
            0 => format!("owner:{} tcp/{}", OwnerId::from_bytes([number as u8; 32]), 100 + number),
            1 => format!("node:{} udp/{}", node(number as u8), 100 + number),
            _ => format!("peers tcp/{}", 100 + number),
        };
        text.parse().unwrap()
    };
    let mut rules: Vec<Rule> = (0..98).map(rule).collect();
    rules.extend(["peers tcp/9000".parse::<Rule>().unwrap(), "peers udp/9000".parse().unwrap()]);
    let mut filter = Filter::new(node(255).planetary_address(), rules);
    filter.set_peers(
        (1..=PEERS).map(|number| PeerEntry { node: node(number), owner: Some(OwnerId::from_bytes([number; 32])) }),
    );
    for peer in 1..=PEERS {
        for port in 0..FLOWS_PER_PEER {
            filter.outbound(now, &tcp(255, peer, (40_000 + port, 443), SYN)).unwrap();
            filter.inbound(now, node(peer), &tcp(peer, 255, (443, 40_000 + port), SYN | ACK)).unwrap();
        }
    }
    filter
}

fn benches(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(BATCH as u64));

    let mut one = filter(now);
    let stream = tcp(7, 255, (443, 40_007), ACK);
    group.bench_function("inbound/one connection", |bencher| {
        bencher.iter(|| (0..BATCH).filter(|_| one.inbound(now, node(7), black_box(&stream)).is_ok()).count());
    });
    let stream = tcp(255, 7, (40_007, 443), ACK);
    group.bench_function("outbound/one connection", |bencher| {
        bencher.iter(|| (0..BATCH).filter(|_| one.outbound(now, black_box(&stream)).is_ok()).count());
    });

    let spread = |at: usize| (1 + (at * 37 % usize::from(PEERS)) as u8, 40_000 + (at * 61 % 100) as u16);
    let many: Vec<(NodeId, Vec<u8>)> =
        (0..10_000).map(spread).map(|(peer, port)| (node(peer), tcp(peer, 255, (443, port), ACK))).collect();
    let mut turn = 0;
    group.bench_function("inbound/10,000 connections", |bencher| {
        bencher.iter(|| {
            turn = (turn + BATCH) % (many.len() - BATCH);
            many[turn..turn + BATCH].iter().filter(|(from, packet)| one.inbound(now, *from, packet).is_ok()).count()
        });
    });
    let many: Vec<Vec<u8>> = (0..10_000).map(spread).map(|(peer, port)| tcp(255, peer, (port, 443), ACK)).collect();
    group.bench_function("outbound/10,000 connections", |bencher| {
        bencher.iter(|| {
            turn = (turn + BATCH) % (many.len() - BATCH);
            many[turn..turn + BATCH].iter().filter(|packet| one.outbound(now, packet).is_ok()).count()
        });
    });

    let stream = udp(7, 255, (5000, 9000));
    group.bench_function("inbound/let in by the last of 100 rules", |bencher| {
        bencher.iter(|| (0..BATCH).filter(|_| one.inbound(now, node(7), black_box(&stream)).is_ok()).count());
    });
    let stray = udp(7, 255, (5000, 9001));
    group.bench_function("inbound/let in by no rule", |bencher| {
        bencher.iter(|| (0..BATCH).filter(|_| one.inbound(now, node(7), black_box(&stray)).is_err()).count());
    });

    // Each packet begins a conversation; the table is full.
    let flood: Vec<Vec<u8>> = (0..=u16::MAX).map(|port| udp(7, 255, (port, 9000))).collect();
    group.throughput(Throughput::Elements(flood.len() as u64));
    group.sample_size(10);
    group.bench_function("inbound/flood of new conversations", |bencher| {
        bencher.iter_batched_ref(
            || filter(now),
            |filter| flood.iter().filter(|packet| filter.inbound(now, node(7), packet).is_ok()).count(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
