//! Whose a loopback connection is.
//!
//! A port on loopback is open to every user of the machine, and none of them but the node's own should speak as this node. Passwords in proxy settings end up
//! in files and process lists; but the system knows whose socket the other end is (proc(5), `/proc/net/tcp`), so it is asked.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The system's tables of TCP sockets in this network namespace.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Who may use a loopback port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// Every user of this machine.
    All,
    /// These, by number.
    These(BTreeSet<u32>),
}

impl Users {
    /// The user whose process this is, root, who may do everything anyway, and `others`.
    #[must_use]
    pub fn own_and(others: impl IntoIterator<Item = u32>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self::These([0, own].into_iter().chain(others).collect())
    }

    /// Whether the other end (`there`) of a connection to `here` is one of them.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) async fn admit(&self, here: SocketAddr, there: SocketAddr) -> io::Result<bool> {
        let Self::These(users) = self else { return Ok(true) };
        for table in TABLES {
            let text = match tokio::fs::read_to_string(table).await {
                // A kernel without IPv6 has one table.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read?,
            };
            if let Some(user) = owner_in(&text, there, here) {
                return Ok(users.contains(&user));
            }
        }
        Ok(false)
    }
}

/// The user of the socket that is bound to `local` and connected to `remote`, from a table of TCP sockets. A socket that its process has closed already is nobody's: the
/// table would call it root's.
pub fn owner_in(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let owner = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = address(fields.next()?)? == canonical(local) && address(fields.next()?)? == canonical(remote);
        // After both addresses: state, queues, timer, retransmissions; then the user, a timeout, and the inode.
        let user = fields.nth(4)?.parse().ok()?;
        let inode: u64 = fields.nth(1)?.parse().ok()?;
        (is_it && inode != 0).then_some(user)
    };
    table.lines().skip(1).find_map(owner)
}

/// IPv4 is in the table of IPv6 where a program uses a socket for both.
fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// `0100007F:1F90`: the address as words of the machine's own byte order, the port in hexadecimal.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(words).ok()?)
        }
        _ => return None,
    };
    Some((ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn tables_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:D431 0100007F:1694 01 00000000:00000000 00:00000000 00000000  1000        0 25321 1 0 20 4 30 10 -1\n   \
            1: 0100007F:D432 0100007F:1694 04 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n bad\n";
        let check = |table: &str, local: &str, remote: &str, expect: Option<u32>| {
            assert_eq!(owner_in(table, local.parse().unwrap(), remote.parse().unwrap()), expect, "{local} {remote}");
        };
        check(v4, "127.0.0.1:54321", "127.0.0.1:5780", Some(1000));
        check(v4, "127.0.0.1:5780", "127.0.0.1:54321", None);
        check(v4, "127.0.0.2:54321", "127.0.0.1:5780", None);
        // Closed by its process: user 0 is not root here.
        check(v4, "127.0.0.1:54322", "127.0.0.1:5780", None);
        let v6 = "head\n 0: 0000000000000000FFFF00000100007F:D431 0000000000000000FFFF00000100007F:1694 01 0:0 0:0 0 7 0 9\n \
            1: 00000000000000000000000001000000:0001 00000000000000000000000001000000:0002 01 0:0 0:0 0 8 0 9\n";
        check(v6, "127.0.0.1:54321", "127.0.0.1:5780", Some(7));
        check(v6, "[::1]:1", "[::1]:2", Some(8));
        check("", "127.0.0.1:1", "127.0.0.1:2", None);
    }

    #[tokio::test]
    async fn the_system_knows_whose_a_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, there) = listener.accept().await.unwrap();
        let here = accepted.local_addr().unwrap();
        let nobody = Users::These(BTreeSet::from([u32::MAX - 1]));
        assert!(Users::own_and([]).admit(here, there).await.unwrap());
        assert!(Users::All.admit(here, there).await.unwrap());
        assert!(!nobody.admit(here, there).await.unwrap());
        // Nobody's is not root's.
        drop(program);
        assert!(!Users::own_and([]).admit(here, there).await.unwrap());
    }
}
