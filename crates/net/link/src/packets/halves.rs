//! Packets that are too large for a way travel in halves, so that every way on which QUIC works carries them: IPv6 knows no link with less than 1,280 bytes, while
//! what a datagram of QUIC has room for may be 1,160.
//!
//! ```text
//! half u8 (1 the first, 2 the second) | packet's number u16, big-endian | bytes
//! ```
//!
//! An IP packet has its version in the upper four bits of the first byte, and none is 0. Halves travel where packets do, inside a connection or sealed, so they are as genuine as those are.

use atoll_fast::PACKET_BYTES_MAX;
use bytes::{BufMut, Bytes, BytesMut};

const HEADER_BYTES: usize = 3;

/// What is in front of the first half; the second has one more.
const FIRST: u8 = 1;

/// The bytes of the larger half of a packet, with its header.
pub(crate) fn half_of(packet: usize) -> usize {
    HEADER_BYTES + packet.div_ceil(2)
}

/// Cuts a packet. The number tells it from those around it.
pub(crate) fn halve(packet: &[u8], number: u16) -> [Bytes; 2] {
    let (first, second) = packet.split_at(packet.len().div_ceil(2));
    [(FIRST, first), (FIRST + 1, second)].map(|(half, part)| {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + part.len());
        bytes.put_u8(half);
        bytes.put_u16(number);
        bytes.put_slice(part);
        bytes.freeze()
    })
}

/// Whether this is a half, and not a packet.
pub(crate) fn is_half(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == 0)
}

/// Puts halves from one sender together again.
#[derive(Debug, Default)]
pub(crate) struct Halves(atoll_relay::Halves);

impl Halves {
    /// Takes in a half; gives the packet if it was the last of it. What makes no sense is dropped.
    pub(crate) fn join(&mut self, half: &Bytes) -> Option<Bytes> {
        let [kind @ (1 | 2), high, low, _, ..] = half[..] else { return None };
        if half.len() > half_of(PACKET_BYTES_MAX) {
            return None;
        }
        self.0.join(u16::from_be_bytes([high, low]), kind != FIRST, half.slice(HEADER_BYTES..))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, prop, proptest};

    use super::*;

    proptest! {
        #[test]
        fn packets_come_together_in_any_order_of_two(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 2..PACKET_BYTES_MAX), 1..8),
            swapped in any::<bool>(),
        ) {
            let mut halves = Halves::default();
            for (number, packet) in packets.iter().enumerate() {
                let mut two = halve(packet, number as u16);
                assert!(two.iter().all(|half| is_half(half) && half.len() <= half_of(packet.len())));
                if swapped {
                    two.reverse();
                }
                assert_eq!(halves.join(&two[0]), None);
                assert_eq!(halves.join(&two[1]).as_deref(), Some(&packet[..]));
            }
        }

        #[test]
        fn whatever_comes_memory_is_bounded_and_nothing_is_larger_than_a_packet(
            came in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..100),
        ) {
            let mut halves = Halves::default();
            for bytes in came {
                if let Some(packet) = halves.join(&Bytes::from(bytes)) {
                    assert!(packet.len() <= PACKET_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn what_is_a_half_and_what_a_packet() {
        for (what, bytes, is) in [
            ("IPv6", &[0x60, 0][..], false),
            ("IPv4", &[0x45], false),
            ("nothing", &[], false),
            ("the first", &[1, 0, 0, 9], true),
            ("no half there is", &[7, 0, 0, 9], true),
        ] {
            assert_eq!(is_half(bytes), is, "{what}");
        }
        let mut halves = Halves::default();
        for (what, half) in [("an unknown kind", &[3, 0, 0, 9][..]), ("nothing in it", &[1, 0, 0]), ("cut short", &[1])]
        {
            assert_eq!(halves.join(&Bytes::copy_from_slice(half)), None, "{what}");
            assert_eq!(halves.join(&Bytes::copy_from_slice(half)), None, "{what}");
        }
    }
}
