//! Nodes that cannot reach each other, on machines of their own, and others that relay between them. Takes root, iproute2, util-linux, iputils-ping and nftables.

use std::process::Stdio;
use std::time::{Duration, Instant};

use atoll_grid::{NodeProcess, Start};
use atoll_lab::{Host, Lab};
use serde_json::Value;

use crate::common::{program, run, run_json};

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    host: Host,
    node: NodeProcess,
    id: String,
    address: String,
}

async fn launch(host: &Host, folder: &tempfile::TempDir, settings: &[&str]) -> NodeProcess {
    let data_dir = folder.path().join(host.namespace());
    let settings = ["storage.capacity=64M"].iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
    let start = Start { program: program(), settings, host: Some(host.clone()), keep: false };
    NodeProcess::start(host.namespace(), &data_dir, start).await.unwrap()
}

impl Member {
    async fn start(host: &Host, folder: &tempfile::TempDir, settings: &[&str]) -> Self {
        let node = launch(host, folder, settings).await;
        let status = node.status().await.unwrap();
        Self { host: host.clone(), node, id: status.node.to_string(), address: status.planetary_address }
    }

    fn joins(&self, other: &Self) {
        let ticket = run(other.node.data_dir(), &["invite"], b"");
        run(self.node.data_dir(), &["join", ticket.trim()], b"");
    }

    fn paths(&self, to: &Self) -> Value {
        run_json(self.node.data_dir(), &["net", "path", &to.id])
    }

    /// By whom packets go to a peer, if by anybody.
    fn relay_to(&self, to: &Self) -> Option<String> {
        let paths = self.paths(to);
        let used = paths["candidates"].as_array().unwrap().iter().find(|way| way["used"] == true)?.clone();
        used["via"].as_str().map(str::to_owned)
    }

    fn pings(&self, to: &Self) -> bool {
        let mut command = self.host.command("ping");
        command.args(["-6", "-c", "1", "-W", "1", &to.address]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("ping is there: apt-get install iputils-ping").success()
    }

    fn reaches(&self, to: &Self) -> bool {
        let status = run_json(self.node.data_dir(), &["status"]);
        let peers = status["peers"].as_array().unwrap();
        peers.iter().any(|peer| peer["node"] == to.id.as_str() && peer["reachable"] == true)
    }

    fn hardware_address(&self) -> String {
        let output = self.host.command("ip").args(["-j", "link", "show", "eth0"]).output().unwrap();
        let links: Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    }

    /// Drops whatever comes directly from another machine.
    fn shuts_out(&self, other: &Self) {
        let rules = format!(
            "table inet island {{ chain input {{ type filter hook input priority -300; ether saddr {} drop\n }}\n }}",
            other.hardware_address()
        );
        let status = self.host.command("nft").arg(rules).status().expect("nft is there: apt-get install nftables");
        assert!(status.success());
    }
}

/// Waits until something holds; gives how long that took.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        std::thread::sleep(Duration::from_millis(50));
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_cannot_reach_each_other_are_relayed_by_peers() {
    let (lab, folder) = (Lab::new(4).unwrap(), tempfile::tempdir().unwrap());
    let quiet = ["network.lan=off"];
    let here = Member::start(lab.host(0), &folder, &quiet).await;
    let there = Member::start(lab.host(1), &folder, &quiet).await;
    let mut first = Member::start(lab.host(2), &folder, &quiet).await;
    for island in [&here, &there] {
        island.joins(&first);
    }
    here.joins(&there);
    eventually("ping directly", || here.pings(&there));
    assert_eq!(here.relay_to(&there), None);

    here.shuts_out(&there);
    there.shuts_out(&here);
    let took = eventually("ping by a relay, after the direct path was lost", || here.pings(&there));
    eprintln!("relay: {took:?} from the loss of the direct path to the first answer");
    eventually("the relay is shown", || here.relay_to(&there).as_ref() == Some(&first.id));
    assert!(run(here.node.data_dir(), &["net", "path", &there.id], b"").contains("no direct path answers"));
    assert!(run(here.node.data_dir(), &["net", "status"], b"").contains("via "), "which way is in the status");
    eventually("streams, too", || here.reaches(&there) && there.reaches(&here));

    // A second relay, and the first one stops: like a black hole it takes everything and says nothing.
    let second = Member::start(lab.host(3), &folder, &quiet).await;
    for island in [&here, &there] {
        island.joins(&second);
    }
    let measured = |by: &str| {
        let paths = here.paths(&there);
        let ways = paths["candidates"].as_array().unwrap();
        ways.iter().any(|way| way["via"] == by && way["rtt_ms"].is_f64())
    };
    eventually("the second relay is measured", || here.pings(&there) && measured(&second.id) && measured(&first.id));
    let used = here.relay_to(&there).unwrap();
    let (stops, stays) = if used == first.id { (&first, &second) } else { (&second, &first) };
    stops.node.pause().unwrap();
    let outage = eventually("ping by the other relay", || here.pings(&there));
    eprintln!("relay: {outage:?} from its silence to the first answer by the other");
    assert!(outage < Duration::from_secs(5), "{outage:?}");
    eventually("the other relay is shown", || here.relay_to(&there).as_ref() == Some(&stays.id));
    stops.node.resume().unwrap();

    // Owners who do not want it.
    drop(second);
    first.node.stop().await.unwrap();
    first.node = launch(lab.host(2), &folder, &["network.lan=off", "relay.offer=off"]).await;
    let said = |text: &str| run(here.node.data_dir(), &["net", "path", &there.id], b"").contains(text);
    eventually("it refuses and says why", || {
        here.pings(&there);
        said("its owner turned that off")
    });
    assert!(!here.pings(&there));
}
