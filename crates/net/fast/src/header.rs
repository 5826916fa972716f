//! The 16 bytes in front of every sealed packet. They are sent in the clear and authenticated with it.
//!
//! ```text
//! 0        1                    4                  8                                16
//! ┌────────┬────────────────────┬──────────────────┬────────────────────────────────┐
//! │ 1│kind │ epoch              │ receiver's index │ counter                        │
//! └────────┴────────────────────┴──────────────────┴────────────────────────────────┘
//! ```
//!
//! The upper half of the first byte is the version. Numbers are big-endian.

/// Bytes in front of what is sealed.
pub const HEADER_BYTES: usize = 16;

/// Bytes behind it: the tag of AES-GCM and of ChaCha20-Poly1305.
pub const TAG_BYTES: usize = 16;

/// The largest packet that is carried, and the MTU of the planetary interface: sealed, in UDP over IPv6 it has 1,500 bytes, which is what Ethernet carries.
pub const PACKET_BYTES_MAX: usize = 1420;

/// What a link for IPv6 has to carry at least (RFC 8200, section 5).
pub const PACKET_BYTES_LEAST: usize = 1280;

/// The largest packet that passes sealed wherever QUIC does, which needs 1,200 bytes of UDP (RFC 9000, section 14).
pub const PACKET_BYTES_FLOOR: usize = 1200 - HEADER_BYTES - TAG_BYTES;

/// The largest sealed packet.
pub const SEALED_BYTES_MAX: usize = HEADER_BYTES + PACKET_BYTES_MAX + TAG_BYTES;

/// The last epoch that the header has room for. At 8 s each, which takes 10 Gbit/s, it is there after four years; then the path ends.
pub(crate) const EPOCH_MAX: u32 = (1 << 24) - 1;

const VERSION: u8 = 1;

/// What is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IP packet.
    Packet,
    /// A TCP segment over IPv6 whose checksum is only begun, as the kernel hands it over for a network card to finish.
    Segment,
    /// "Do you hear me?": a number, and zeros up to the size of packets that are to pass.
    Probe,
    /// "I do": the probe's number.
    Answer,
}

/// What stands in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is sealed.
    pub kind: Kind,
    /// Which of the sender's keys, counted from 0.
    pub epoch: u32,
    /// What the receiver calls the sender on this path.
    pub index: u32,
    /// How many the sender sealed before with this key.
    pub counter: u64,
}

impl Header {
    /// Reads the header of a sealed packet; `None` if it is none.
    #[must_use]
    pub fn read(sealed: &[u8]) -> Option<Self> {
        let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>()?;
        if rest.len() < TAG_BYTES {
            return None;
        }
        let kind = match header[0] {
            first if first >> 4 != VERSION => return None,
            first => match first & 0x0f {
                0 => Kind::Packet,
                1 => Kind::Probe,
                2 => Kind::Answer,
                3 => Kind::Segment,
                _ => return None,
            },
        };
        let [_, e0, e1, e2, i0, i1, i2, i3, counter @ ..] = *header;
        Some(Self {
            kind,
            epoch: u32::from_be_bytes([0, e0, e1, e2]),
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            counter: u64::from_be_bytes(counter),
        })
    }

    pub(crate) fn bytes(&self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.epoch <= EPOCH_MAX);
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[0] = VERSION << 4
            | match self.kind {
                Kind::Packet => 0,
                Kind::Probe => 1,
                Kind::Answer => 2,
                Kind::Segment => 3,
            };
        bytes[4..8].copy_from_slice(&self.index.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_header_is_read_as_written() {
        for kind in [Kind::Packet, Kind::Segment, Kind::Probe, Kind::Answer] {
            let header = Header { kind, epoch: EPOCH_MAX, index: 0x0102_0304, counter: u64::MAX - 1 };
            let sealed = [&header.bytes()[..], &[0; TAG_BYTES]].concat();
            assert_eq!(Header::read(&sealed), Some(header));
        }
    }

    #[test]
    fn the_format_stays() {
        let header = Header { kind: Kind::Probe, epoch: 0x0a_0b0c, index: 0x0102_0304, counter: 5 };
        assert_eq!(header.bytes(), [0x11, 10, 11, 12, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = [&[0x10][..], &[0; 31]].concat();
        assert!(Header::read(&good).is_some());
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("no tag", good[..31].to_vec()),
            ("another version", [&[0x20][..], &good[1..]].concat()),
            ("an unknown kind", [&[0x14][..], &good[1..]].concat()),
        ] {
            assert_eq!(Header::read(&bytes), None, "{what}");
        }
    }
}
