//! The planetary network between real nodes on machines of their own: a lab of network namespaces. Takes root, iproute2, util-linux, iputils-ping and nftables.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_lab::{Host, Lab};
use serde_json::Value;

use crate::common::{output, program, run};

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names what [`helper`] is to do.
const HELPER: &str = "LAB_HELPER";

/// Bytes sent there and back: a few thousand packets.
const TRANSFER_BYTES: usize = 4 << 20;

/// A node on a host of the lab.
struct LabNode {
    host: Host,
    data_dir: PathBuf,
    settings: Vec<String>,
    child: Child,
    status: Value,
}

impl LabNode {
    fn start(host: &Host, folder: &Path, settings: &[String]) -> Self {
        let data_dir = folder.join(host.namespace());
        std::fs::create_dir_all(&data_dir).unwrap();
        let (child, status) = launch(host, &data_dir, settings);
        Self { host: host.clone(), data_dir, settings: settings.to_vec(), child, status }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        (self.child, self.status) = launch(&self.host, &self.data_dir, &self.settings);
    }

    fn atoll(&self, arguments: &[&str]) -> String {
        run(&self.data_dir, arguments, b"")
    }

    fn net(&self) -> Value {
        serde_json::from_str(&self.atoll(&["--output", "json", "net", "status"])).unwrap()
    }

    fn text(&self, key: &str) -> &str {
        self.status[key].as_str().unwrap()
    }

    fn address(&self) -> &str {
        self.text("planetary_address")
    }

    fn joins(&self, other: &Self) {
        let ticket = other.atoll(&["invite"]);
        self.atoll(&["join", ticket.trim()]);
    }
}

impl Drop for LabNode {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

/// Starts a node and waits until it says who it is.
fn launch(host: &Host, data_dir: &Path, settings: &[String]) -> (Child, Value) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data_dir.join("log")).unwrap();
    let mut command = host.command(program());
    command.env_remove("ATOLL_DATA_DIR").arg("--data-dir").arg(data_dir).args(["--output", "json", "up"]);
    command.args(["--until-stdin-closes", "--set", "storage.capacity=64M"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said = std::fs::read_to_string(data_dir.join("log")).unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|_| panic!("the node did not come up: {line}{said}")))
}

fn ip(host: &Host, arguments: &[&str]) {
    assert!(host.command("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

fn pings(from: &Host, to: &str) -> bool {
    let mut command = from.command("ping");
    command.args(["-6", "-c", "1", "-W", "2", to]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("ping is there: apt-get install iputils-ping").success()
}

/// Waits until something holds; gives how long that took.
fn eventually(what: &str, holds: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        std::thread::sleep(Duration::from_millis(100));
    }
    began.elapsed()
}

fn helping(host: &Host, what: &str) -> Command {
    let mut command = host.command(std::env::current_exe().unwrap());
    command.args(["--exact", "network::helper"]).env(HELPER, what);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn fetches(from: &Host, to: &str, port: u16) -> bool {
    helping(from, &format!("fetch [{to}]:{port}")).status().unwrap().success()
}

/// Not a test but this program on a host of the lab: an echo server, or its client.
#[test]
fn helper() {
    let Ok(what) = std::env::var(HELPER) else { return };
    let (what, address) = what.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    match what {
        "fetch" => return fetch(address),
        "last" => return last(address),
        _ => {}
    }
    let listener = TcpListener::bind(address).unwrap();
    loop {
        let (stream, _) = listener.accept().unwrap();
        std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
    }
}

fn fetch(address: SocketAddr) {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..TRANSFER_BYTES).map(|at| (at / 7) as u8).collect();
    let (writer, copy) = (stream.try_clone().unwrap(), sent.clone());
    let writing = std::thread::spawn(move || {
        (&writer).write_all(&copy).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    (&stream).read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent, "{} of {} bytes came back as they were sent", back.len(), sent.len());
}

/// Speaks to an echo server until it does not answer any more. Says when it began to.
fn last(address: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let (mut back, said) = ([0], stream.write_all(b"?"));
        if said.and_then(|()| stream.read_exact(&mut back)).is_err() {
            return;
        }
        std::io::stdout().write_all(b"+\n").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it was answered to the end");
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

fn serves(on: &Host, port: u16) -> Ended {
    Ended(helping(on, &format!("serve [::]:{port}")).spawn().unwrap())
}

#[test]
fn nodes_reach_each_other_by_planetary_address_and_nobody_else_does() {
    let (lab, folder) = (Lab::new(3).unwrap(), tempfile::tempdir().unwrap());
    let one = LabNode::start(lab.host(0), folder.path(), &[]);
    let allow = format!("network.allow=peers icmp,owner:{} tcp/8080", one.text("owner"));
    let mut two = LabNode::start(lab.host(1), folder.path(), &[allow]);
    let stranger = LabNode::start(lab.host(2), folder.path(), &[]);
    two.joins(&one);

    eventually("ping one way", || pings(&one.host, two.address()));
    eventually("ping the other way", || pings(&two.host, one.address()));
    let net = one.net();
    assert_eq!(net["interface"]["name"], "atoll0", "{net}");
    assert!(one.atoll(&["status"]).contains("interface atoll0"));
    assert!(two.atoll(&["net", "rules"]).contains("tcp/8080"));

    let _servers = [serves(&two.host, 8080), serves(&two.host, 8081), serves(&one.host, 8080)];
    eventually("TCP to a port that a rule names", || fetches(&one.host, two.address(), 8080));
    eventually("the other port serves its own host", || fetches(&two.host, two.address(), 8081));
    assert!(!fetches(&one.host, two.address(), 8081), "no rule names this port");
    assert!(!fetches(&two.host, one.address(), 8080), "no rule names anything but ping there");

    nobody_else(&lab, &one, &two, &stranger);

    let dropped = one.net()["interface"]["packets_dropped"].to_string();
    assert!(!dropped.contains("underlay"), "a connection was tried through the interface: {dropped}");

    two.kill();
    assert!(!pings(&one.host, two.address()));
    two.start_again();
    let outage = eventually("ping after a restart", || pings(&one.host, two.address()));
    assert!(outage < Duration::from_secs(10), "{outage:?} until the restarted node answered");
    assert!(fetches(&one.host, two.address(), 8080), "its rule knows the owner again");
}

fn nobody_else(lab: &Lab, one: &LabNode, two: &LabNode, stranger: &LabNode) {
    assert!(!pings(&stranger.host, one.address()), "a node that is no peer");
    // Another address than one's own.
    let before = received(two);
    ip(&one.host, &["-6", "address", "add", "600::bad/128", "dev", "atoll0", "nodad"]);
    let mut spoofed = one.host.command("ping");
    spoofed.args(["-6", "-c", "1", "-W", "1", "-I", "600::bad", two.address()]).stdout(Stdio::null());
    assert!(!spoofed.status().unwrap().success(), "from an address that is not its own");
    assert_eq!(received(two), before, "a packet with a foreign source arrived");
    // A machine on the same cable that knows the way.
    for host in [lab.outside(), &stranger.host] {
        let via = two.host.ipv6().to_string();
        ip(host, &["-6", "route", "replace", &format!("{}/128", two.address()), "via", &via, "dev", "eth0"]);
        assert!(!pings(host, two.address()), "past the interface");
    }
    // Seen, but not known.
    eventually("the stranger is seen on the local network", || {
        one.net()["neighbours"].as_array().unwrap().iter().any(|seen| seen["node"] == stranger.status["node"])
    });
}

fn received(node: &LabNode) -> u64 {
    node.net()["interface"]["packets_received"].as_u64().unwrap()
}

/// Neither is where the other knows it to be; they hear each other by multicast.
#[test]
fn peers_that_both_moved_find_each_other_on_the_local_network() {
    let (lab, folder) = (Lab::new(2).unwrap(), tempfile::tempdir().unwrap());
    let mut nodes = [0, 1].map(|number| LabNode::start(lab.host(number), folder.path(), &[]));
    nodes[0].joins(&nodes[1]);
    eventually("ping", || pings(&nodes[0].host, nodes[1].address()));
    nodes.iter_mut().for_each(LabNode::kill);
    for (number, node) in nodes.iter_mut().enumerate() {
        ip(&node.host, &["address", "flush", "dev", "eth0", "scope", "global"]);
        ip(&node.host, &["address", "add", &format!("10.57.71.{}/24", 100 + number), "dev", "eth0"]);
        node.start_again();
    }
    eventually("ping from where they are now", || pings(&nodes[0].host, nodes[1].address()));
}

#[test]
fn a_node_without_an_interface_says_why_and_works() {
    let (lab, folder) = (Lab::new(1).unwrap(), tempfile::tempdir().unwrap());
    ip(lab.host(0), &["link", "add", "atoll0", "type", "bridge"]);
    let node = LabNode::start(lab.host(0), folder.path(), &[]);
    let status = node.atoll(&["status"]);
    assert!(status.contains("no interface: the interface atoll0 is there already"), "{status}");
    node.atoll(&["invite"]);
}

/// Where a node's packets to its only peer go on the fast path.
fn fast(node: &LabNode) -> Option<String> {
    node.net()["peers"][0]["fast"].as_str().map(str::to_owned)
}

fn nft(host: &Host, rule: &str) {
    assert!(host.command("nft").args(rule.split(' ')).status().unwrap().success(), "nft {rule}");
}

/// Packets leave a fast path that is cut without anybody being told, and find it again; they follow a peer that moves and one that restarts.
#[test]
fn packets_take_the_fast_path_while_it_is_one() {
    let (lab, folder) = (Lab::new(2).unwrap(), tempfile::tempdir().unwrap());
    let mut nodes = [0, 1].map(|number| LabNode::start(lab.host(number), folder.path(), &[]));
    nodes[0].joins(&nodes[1]);
    let other = nodes[1].address().to_owned();
    let flows = |node: &LabNode| pings(&node.host, &other);
    eventually("the fast path", || flows(&nodes[0]) && fast(&nodes[0]).is_some());
    eventually("a packet on it", || flows(&nodes[0]) && nodes[1].net()["fast"]["packets_opened"].as_u64() > Some(0));

    let port = nodes[1].net()["fast"]["ports"][0].as_u64().unwrap();
    nft(&nodes[1].host, "add table inet cut");
    nft(&nodes[1].host, "add chain inet cut in { type filter hook input priority 0 ; }");
    nft(&nodes[1].host, &format!("add rule inet cut in udp dport {port} drop"));
    let silent = eventually("the fast path is left", || {
        let _: bool = flows(&nodes[0]);
        fast(&nodes[0]).is_none()
    });
    assert!(pings(&nodes[0].host, &other), "packets take the connection");
    assert!(silent < Duration::from_secs(6), "left after {silent:?}");
    nft(&nodes[1].host, "delete table inet cut");
    eventually("the fast path again", || flows(&nodes[0]) && fast(&nodes[0]).is_some());

    // In this order: an address added to the same network is the second there, and goes with the first.
    ip(&nodes[1].host, &["address", "del", &format!("{}/24", nodes[1].host.ipv4()), "dev", "eth0"]);
    ip(&nodes[1].host, &["address", "add", "10.57.71.77/24", "dev", "eth0"]);
    ip(&nodes[1].host, &["-6", "address", "flush", "dev", "eth0", "scope", "global"]);
    // The one that moved is heard of by what it sends.
    let back = nodes[0].address().to_owned();
    eventually("it follows", || {
        let _: bool = pings(&nodes[1].host, &back);
        flows(&nodes[0]) && fast(&nodes[0]).is_some_and(|at| at.starts_with("10.57.71.77:"))
    });

    nodes[1].kill();
    nodes[1].start_again();
    eventually("a fast path to the one that restarted", || flows(&nodes[0]) && fast(&nodes[0]).is_some());
    assert_eq!(nodes[0].net()["fast"]["packets_forged"].as_u64(), Some(0));
}

/// The UDP sockets of a process, by their numbers there.
fn udp_sockets(pid: u32) -> Vec<i32> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap();
    let tables = table("udp") + &table("udp6");
    // The tenth column is the inode (proc(5), `/proc/net/udp`).
    let inodes: Vec<&str> = tables.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let socket = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let target = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        inodes.contains(&inode.as_str()).then(|| entry.file_name().to_str()?.parse().ok())?
    };
    open.filter_map(socket).collect()
}

/// A program that is being started just when the network changes still holds the node's sockets, and they cannot be bound anew. Here it is this test.
#[test]
fn a_node_whose_sockets_were_held_when_the_network_changed_starts_over() {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let (lab, folder) = (Lab::new(2).unwrap(), tempfile::tempdir().unwrap());
    // Without announcements on the local network, a server for names and a fast path, all UDP sockets are the link's.
    let settings = ["network.lan=off", "network.dns=off", "network.fast=off"].map(str::to_owned);
    let mut nodes = [0, 1].map(|number| LabNode::start(lab.host(number), folder.path(), &settings));
    nodes[0].joins(&nodes[1]);
    eventually("ping", || pings(&nodes[1].host, nodes[0].address()));

    let pid = nodes[0].child.id();
    let process = pidfd_open(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    let sockets = udp_sockets(pid);
    assert!(!sockets.is_empty());
    let held: Vec<_> =
        sockets.iter().map(|socket| pidfd_getfd(&process, *socket, PidfdGetfdFlags::empty()).unwrap()).collect();
    ip(&nodes[0].host, &["link", "add", "other", "type", "bridge"]);
    ip(&nodes[0].host, &["link", "set", "other", "up"]);
    ip(&nodes[0].host, &["address", "add", "10.99.0.1/32", "dev", "other"]);
    eventually("the node's own sockets are gone", || udp_sockets(pid).is_empty());
    drop(held);
    let said = || std::fs::read_to_string(nodes[0].data_dir.join("log")).unwrap();
    eventually("it notices", || said().contains("this node was cut off"));
    eventually("ping after it has started over", || pings(&nodes[1].host, nodes[0].address()));
    assert_eq!(nodes[0].child.id(), pid);
    assert!(nodes[0].child.try_wait().unwrap().is_none(), "it is the same process");
}

/// What a node says about something passing, and whether its exit status says so.
fn check(node: &LabNode, from: &str, to: &str, what: &str) -> (bool, Value) {
    let output = output(&node.data_dir, &["--output", "json", "net", "check", from, to, what], b"");
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}")))
}

#[test]
fn grants_count_at_once_and_end_what_they_opened() {
    let (lab, folder) = (Lab::new(2).unwrap(), tempfile::tempdir().unwrap());
    let [one, mut two] = [0, 1].map(|number| LabNode::start(lab.host(number), folder.path(), &[]));
    two.joins(&one);
    eventually("ping", || pings(&one.host, two.address()));
    let _server = serves(&two.host, 8080);
    eventually("the server is there", || fetches(&two.host, two.address(), 8080));
    assert!(!fetches(&one.host, two.address(), 8080), "no rule names it");

    let (passes, why) = check(&one, "me", two.address(), "tcp/8080");
    assert!(!passes && why["passes"] == false, "{why}");
    assert_eq!((&why["sides"][0]["passes"], &why["sides"][1]["passes"]), (&true.into(), &false.into()), "{why}");
    let (passes, why) = check(&two, one.address(), "me", "tcp/8080");
    assert!(!passes, "{why}");
    assert_eq!(why["sides"][1]["looked_at"][0]["rule"]["rule"], "peers icmp", "{why}");
    let help = why["sides"][1]["help"].as_str().unwrap();
    let help: Vec<&str> = help.strip_prefix("atoll ").unwrap().split(' ').collect();

    two.atoll(&[&help[..], &["--for", "1h", "--note", "for the test"]].concat());
    assert!(fetches(&one.host, two.address(), 8080), "what the explanation names is not enough");
    let (passes, why) = check(&one, "me", two.address(), "tcp/8080");
    assert!(passes, "{why}");
    let (passes, why) = check(&two, one.address(), "me", "tcp/8080");
    assert!(passes && why["sides"][1]["rule"]["origin"] == "grant 1", "{why}");
    two.kill();
    two.start_again();
    let rules = two.atoll(&["net", "rules"]);
    assert!(rules.contains("tcp/8080 until ") && rules.contains("# for the test"), "{rules}");

    eventually("it is let in after a restart", || fetches(&one.host, two.address(), 8080));
    let mut talk = helping(&one.host, &format!("last [{}]:8080", two.address()));
    let mut talk = Ended(talk.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(talk.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with('+'))), "it never began");
    assert!(two.atoll(&["net", "deny", "1"]).contains("taken back"));
    // The rest of what it says must not fill its pipe.
    let rest = std::thread::spawn(move || lines.for_each(drop));
    assert!(talk.0.wait().unwrap().success(), "it went on");
    rest.join().unwrap();
    assert!(!fetches(&one.host, two.address(), 8080), "the grant was taken back");
    let dropped = two.net()["interface"]["packets_dropped"].to_string();
    assert!(dropped.contains("revoked"), "{dropped}");
}

#[test]
fn a_node_that_does_not_answer_questions_says_so() {
    let (lab, folder) = (Lab::new(2).unwrap(), tempfile::tempdir().unwrap());
    let one = LabNode::start(lab.host(0), folder.path(), &["network.out=listed".to_owned()]);
    let two = LabNode::start(lab.host(1), folder.path(), &["network.check=off".to_owned()]);
    two.joins(&one);
    eventually("ping", || pings(&two.host, one.address()));
    assert!(!pings(&one.host, two.address()), "nothing is listed");
    let (passes, why) = check(&one, "me", two.address(), "icmp");
    assert!(!passes && why["sides"][1]["passes"].is_null(), "{why}");
    assert!(why["sides"][1]["why"].to_string().contains("network.check"), "{why}");
    one.atoll(&["net", "allow", "--out", two.address(), "icmp"]);
    eventually("ping once it is listed", || pings(&one.host, two.address()));
}
