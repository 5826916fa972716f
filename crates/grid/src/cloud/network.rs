//! Whether the machines reach each other by planetary address, and a stranger does not.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_lab::Host;

use crate::GridError;

/// The port that the lending nodes open to their peers.
const PORT: u16 = 7777;

/// The first packet to a peer may have to wait for a connection.
const WITHIN: Duration = Duration::from_secs(20);

/// What a stranger waits.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// What is said, and comes back.
const WORDS: &[u8] = b"a line over TCP, there and back";

/// A machine and its planetary address.
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) host: Host,
    pub(super) address: SocketAddr,
}

impl Place {
    pub(super) fn new(name: &'static str, host: Host, address: &str) -> Result<Self, GridError> {
        let ip = address.parse().map_err(|_| GridError::Wrong(format!("{address:?} is no planetary address")))?;
        Ok(Self { name, host, address: SocketAddr::new(ip, PORT) })
    }
}

/// Every machine pings every other and speaks TCP with it, `stranger` with none. Answers with the number of pairs. Blocks.
pub(super) fn check(places: &[Place], stranger: &Host) -> Result<usize, GridError> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echoes: Vec<_> = places.iter().map(|place| scope.spawn(|| echo(place, &stop))).collect();
        let checked = check_pairs(places, stranger);
        stop.store(true, Ordering::Relaxed);
        for echo in echoes {
            match echo.join() {
                Ok(Ok(())) => {}
                Ok(Err(source)) => return Err(GridError::Io { what: "an echo server".into(), source }),
                Err(_) => return Err(GridError::Wrong("an echo server panicked".into())),
            }
        }
        checked
    })
}

fn check_pairs(places: &[Place], stranger: &Host) -> Result<usize, GridError> {
    let mut pairs = 0;
    for from in places {
        for to in places.iter().filter(|to| to.name != from.name) {
            let began = Instant::now();
            let mut reached = reaches(&from.host, to.address, WITHIN);
            while reached.is_err() && began.elapsed() < WITHIN {
                reached = reaches(&from.host, to.address, WITHIN);
            }
            reached.map_err(|why| GridError::Wrong(format!("{} does not reach {}: {why}", from.name, to.name)))?;
            pairs += 1;
        }
    }
    let got_in = std::thread::scope(|scope| {
        let tries: Vec<_> = places
            .iter()
            .map(|to| {
                scope.spawn(|| pings(stranger, to.address) || speaks(stranger, to.address, REFUSED_AFTER).is_ok())
            })
            .collect();
        tries.into_iter().any(|tried| tried.join().unwrap_or(true))
    });
    if got_in {
        return Err(GridError::Wrong("a stranger got in".into()));
    }
    Ok(pairs)
}

fn reaches(from: &Host, to: SocketAddr, within: Duration) -> Result<(), String> {
    if !pings(from, to) {
        return Err("no answer to a ping".into());
    }
    speaks(from, to, within).map_err(|error| error.to_string())
}

fn pings(from: &Host, to: SocketAddr) -> bool {
    let mut ping = from.command("ping");
    ping.args(["-6", "-c", "1", "-W", "1", &to.ip().to_string()]);
    ping.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ping.status().is_ok_and(|status| status.success())
}

fn speaks(from: &Host, to: SocketAddr, within: Duration) -> io::Result<()> {
    from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(WORDS)?;
        let mut back = [0; WORDS.len()];
        stream.read_exact(&mut back)?;
        if back == WORDS { Ok(()) } else { Err(io::Error::other("something else came back")) }
    })
}

/// Sends back what comes, until told to stop.
fn echo(place: &Place, stop: &AtomicBool) -> io::Result<()> {
    place.host.inside(|| {
        let listener = TcpListener::bind(place.address)?;
        listener.set_nonblocking(true)?;
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(WITHIN))?;
                    let mut words = [0; WORDS.len()];
                    // A visitor that hangs up is no failure of the server.
                    if stream.read_exact(&mut words).is_ok() {
                        let _: io::Result<()> = stream.write_all(&words);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}
