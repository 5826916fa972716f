//! What the kernel hands over in one read of the interface: a packet, or a long one that stands for many.

use atoll_fast::{Cut, HEADER_BYTES, PACKET_BYTES_MAX, SLOT_BYTES, tcp_headers};
use tun_rs::{
    IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum,
    gso_split,
};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_ECN` (virtio 1.2, section 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
const HAS_ECN: u8 = 0x80;

/// Packets that a long one stands for at most: of 64 KiB in segments of the least size that TCP takes (RFC 9293: 536 bytes).
pub(crate) const SEGMENTS_MAX: usize = IDEAL_BATCH_SIZE;

/// What was handed over.
pub(crate) enum Handed<'a> {
    /// A long TCP packet.
    Long(Cut<'a>),
    /// Packets in the slots of the buffer; their sizes are noted.
    Packets(&'a mut [u8]),
    /// Nothing that can be understood: larger than our MTU, because somebody changed that of the interface, or of no kind that we asked for.
    Senseless,
}

/// Looks at `read`, which begins with the device's header. `buffer` has [`SEGMENTS_MAX`] slots.
pub(crate) fn look<'a>(read: &'a mut [u8], buffer: &'a mut [u8], sizes: &mut Vec<usize>) -> Handed<'a> {
    sizes.clear();
    let Some((device, packet)) = read.split_at_mut_checked(VIRTIO_NET_HDR_LEN).filter(|(_, it)| !it.is_empty()) else {
        return Handed::Senseless;
    };
    let Ok(says) = VirtioNetHdr::decode(device) else { return Handed::Senseless };
    match says.gso_type & !HAS_ECN {
        0 => one(says, packet, buffer, sizes),
        VIRTIO_NET_HDR_GSO_TCPV6 => match Cut::new(packet, usize::from(says.gso_size), buffer) {
            Ok(cut) => Handed::Long(cut),
            Err((packet, buffer)) => many(says, packet, buffer, sizes),
        },
        _ => many(says, packet, buffer, sizes),
    }
}

fn one<'a>(says: VirtioNetHdr, packet: &mut [u8], buffer: &'a mut [u8], sizes: &mut Vec<usize>) -> Handed<'a> {
    if says.flags & NEEDS_CHECKSUM != 0 {
        let (start, offset) = (usize::from(says.csum_start), usize::from(says.csum_offset));
        // What it is begun with stands where it is to be, and is part of the sum.
        let Some(sum) = packet.get(start..).map(|covered| !checksum(covered, 0)) else { return Handed::Senseless };
        let Some(place) = packet.get_mut(start + offset..start + offset + 2) else { return Handed::Senseless };
        // For UDP a sum of zero would say that there is none.
        place.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    }
    if packet.len() > PACKET_BYTES_MAX {
        return Handed::Senseless;
    }
    buffer[HEADER_BYTES..][..packet.len()].copy_from_slice(packet);
    sizes.push(packet.len());
    Handed::Packets(buffer)
}

fn many<'a>(mut says: VirtioNetHdr, packet: &mut [u8], buffer: &'a mut [u8], sizes: &mut Vec<usize>) -> Handed<'a> {
    let is_v6 = packet[0] >> 4 == 6;
    // What the kernel says of the headers' length is not to be relied on where it forwards.
    let headers = match says.gso_type & !HAS_ECN {
        VIRTIO_NET_HDR_GSO_UDP_L4 => says.csum_start.checked_add(8),
        _ => tcp_headers(packet).and_then(|headers| u16::try_from(headers).ok()),
    };
    let Some(headers) = headers else { return Handed::Senseless };
    says.hdr_len = headers;
    sizes.resize(SEGMENTS_MAX, 0);
    let mut slots: Vec<&mut [u8]> = buffer.chunks_mut(SLOT_BYTES).take(SEGMENTS_MAX).collect();
    match gso_split(packet, says, &mut slots, sizes, HEADER_BYTES, is_v6) {
        Ok(count) if sizes[..count].iter().all(|size| *size <= PACKET_BYTES_MAX) => {
            sizes.truncate(count);
            Handed::Packets(buffer)
        }
        _ => Handed::Senseless,
    }
}

#[cfg(test)]
mod tests;
