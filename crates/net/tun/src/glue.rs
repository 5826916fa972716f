//! Segments of one TCP conversation on their way into the kernel, joined so that it takes them as one: what receive offload does for a network card. Nothing is
//! copied; what is written is a header of ours and the segments' contents where they lie.
//!
//! Joined is what the kernel itself would join (`tcp_gro_receive`): segments in sequence that differ in nothing else, each with a good checksum or one that is only begun
//! because the sender sealed it instead. The result can be taken apart into exactly what came.

use std::io::IoSlice;

use atoll_fast::{Arrived, tcp_headers};
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, checksum_no_fold};

/// IPv6's header.
const IP: usize = 40;

/// TCP's header with as many options as there can be.
const TCP_MAX: usize = 60;

/// The most that an IPv6 packet and its header can be: the kernel keeps the length in 16 bits.
const JOINED_BYTES_MAX: usize = 65_535;

const TCP_NUMBER: u8 = 6;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_TCPV6` (virtio 1.2, section 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
const IS_TCP_OVER_IPV6: u8 = 4;

/// A packet that could be one of several.
#[derive(Clone, Copy)]
struct Segment<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    begun: bool,
}

impl<'a> Segment<'a> {
    /// `None` for anything but a TCP segment that carries something, right behind an IPv6 header, and says nothing but that.
    fn read(arrived: &Arrived<'a>) -> Option<Self> {
        let (headers, payload) = arrived.packet.split_at(tcp_headers(arrived.packet)?);
        let segment = Self { headers, payload, begun: arrived.begun };
        (!payload.is_empty() && segment.flags() & !PSH == ACK).then_some(segment)
    }

    fn flags(&self) -> u8 {
        self.headers[IP + 13]
    }

    fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.headers[IP + 4], self.headers[IP + 5], self.headers[IP + 6], self.headers[IP + 7]])
    }

    fn checksum_holds(&self) -> bool {
        if self.begun {
            return true;
        }
        let length = self.headers.len() - IP + self.payload.len();
        // The headers have an even length, so the sums add up.
        let headers = checksum_no_fold(&self.headers[IP..], pseudo(self.headers, length));
        checksum(self.payload, headers) == 0xffff
    }

    /// Whether another segment is of the same conversation, and differs in nothing but its place in it and whether it pushes.
    fn is_like(&self, other: &Self) -> bool {
        let (one, two) = (self.headers, other.headers);
        // Not compared: the length in 4..6, the sequence in 44..48, the flags in 53, the checksum in 56..58.
        one.len() == two.len()
            && one[6..44] == two[6..44]
            && one[48..53] == two[48..53]
            && one[54..56] == two[54..56]
            && one[58..] == two[58..]
            && one[..4] == two[..4]
    }
}

/// The sum of the pseudo-header (RFC 8200, section 8.1).
fn pseudo(headers: &[u8], length: usize) -> u64 {
    checksum_no_fold(&headers[8..IP], length as u64 + u64::from(TCP_NUMBER))
}

/// How many of the packets, from the first on, are written as one. At least one.
fn joined(packets: &[Arrived<'_>]) -> usize {
    let Some(first) = packets.first().and_then(Segment::read) else { return 1 };
    let (mut last, mut bytes) = (first, first.headers.len() + first.payload.len());
    let mut count = 1;
    for packet in &packets[1..] {
        let Some(next) = Segment::read(packet) else { break };
        bytes += next.payload.len();
        let follows = next.sequence() == last.sequence().wrapping_add(last.payload.len() as u32);
        let ended = last.flags() & PSH != 0 || last.payload.len() < first.payload.len();
        if ended
            || !follows
            || next.payload.len() > first.payload.len()
            || bytes > JOINED_BYTES_MAX
            || !first.is_like(&next)
        {
            break;
        }
        // One that is damaged goes on alone, for the kernel to see.
        if !next.checksum_holds() || (count == 1 && !first.checksum_holds()) {
            break;
        }
        (last, count) = (next, count + 1);
    }
    count
}

/// Room for what is put in front of packets.
pub(crate) struct Front([u8; VIRTIO_NET_HDR_LEN + IP + TCP_MAX]);

impl Default for Front {
    fn default() -> Self {
        Self([0; VIRTIO_NET_HDR_LEN + IP + TCP_MAX])
    }
}

/// Takes as many packets as can be written as one, and says how many and what to write. `packets` has one at least.
pub(crate) fn glue<'a>(front: &'a mut Front, packets: &[Arrived<'a>]) -> (usize, Vec<IoSlice<'a>>) {
    let count = joined(packets);
    let (device, headers) = front.0.split_at_mut(VIRTIO_NET_HDR_LEN);
    if count == 1 {
        let says = if packets[0].begun { finish(VirtioNetHdr::default()) } else { VirtioNetHdr::default() };
        says.encode(device).expect("there is room for it");
        return (1, vec![IoSlice::new(device), IoSlice::new(packets[0].packet)]);
    }
    let segments: Vec<Segment<'a>> = packets[..count].iter().filter_map(Segment::read).collect();
    let (first, last) = (segments[0], segments[segments.len() - 1]);
    let headers = &mut headers[..first.headers.len()];
    headers.copy_from_slice(first.headers);
    let length = headers.len() - IP + segments.iter().map(|segment| segment.payload.len()).sum::<usize>();
    headers[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    headers[IP + 13] |= last.flags();
    // What the device's header says: the kernel completes the sum.
    let sum = checksum(&[], pseudo(headers, length));
    headers[IP + 16..IP + 18].copy_from_slice(&sum.to_be_bytes());
    let says = VirtioNetHdr {
        gso_type: IS_TCP_OVER_IPV6,
        hdr_len: headers.len() as u16,
        gso_size: first.payload.len() as u16,
        ..finish(VirtioNetHdr::default())
    };
    says.encode(device).expect("there is room for it");
    let fronts = [IoSlice::new(device), IoSlice::new(headers)];
    let payloads = segments.iter().map(|segment| IoSlice::new(segment.payload));
    (count, fronts.into_iter().chain(payloads).collect())
}

/// That the checksum of a TCP segment over IPv6 is begun.
fn finish(says: VirtioNetHdr) -> VirtioNetHdr {
    VirtioNetHdr { flags: NEEDS_CHECKSUM, csum_start: IP as u16, csum_offset: 16, ..says }
}

#[cfg(test)]
mod tests;
