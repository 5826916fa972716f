//! What is joined, what is not, and that what is can be taken apart again.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fast::{Cut, SLOT_BYTES, finish_checksum};
use atoll_ids::NodeId;
use proptest::prelude::*;
use tun_rs::gso_split;

use super::*;

/// A segment of a conversation. Window, options and addresses are the same in all.
fn segment(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, TCP_NUMBER, 64];
    packet.extend([6; 16]);
    packet.extend([7; 16]);
    packet.extend([0x12, 0x34, 0, 80]);
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 9, 0x80, flags, 1, 1, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.extend(payload);
    let length = packet.len() - IP;
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    let sum = !checksum(&packet[IP..], pseudo(&packet, length));
    packet[IP + 16..IP + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn arrived(packets: &[Vec<u8>], begun: bool) -> Vec<Arrived<'_>> {
    packets.iter().map(|packet| Arrived { from: NodeId::from_bytes([1; 32]), packet, begun }).collect()
}

fn check(what: &str, packets: &[Vec<u8>], expect: usize) {
    assert_eq!(joined(&arrived(packets, false)), expect, "{what}");
}

#[test]
fn segments_in_sequence_are_joined() {
    let all = |flags: u8| vec![segment(0, ACK, &[1; 10]), segment(10, ACK, &[2; 10]), segment(20, flags, &[3; 4])];
    check("a short one ends it", &[all(ACK), vec![segment(24, ACK, &[4; 4])]].concat(), 3);
    check("so does a push", &[all(ACK | PSH), vec![segment(24, ACK, &[4; 4])]].concat(), 3);
    check("numbers begin anew", &[segment(u32::MAX - 4, ACK, &[0; 10]), segment(5, ACK, &[0; 10])], 2);
}

#[test]
fn what_differs_is_not_joined() {
    let first = segment(0, ACK, &[1; 10]);
    let changed = |at: usize, to: u8| {
        let mut packet = segment(10, ACK, &[2; 10]);
        packet[at] = to;
        packet
    };
    let valid = |mut packet: Vec<u8>| {
        packet[IP + 16..IP + 18].fill(0);
        let sum = !checksum(&packet[IP..], pseudo(&packet, packet.len() - IP));
        packet[IP + 16..IP + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    check("it is", &[first.clone(), valid(changed(0, 0x60))], 2);
    for (what, second) in [
        ("a gap", segment(11, ACK, &[2; 10])),
        ("a larger one", segment(10, ACK, &[2; 11])),
        ("nothing in it", segment(10, ACK, &[])),
        ("an end", segment(10, ACK | 1, &[2; 10])),
        ("a congestion mark", segment(10, ACK | 0x40, &[2; 10])),
        ("another traffic class", valid(changed(1, 0x10))),
        ("another hop limit", valid(changed(7, 63))),
        ("another source", valid(changed(8, 9))),
        ("another port", valid(changed(IP + 3, 81))),
        ("another acknowledgement", valid(changed(IP + 11, 1))),
        ("another window", valid(changed(IP + 14, 2))),
        ("another option", valid(changed(IP + 24, 9))),
        ("a wrong checksum", changed(IP + 33, 9)),
        ("a wrong length", changed(5, 9)),
        ("another protocol", changed(6, 17)),
        ("a header that is too long", changed(IP + 12, 0xf0)),
        ("a header that is too short", changed(IP + 12, 0x40)),
        ("the beginning of a packet", segment(10, ACK, &[2; 10])[..50].to_vec()),
        ("nothing", Vec::new()),
    ] {
        check(what, &[first.clone(), second.clone()], 1);
        check(what, &[second, first.clone()], 1);
    }
    let mut damaged = first;
    damaged[IP + 33] ^= 1;
    check("a damaged one in front", &[damaged, segment(10, ACK, &[2; 10])], 1);
}

#[test]
fn what_the_sender_left_begun_is_finished_by_the_kernel() {
    let damaged: Vec<Vec<u8>> = [0, 10]
        .map(|sequence| {
            let mut packet = segment(sequence, ACK, &[1; 10]);
            let length = packet.len() - IP;
            let sum = checksum(&[], pseudo(&packet, length));
            packet[IP + 16..IP + 18].copy_from_slice(&sum.to_be_bytes());
            packet
        })
        .to_vec();
    assert_eq!((joined(&arrived(&damaged, false)), joined(&arrived(&damaged, true))), (1, 2));
    let mut front = Front::default();
    let (_, slices) = glue(&mut front, &arrived(&damaged[..1], true));
    let says = VirtioNetHdr::decode(&slices[0]).unwrap();
    assert_eq!((says.flags, says.gso_type, says.csum_start, says.csum_offset), (NEEDS_CHECKSUM, 0, 40, 16));
    let mut finished = damaged[0].clone();
    finish_checksum(&mut finished);
    assert_eq!(finished, segment(0, ACK, &[1; 10]));
}

#[test]
fn one_that_is_alone_goes_as_it_is() {
    let (mut front, packet) = (Front::default(), segment(0, ACK, &[1; 10]));
    let packets = [packet.clone(), b"something else".to_vec()];
    let (count, slices) = glue(&mut front, &arrived(&packets, false));
    assert_eq!(
        (count, slices.len(), &slices[0][..], &slices[1][..]),
        (1, 2, &[0; VIRTIO_NET_HDR_LEN][..], &packet[..])
    );
}

proptest! {
    #[test]
    fn what_was_joined_comes_apart_into_what_came(
        sequence in any::<u32>(), size in 1usize..1200, full in 1usize..50, rest in 1usize..1200, push in any::<bool>(), fill in any::<u8>(),
    ) {
        let rest = rest.min(size);
        let mut packets: Vec<Vec<u8>> = (0..full)
            .map(|at| segment(sequence.wrapping_add((at * size) as u32), ACK, &vec![fill ^ at as u8; size]))
            .collect();
        packets.push(segment(
            sequence.wrapping_add((full * size) as u32),
            if push { ACK | PSH } else { ACK },
            &vec![fill; rest],
        ));
        let mut front = Front::default();
        let views = arrived(&packets, false);
        let (count, slices) = glue(&mut front, &views);
        prop_assert_eq!(count, packets.len());
        let mut whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let says = VirtioNetHdr::decode(&whole).unwrap();
        let mut out = vec![vec![0; 1400]; 64];
        let mut sizes = vec![0; 64];
        let count = gso_split(&mut whole[VIRTIO_NET_HDR_LEN..], says, &mut out, &mut sizes, 0, true).unwrap();
        let apart: Vec<Vec<u8>> = out.iter().zip(&sizes).take(count).map(|(packet, size)| packet[..*size].to_vec()).collect();
        prop_assert_eq!(apart, packets);
    }
}

proptest! {
    /// Cut as the kernel would.
    #[test]
    fn what_is_cut_is_what_the_kernel_would_cut(payload in 1usize..60_000, size in 520usize..1208, flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | 1 | PSH)]) {
        let long = || segment(u32::MAX - 3000, flags, &vec![9; payload]);
        let (mut ours, mut room) = (long(), vec![0; 128 * SLOT_BYTES]);
        let cut = Cut::new(&mut ours, size, &mut room).unwrap().split();
        let mut theirs = long();
        let says = VirtioNetHdr {
            flags: NEEDS_CHECKSUM, gso_type: IS_TCP_OVER_IPV6, hdr_len: 72, gso_size: size as u16, csum_start: 40, csum_offset: 16,
        };
        let (mut out, mut sizes) = (vec![vec![0; 1400]; 128], vec![0; 128]);
        let count = gso_split(&mut theirs, says, &mut out, &mut sizes, 0, true).unwrap();
        let theirs: Vec<&[u8]> = out.iter().zip(&sizes).take(count).map(|(packet, size)| &packet[..*size]).collect();
        prop_assert_eq!(cut.iter().map(|segment| &segment[..]).collect::<Vec<_>>(), theirs);
    }
}
