//! Hosts that are network namespaces of this test, and connections made inside of namespaces. Everything ends with its value.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A closed door drops packets, so this is how long each such assertion takes.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A machine, as far as its network is concerned.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces: run it as root, after apt-get install nftables iproute2 util-linux"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        std::fs::File::create(&path).unwrap();
        let status = Command::new("unshare").arg(format!("--net={}", path.display())).arg("true").status().unwrap();
        assert!(status.success(), "unshare: {status}");
        let host = Self { dir };
        host.ip("link set dev lo up");
        host
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    /// Runs this as a process that lives in the host would.
    pub(crate) fn run<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        inside(&self.path(), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work)
        })
    }

    pub(crate) fn ip(&self, arguments: &str) {
        inside(&self.path(), || ip(arguments));
    }

    /// A wire between two hosts that behaves as the planetary interface does: no neighbours, what is routed to it goes over.
    pub(crate) fn join(&self, other: &Self, interface: &str) {
        let (peer, mac) = (other.path(), "02:00:00:00:00:07");
        let peer = peer.display();
        self.ip(&format!(
            "link add name {interface} address {mac} type veth peer name {interface} address {mac} netns {peer}"
        ));
        for host in [self, other] {
            host.ip(&format!("link set dev {interface} addrgenmode none arp off up"));
        }
        // Looking at an interface makes the kernel connect it at once; left alone, it drops what is sent until a worker has done so.
        for host in [self, other] {
            host.ip(&format!("link show dev {interface}"));
        }
    }

    /// What a network could leave behind: interfaces, addresses, routes, rules.
    pub(crate) fn traces(&self) -> String {
        let show = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        inside(&self.path(), || {
            let address = show("ip", &["-o", "address", "show"]);
            address + &show("ip", &["-6", "route", "show", "table", "all"]) + &show("nft", &["list", "ruleset"])
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Also what a test that failed, or a node that was not torn down, has mounted.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        for target in targets.filter(|target| target.starts_with(self.dir.path())) {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Runs `ip` in the network namespace of the calling thread.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs this on a thread that has entered the namespace; sockets made there stay in it.
pub(crate) fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            let file = std::fs::File::open(namespace).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn connect(from: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    inside(from, || TcpStream::connect_timeout(&to, CONNECT_TIMEOUT))
}

/// What the server there answers.
pub(crate) fn talk(from: &Path, to: SocketAddr) -> io::Result<String> {
    let mut stream = inside(from, || TcpStream::connect_timeout(&to, ANSWER_TIMEOUT))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A connection from this address, which the calling thread's namespace has.
pub(crate) fn connect_from(source: Ipv6Addr, to: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v6()?;
        socket.bind((source, 0).into())?;
        tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await?.map(drop)
    })
}

/// Answers every connection with its name and the address that it sees.
pub(crate) struct Server {
    at: SocketAddr,
    listener: TcpListener,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(namespace: &Path, address: Ipv6Addr, name: &'static str) -> Self {
        let listener = inside(namespace, || TcpListener::bind((address, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = accepting.accept() {
                let mut one = [0];
                if stream.read_exact(&mut one).is_ok() {
                    let _ = write!(stream, "{name} {}", peer.ip());
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        });
        Self { at, listener, thread: Some(thread) }
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.at
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        match self.at {
            SocketAddr::V6(at) => *at.ip(),
            SocketAddr::V4(_) => unreachable!("bound to an IPv6 address"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
