//! A node in a network namespace of the lab, and what tests ask of it.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atoll_lab::Netns;
use serde_json::Value;

use crate::common::{fail, program, run, run_json};

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port that [`echoes`] serves.
pub(crate) const ECHO: u16 = 8080;

/// A node that ends with the test.
pub(crate) struct LabNode {
    pub(crate) netns: Netns,
    data_dir: PathBuf,
    settings: Vec<String>,
    child: Child,
    status: Value,
}

impl LabNode {
    /// Starts a node that lets its peers ping it and reach [`ECHO`].
    pub(crate) fn start(netns: &Netns, folder: &Path, settings: &[&str]) -> Self {
        let data_dir = folder.join(netns.name());
        std::fs::create_dir_all(&data_dir).unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let (child, status) = launch(netns, &data_dir, &settings);
        Self { netns: netns.clone(), data_dir, settings, child, status }
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.status) = launch(&self.netns, &self.data_dir, &self.settings);
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn atoll(&self, arguments: &[&str]) -> String {
        run(&self.data_dir, arguments, b"")
    }

    pub(crate) fn atoll_fed(&self, arguments: &[&str], input: &[u8]) -> String {
        run(&self.data_dir, arguments, input)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        run_json(&self.data_dir, arguments)
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        self.status["planetary_address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn joins(&self, other: &Self) {
        let ticket = other.atoll(&["invite"]);
        self.atoll(&["join", ticket.trim()]);
    }

    /// Who it is.
    pub(crate) fn id(&self) -> &str {
        self.status["node"].as_str().unwrap()
    }

    /// Where it says that it listens at this address: for `quic` or for a `lane`.
    pub(crate) fn listens(&self, at: Ipv4Addr, what: &str) -> SocketAddrV4 {
        let status = self.json(&["status"]);
        let said = status["addresses"].as_array().unwrap().iter().filter_map(|address| address.as_str());
        let of_kind = said.filter_map(|address| address.strip_prefix(what)?.trim().parse().ok());
        of_kind.into_iter().find(|address: &SocketAddrV4| *address.ip() == at).unwrap_or_else(|| panic!("{status}"))
    }

    /// `atoll net status`.
    pub(crate) fn net(&self) -> Value {
        self.json(&["net", "status"])
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What a command says that fails.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        fail(&self.data_dir, arguments)
    }

    /// Whether this is what somebody's status says of it.
    pub(crate) fn is(&self, peer: &Value) -> bool {
        peer["node"] == self.status["node"]
    }

    /// Whether it has this id.
    pub(crate) fn is_called(&self, id: &str) -> bool {
        self.status["node"] == id
    }

    /// By whom packets go to a peer, if by anybody.
    pub(crate) fn relay_to(&self, other: &Self) -> Option<String> {
        let paths = self.json(&["net", "path", &other.address().to_string()]);
        let used = paths["candidates"].as_array().unwrap().iter().find(|way| way["used"] == true)?.clone();
        used["via"].as_str().map(str::to_owned)
    }

    /// Whether a stream to a peer was answered lately.
    pub(crate) fn reaches(&self, other: &Self) -> bool {
        let status = self.json(&["status"]);
        let mut peers = status["peers"].as_array().unwrap().iter();
        peers.any(|peer| other.is(peer) && peer["reachable"] == true)
    }

    /// Whether a ping over the planetary network is answered.
    pub(crate) fn pings(&self, other: &Self) -> bool {
        ping(&self.netns, &["-c", "1", "-W", "2"], other.address().into())
    }

    /// Has it end, in order or at once, and waits until it has. Start another on the same machine in its place.
    pub(crate) fn ends(&mut self, orderly: bool) {
        if orderly {
            // It runs until this closes.
            drop(self.child.stdin.take());
        } else {
            self.child.kill().unwrap();
        }
        self.child.wait().unwrap();
    }

    /// What the node said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("log")).unwrap()
    }
}

/// Starts a node and waits until it says who it is.
fn launch(netns: &Netns, data_dir: &Path, settings: &[String]) -> (Child, Value) {
    let log = OpenOptions::new().create(true).append(true).open(data_dir.join("log")).unwrap();
    let mut command = netns.command(program());
    command.env_remove("ATOLL_DATA_DIR").arg("--data-dir").arg(data_dir).args(["--output", "json", "up"]);
    command.args(["--until-stdin-closes", "--set", "storage.capacity=64M"]);
    command.args(["--set", &format!("network.allow=peers icmp,peers tcp/{ECHO}")]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said = std::fs::read_to_string(data_dir.join("log")).unwrap();
    let status = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the node did not come up: {line}{said}"));
    (child, status)
}

impl Drop for LabNode {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.netns.name(), self.log());
        }
    }
}

/// Whether `ping` with these arguments succeeds.
pub(crate) fn ping(from: &Netns, arguments: &[&str], to: IpAddr) -> bool {
    let mut command: Command = from.command("ping");
    command.args(["-n"]).args(arguments).arg(to.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("ping is there: apt-get install iputils-ping").success()
}

/// Waits until something holds; gives how long that took.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        std::thread::sleep(Duration::from_millis(100));
    }
    began.elapsed()
}

/// A server that sends back what it is sent, on all addresses of a machine, until it is dropped.
pub(crate) struct Echo {
    netns: Netns,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

/// Starts one.
pub(crate) fn echoes(on: &Netns) -> Echo {
    let listener = on.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, ECHO))).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let ends = ended.clone();
    let listening = std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if ends.load(Ordering::Relaxed) {
                return;
            }
            // Ends with the connection.
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    Echo { netns: on.clone(), ended, listening: Some(listening) }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes it, so that its socket does not keep the machine's network alive.
        let woken = self.netns.inside(|| TcpStream::connect((Ipv6Addr::LOCALHOST, ECHO)));
        if let Some(listening) = self.listening.take().filter(|_| woken.is_ok()) {
            let _: std::thread::Result<()> = listening.join();
        }
    }
}

/// One TCP connection over the planetary network, to a node that [`echoes`].
pub(crate) struct Talk {
    stream: TcpStream,
    said: u64,
}

impl Talk {
    pub(crate) fn begin(from: &LabNode, to: &LabNode) -> Self {
        let address = SocketAddr::from((to.address(), ECHO));
        let stream = from.netns.inside(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, said: 0 }
    }

    /// Says so many bytes that were not said before, and hears them back.
    pub(crate) fn go_on(&mut self, bytes: usize) {
        let begin = self.said;
        let said: Vec<u8> = (begin..begin + bytes as u64).map(|at| (at / 7) as u8).collect();
        self.said += bytes as u64;
        let writer = self.stream.try_clone().unwrap();
        let mut heard = vec![0; bytes];
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| (&writer).write_all(&said));
            (&self.stream).read_exact(&mut heard).unwrap();
            writing.join().unwrap().unwrap();
        });
        assert!(heard == said, "what came back is not what was said");
    }

    /// Ends it in order: nothing is left to be heard.
    pub(crate) fn end(self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        (&self.stream).read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}
