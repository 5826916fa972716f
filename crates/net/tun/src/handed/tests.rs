//! Reads of the interface, sensible and not.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::craft::Craft;

fn craft() -> Craft {
    Craft::between("600::1".parse().unwrap(), "600::2".parse().unwrap())
}

fn read(says: VirtioNetHdr, packet: &[u8]) -> Vec<u8> {
    let mut read = [&[0; VIRTIO_NET_HDR_LEN][..], packet].concat();
    says.encode(&mut read).unwrap();
    read
}

/// The packets that come of a read; `None` if there is no sense in it.
fn packets(mut read: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let (mut buffer, mut sizes) = (vec![0; SEGMENTS_MAX * SLOT_BYTES], Vec::new());
    match look(&mut read, &mut buffer, &mut sizes) {
        Handed::Long(cut) => Some(cut.split().iter().map(|segment| segment.to_vec()).collect()),
        Handed::Packets(buffer) => {
            let slots = buffer.chunks(SLOT_BYTES).zip(&sizes);
            Some(slots.map(|(slot, size)| slot[HEADER_BYTES..][..*size].to_vec()).collect())
        }
        Handed::Senseless => None,
    }
}

/// Its checksum is begun: the sum over the pseudo-header stands where it is to be.
fn udp_begun(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let mut packet = craft().raw(17, &[&[0, 1, 0, 2, high, low, 0, 0][..], payload].concat());
    let sum = checksum(&packet[8..40], u64::from(length) + 17);
    packet[46..48].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn sum_holds(packet: &[u8]) -> bool {
    let length = (packet.len() - 40) as u64;
    checksum(&packet[40..], u64::from(checksum(&packet[8..40], length + u64::from(packet[6])))) == 0xffff
}

#[test]
fn one_packet_is_one_packet_with_its_checksum() {
    let plain = craft().echo_request(7);
    assert_eq!(packets(read(VirtioNetHdr::default(), &plain)).unwrap(), [plain]);
    let says = VirtioNetHdr { flags: NEEDS_CHECKSUM, csum_start: 40, csum_offset: 6, ..Default::default() };
    for payload in [&b""[..], b"odd", b"even"] {
        let finished = packets(read(says, &udp_begun(payload))).unwrap();
        assert!(finished.len() == 1 && sum_holds(&finished[0]));
    }
}

#[test]
fn many_in_one_are_taken_apart() {
    let says = VirtioNetHdr {
        flags: NEEDS_CHECKSUM,
        gso_type: VIRTIO_NET_HDR_GSO_UDP_L4,
        hdr_len: 48,
        gso_size: 1000,
        csum_start: 40,
        csum_offset: 6,
    };
    let apart = packets(read(says, &udp_begun(&[5; 2500]))).unwrap();
    assert_eq!(apart.iter().map(Vec::len).collect::<Vec<_>>(), [1048, 1048, 548]);
    assert!(apart.iter().all(|packet| sum_holds(packet)));
}

#[test]
fn what_makes_no_sense_is_said_to() {
    let packet = craft().tcp(1, 2, 0x10);
    let says = |gso_type, gso_size| VirtioNetHdr { flags: NEEDS_CHECKSUM, gso_type, gso_size, ..Default::default() };
    for (what, read) in [
        ("nothing", Vec::new()),
        ("no packet", vec![0; VIRTIO_NET_HDR_LEN]),
        ("too large", read(VirtioNetHdr::default(), &[0x60; PACKET_BYTES_MAX + 1])),
        ("a kind that we did not ask for", read(says(1, 100), &packet)),
        ("a size of nothing", read(says(VIRTIO_NET_HDR_GSO_TCPV6, 0), &packet)),
        ("not what it says", read(says(VIRTIO_NET_HDR_GSO_TCPV6, 100), &udp_begun(b"x"))),
    ] {
        assert_eq!(packets(read), None, "{what}");
    }
}

proptest! {
    #[test]
    fn any_read_is_taken_or_not(mut bytes in prop::collection::vec(any::<u8>(), 0..300), like in any::<bool>(), says in any::<(u8, u8, u16, u16, u16, u16)>()) {
        if like {
            bytes.splice(0..bytes.len().min(40), craft().tcp(1, 2, 0x10));
        }
        let (flags, gso_type, hdr_len, gso_size, csum_start, csum_offset) = says;
        let says = VirtioNetHdr { flags, gso_type: gso_type % 6, hdr_len, gso_size, csum_start: csum_start % 64, csum_offset: csum_offset % 64 };
        for packet in packets(read(says, &bytes)).unwrap_or_default() {
            prop_assert!(packet.len() <= PACKET_BYTES_MAX);
        }
    }
}
