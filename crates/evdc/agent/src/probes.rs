//! Probes: when one speaks for or against a container (pure), and how one is made: a command in it, a TCP connection, an HTTP request.
//! gRPC and HTTPS probes are refused before the container starts ([`refused`]).

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Enough of an answer to read its first line.
const ANSWER_BYTES_MAX: usize = 4_096;

/// Enough of what a probe says for an event.
const MESSAGE_CHARS_MAX: usize = 512;

/// Which of a container's three.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// Holds the others back until it succeeds.
    Startup,
    /// Whether Services lead here.
    Readiness,
    /// Whether it goes on running.
    Liveness,
}

impl Kind {
    /// As events name it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// Counts results in a row.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    successes_needed: u32,
    failures_needed: u32,
    streak: u32,
    good: bool,
}

impl Tally {
    /// With the probe's thresholds.
    #[must_use]
    pub(crate) fn new(probe: &Probe) -> Self {
        let at_least_one = |given: Option<i32>, default: u32| {
            given.and_then(|it| u32::try_from(it).ok()).filter(|it| *it > 0).unwrap_or(default)
        };
        Self {
            successes_needed: at_least_one(probe.success_threshold, 1),
            failures_needed: at_least_one(probe.failure_threshold, 3),
            streak: 0,
            good: false,
        }
    }

    /// One more result; `Some` when it decides.
    pub(crate) fn count(&mut self, good: bool) -> Option<bool> {
        self.streak = if good == self.good { self.streak.saturating_add(1) } else { 1 };
        self.good = good;
        let needed = if good { self.successes_needed } else { self.failures_needed };
        (self.streak >= needed).then_some(good)
    }
}

/// How often, how long, and how long to wait before the first.
#[must_use]
pub(crate) fn times(probe: &Probe) -> (Duration, Duration, Duration) {
    let seconds = |given: Option<i32>, default: u64| {
        Duration::from_secs(given.and_then(|it| u64::try_from(it).ok()).unwrap_or(default))
    };
    let second = Duration::from_secs(1);
    let period = seconds(probe.period_seconds, 10).max(second);
    let timeout = seconds(probe.timeout_seconds, 1).max(second);
    (period, timeout, seconds(probe.initial_delay_seconds, 0))
}

/// The container's probe of this kind.
#[must_use]
pub(crate) fn of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
    }
}

/// Why a container's probes cannot be made here.
#[must_use]
pub(crate) fn refused(container: &Container) -> Option<String> {
    let all = [Kind::Startup, Kind::Readiness, Kind::Liveness];
    all.into_iter().find_map(|kind| {
        let probe = of(container, kind)?;
        let https = probe.http_get.as_ref().is_some_and(|get| get.scheme.as_deref() == Some("HTTPS"));
        let what = match (https, &probe.grpc) {
            (true, _) => "HTTPS",
            (_, Some(_)) => "gRPC",
            _ => return None,
        };
        Some(format!(
            "{what} probes are not offered ({} probe of {}): use exec, tcpSocket or httpGet",
            kind.as_str(),
            container.name
        ))
    })
}

/// The number of a port that is given by number or by the name of one of the container's.
///
/// # Errors
///
/// No such port.
pub(crate) fn port_of(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|it| it.name.as_deref() == Some(name));
            named.map(|it| it.container_port).or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| format!("couldn't find port: {port:?}"))
}

/// Whether something listens there. The error is kubelet's output for the event.
///
/// # Errors
///
/// No connection within the time.
pub(crate) async fn tcp(address: Ipv6Addr, port: u16, timeout: Duration) -> Result<(), String> {
    let at = SocketAddr::from((address, port));
    match tokio::time::timeout(timeout, TcpStream::connect(at)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("dial tcp {at}: {error}")),
        Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
    }
}

/// Whether the request is answered with 200 to 399.
///
/// # Errors
///
/// No answer within the time, or another status.
pub(crate) async fn http(address: Ipv6Addr, port: u16, get: &HTTPGetAction, timeout: Duration) -> Result<(), String> {
    let request = request(address, port, get)?;
    let at = SocketAddr::from((address, port));
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(256);
        while answer.len() < ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(answer)
    };
    let url = format!("http://{at}{}", path_of(get));
    let answer = match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("Get {url:?}: dial tcp {at}: {error}")),
        Err(_) => return Err(format!("Get {url:?}: context deadline exceeded")),
    };
    match status_of(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
        None => Err(format!("Get {url:?}: malformed HTTP response")),
    }
}

fn path_of(get: &HTTPGetAction) -> String {
    let path = get.path.as_deref().unwrap_or("/");
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn request(address: Ipv6Addr, port: u16, get: &HTTPGetAction) -> Result<String, String> {
    let clean = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ');
    let path = path_of(get);
    if !clean(&path) {
        return Err(format!("the probe's path {path:?} cannot stand in a request"));
    }
    let mut headers = String::new();
    let (mut host, mut agent, mut accepts) =
        (format!("[{address}]:{port}"), "kube-probe/1.33".to_owned(), "*/*".to_owned());
    for header in get.http_headers.iter().flatten() {
        let plain =
            clean(&header.name) && !header.name.contains(':') && !header.value.bytes().any(|it| it.is_ascii_control());
        if !plain || header.name.is_empty() {
            return Err(format!("the probe's header {:?} cannot stand in a request", header.name));
        }
        match header.name.to_ascii_lowercase().as_str() {
            "host" => host.clone_from(&header.value),
            "user-agent" => agent.clone_from(&header.value),
            "accept" => accepts.clone_from(&header.value),
            _ => headers.push_str(&format!("{}: {}\r\n", header.name, header.value)),
        }
    }
    Ok(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: {accepts}\r\nConnection: close\r\n{headers}\r\n"
    ))
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.trim().parse().ok()
}

/// What a probe said, short enough for an event.
#[must_use]
pub(crate) fn shortened(text: &str) -> String {
    text.trim().chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
