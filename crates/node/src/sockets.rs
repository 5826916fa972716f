//! Notices that the link has lost its sockets.
//!
//! Upon every change of the machine's network iroh closes its UDP sockets and binds them anew, and every pod is such a change. A program that is being started at that
//! moment (the one that makes the pod's container, say) still holds a copy of the old socket until it is executed; then binding fails, and iroh 1.4 ends its endpoint
//! for good: the node is cut off and does not know it. So it is looked for, and the node ends in order with an error upon which `atoll up` starts over in the same
//! process: then it is what it was, and its containers have run on meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_link::LinkHandle;
use tokio::time::MissedTickBehavior;

/// How often to look: leases of nodes and volumes bear some seconds of silence.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between closing and binding there is a moment: what is missing so many times in a row is lost.
const LOOKS: u32 = 3;

/// The system's tables of UDP sockets in this network namespace.
const TABLES: [&str; 2] = ["/proc/self/net/udp", "/proc/self/net/udp6"];

/// Looks, and returns once they are lost.
pub(crate) async fn lost(link: &LinkHandle) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut missing, mut ports) = (0, BTreeSet::new());
    while missing < LOOKS {
        ticks.tick().await;
        let known: BTreeSet<u16> = link.addresses().quic.iter().map(SocketAddr::port).collect();
        // Without a socket the link may have no address to tell: the ones it had are looked for.
        if !known.is_empty() {
            ports = known;
        }
        let bound = ports.is_empty() || any_bound(&ports).await;
        missing = if bound { 0 } else { missing + 1 };
    }
    tracing::error!(?ports, "the link has lost its sockets");
}

/// Whether any of the ports is bound; also if the system does not say.
async fn any_bound(ports: &BTreeSet<u16>) -> bool {
    for table in TABLES {
        match tokio::fs::read_to_string(table).await {
            Ok(table) if ports.iter().any(|port| holds(&table, *port)) => return true,
            Ok(_) => {}
            // A kernel without IPv6 has one table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return true,
        }
    }
    false
}

/// Whether a table of UDP sockets (proc(5), `/proc/net/udp`) has this local port.
fn holds(table: &str, port: u16) -> bool {
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(local).any(|it| it == port)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_port_is_bound_while_there_is_a_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(any_bound(&BTreeSet::from([port])).await);
        drop(socket);
        assert!(!any_bound(&BTreeSet::from([port])).await);
    }

    #[test]
    fn tables_are_read() {
        let table = "  sl  local_address rem_address   st\n  7: 0100007F:0277 00000000:0000 07\n bad\n";
        let check = |port: u16, expect: bool| assert_eq!(holds(table, port), expect, "{port}");
        check(0x0277, true);
        check(0x0278, false);
        check(0, false);
    }
}
