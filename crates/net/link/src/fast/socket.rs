//! One UDP socket for sealed packets: many to a system call in both directions, never split by IP.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use atoll_fast::{BUFFERS, Run};
use noq_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// What the kernel keeps for us while we are busy elsewhere, and of ours while the network is: some milliseconds of 10 Gbit/s. Where we may not ask for
/// as much it is what the system allows.
const KERNEL_BYTES: usize = 8 << 20;

/// A socket of one family.
pub(super) struct FastSocket {
    io: UdpSocket,
    state: UdpSocketState,
    address: SocketAddr,
}

impl FastSocket {
    pub(super) fn bind(at: SocketAddr) -> io::Result<Self> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        // Not all may have that much, and it works with less.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, KERNEL_BYTES));
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, KERNEL_BYTES)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, KERNEL_BYTES));
        rustix::net::bind(&socket, &at)?;
        let io = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        Ok(Self { address: io.local_addr()?, io, state })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Packets that one system call may send.
    pub(super) fn segments_max(&self) -> usize {
        self.state.max_gso_segments().get()
    }

    /// Sends a run of sealed packets.
    pub(super) fn send(&self, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8], run: &Run) -> io::Result<()> {
        let segment_size = (run.count > 1).then_some(run.segment);
        let contents = &bytes[run.at.clone()];
        let ecn = EcnCodepoint::from_bits(run.ecn);
        let transmit = Transmit { destination: to, ecn, contents, segment_size, src_ip: from };
        self.io.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &transmit))
    }

    /// Waits until the kernel takes more.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// Fills buffers with what has arrived, and says how many and with what.
    pub(super) fn receive(
        &self,
        buffers: &mut [Box<[u8]>; BUFFERS],
        metas: &mut [RecvMeta; BUFFERS],
    ) -> io::Result<usize> {
        let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
        self.io.try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.io), &mut slices, metas))
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(cx)
    }
}
