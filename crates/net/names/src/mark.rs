//! An address that has systemd-resolved take an interface for one over which names can be asked for.
//!
//! It asks over an interface only if that has an address which is neither deprecated nor of its link alone, and the planetary address is deprecated, so that no program
//! chooses it by itself. So the interface gets a loopback address besides, of the scope "site": the kernel takes that for no packet to anywhere else (its scope is smaller
//! than the destination's), nobody outside can reach it, and iroh passes over loopback addresses. It goes with the interface.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use rtnetlink::packet_route::address::{AddressMessage, AddressScope};
use rtnetlink::{Handle, new_connection};
use tokio::task::JoinHandle;

/// No server listens there (those begin with 127.64.0.53), so nothing else depends on it.
const MARK: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// Gives it to an interface, or takes it away.
pub(crate) struct Mark {
    handle: Handle,
    connection: JoinHandle<()>,
    index: u32,
}

impl Mark {
    /// For the interface of this name.
    pub(crate) fn of(interface: &str) -> io::Result<Self> {
        // Any socket of this network namespace will do.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection), index })
    }

    fn message(&self) -> AddressMessage {
        let mut add = self.handle.address().add(self.index, MARK.into(), 32);
        let message = add.message_mut();
        message.header.scope = AddressScope::Site;
        message.clone()
    }

    /// Gives it; one that is there already stays.
    pub(crate) async fn give(&self) -> Result<(), rtnetlink::Error> {
        let mut add = self.handle.address().add(self.index, MARK.into(), 32).replace();
        *add.message_mut() = self.message();
        add.execute().await
    }

    /// Takes it away.
    pub(crate) async fn take(&self) -> Result<(), rtnetlink::Error> {
        self.handle.address().del(self.message()).execute().await
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
