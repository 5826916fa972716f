//! What the two ends put into a frame for each other; a relay does not look into it.
//!
//! ```text
//! version u8 (1) | kind u8 | body
//! ```
//!
//! What is carried is either a datagram of the QUIC connection between the two, or a packet sealed for the fast path beside it ([`Cargo`]).
//!
//! QUIC needs 1,200 bytes to get through, and packets of the planetary interface need some more than that, while what a relay's connection carries in
//! one datagram may be less: then a datagram travels in two halves. Probes and echoes measure the whole way. A relay could answer a probe in the other end's place,
//! as it can see it; therefore a relay is not believed for its echoes alone ([`Choices`](crate::Choices)).

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

/// The version of this format.
const VERSION: u8 = 1;

/// What a parcel has before a whole datagram.
pub const PARCEL_HEADER_BYTES: usize = 2;

/// The same before half of one: which datagram, and which half.
const HALF_HEADER_BYTES: usize = PARCEL_HEADER_BYTES + 3;

/// The largest datagram that is carried. Connections for packets begin with 1,352 bytes; what noq sends beyond are probes whether more passes, and through a
/// relay it should find out that it does not, as everything larger would travel in halves.
pub const DATAGRAM_BYTES_MAX: usize = 1352;

/// Halves that wait for their other half, per peer: some 20 KiB. Halves are sent one after the other, so that few are between them.
const WAITING_MAX: usize = 16;

/// What a datagram is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cargo {
    /// A QUIC connection.
    Quic,
    /// The fast path.
    Sealed,
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parcel {
    /// A datagram.
    Whole {
        /// Of what.
        cargo: Cargo,
        /// The datagram.
        bytes: Bytes,
    },
    /// Half of a datagram.
    Half {
        /// Of what.
        cargo: Cargo,
        /// Which datagram.
        number: u16,
        /// Which half.
        second: bool,
        /// What it has of it.
        bytes: Bytes,
    },
    /// Send this number back.
    Probe(u64),
    /// The number of a probe.
    Echo(u64),
}

/// Why bytes are not a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParcelError {
    /// Cut off, or too long.
    #[error("a relayed parcel is malformed")]
    Malformed,
    /// Of another version or kind.
    #[error("a relayed parcel is of version or kind {found}")]
    Kind {
        /// Which.
        found: u8,
    },
}

impl Parcel {
    /// One parcel or two for a datagram, such that each fits into `room` bytes. None if that cannot be.
    #[must_use]
    pub fn pack(cargo: Cargo, datagram: &Bytes, room: usize, number: u16) -> Option<(Self, Option<Self>)> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return None;
        }
        if datagram.len() + PARCEL_HEADER_BYTES <= room {
            return Some((Self::Whole { cargo, bytes: datagram.clone() }, None));
        }
        let middle = datagram.len().div_ceil(2);
        if middle + HALF_HEADER_BYTES > room {
            return None;
        }
        let half = |second: bool, bytes: Bytes| Self::Half { cargo, number, second, bytes };
        Some((half(false, datagram.slice(..middle)), Some(half(true, datagram.slice(middle..)))))
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(HALF_HEADER_BYTES + DATAGRAM_BYTES_MAX);
        to.put_u8(VERSION);
        match self {
            Self::Whole { cargo, bytes } => {
                to.put_u8(if *cargo == Cargo::Quic { 0 } else { 4 });
                to.put_slice(bytes);
            }
            Self::Half { cargo, number, second, bytes } => {
                to.put_u8(if *cargo == Cargo::Quic { 1 } else { 5 });
                to.put_u16_le(*number);
                to.put_u8(u8::from(*second));
                to.put_slice(bytes);
            }
            Self::Probe(number) => {
                to.put_u8(2);
                to.put_u64_le(*number);
            }
            Self::Echo(number) => {
                to.put_u8(3);
                to.put_u64_le(*number);
            }
        }
        to.freeze()
    }

    /// From bytes of a peer.
    ///
    /// # Errors
    ///
    /// [`ParcelError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, ParcelError> {
        let [version, kind, ..] = bytes[..] else { return Err(ParcelError::Malformed) };
        if version != VERSION {
            return Err(ParcelError::Kind { found: version });
        }
        let mut body = bytes.split_off(PARCEL_HEADER_BYTES);
        let number = || <[u8; 8]>::try_from(&body[..]).map(u64::from_le_bytes).map_err(|_| ParcelError::Malformed);
        let cargo = if kind < 4 { Cargo::Quic } else { Cargo::Sealed };
        match kind {
            0 | 4 if (1..=DATAGRAM_BYTES_MAX).contains(&body.len()) => Ok(Self::Whole { cargo, bytes: body }),
            1 | 5 => {
                let [low, high, second @ (0 | 1), _, ..] = body[..] else { return Err(ParcelError::Malformed) };
                let bytes = body.split_off(3);
                if bytes.len() > DATAGRAM_BYTES_MAX / 2 {
                    return Err(ParcelError::Malformed);
                }
                Ok(Self::Half { cargo, number: u16::from_le_bytes([low, high]), second: second == 1, bytes })
            }
            2 => number().map(Self::Probe),
            3 => number().map(Self::Echo),
            0 | 4 => Err(ParcelError::Malformed),
            found => Err(ParcelError::Kind { found }),
        }
    }
}

/// Puts halves together again, for one peer.
#[derive(Debug, Default)]
pub struct Halves {
    waiting: VecDeque<(u16, bool, Bytes)>,
}

impl Halves {
    /// Takes in a half; gives the datagram if it was the last of it. Either may come first; the oldest go when too many wait.
    pub fn join(&mut self, number: u16, second: bool, bytes: Bytes) -> Option<Bytes> {
        let other = self.waiting.iter().position(|(waiting, half, _)| *waiting == number && *half != second);
        let Some((_, _, other)) = other.and_then(|at| self.waiting.remove(at)) else {
            self.waiting.retain(|(waiting, half, _)| (*waiting, *half) != (number, second));
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back((number, second, bytes));
            return None;
        };
        let (first, last) = if second { (other, bytes) } else { (bytes, other) };
        Some([first, last].concat().into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn parcels_survive_the_wire() {
        let bytes = Bytes::from_static(b"opaque");
        for cargo in [Cargo::Quic, Cargo::Sealed] {
            let half = Parcel::Half { cargo, number: 600, second: true, bytes: bytes.clone() };
            for parcel in
                [Parcel::Whole { cargo, bytes: bytes.clone() }, half, Parcel::Probe(u64::MAX), Parcel::Echo(1)]
            {
                assert_eq!(Parcel::decode(parcel.encode()), Ok(parcel));
            }
        }
    }

    /// What version 1 looks like, for ever.
    #[test]
    fn version_one() {
        let bytes = Bytes::from_static(&[9]);
        for (cargo, whole, half) in [(Cargo::Quic, 0, 1), (Cargo::Sealed, 4, 5)] {
            assert_eq!(Parcel::Whole { cargo, bytes: bytes.clone() }.encode(), [1, whole, 9][..]);
            let parcel = Parcel::Half { cargo, number: 2, second: true, bytes: bytes.clone() };
            assert_eq!(parcel.encode(), [1, half, 2, 0, 1, 9][..]);
        }
        assert_eq!(Parcel::Probe(5).encode(), [1, 2, 5, 0, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(Parcel::Echo(5).encode(), [1, 3, 5, 0, 0, 0, 0, 0, 0, 0][..]);
    }

    proptest! {
        #[test]
        fn halves_make_a_whole_in_any_order(length in 1usize..=DATAGRAM_BYTES_MAX, room in 700usize..1500, turned in any::<bool>()) {
            let datagram: Bytes = (0..length).map(|at| at as u8).collect::<Vec<_>>().into();
            let (one, two) = Parcel::pack(Cargo::Quic, &datagram, room, 3).unwrap();
            let mut parcels = vec![one];
            parcels.extend(two);
            assert!(parcels.iter().all(|parcel| parcel.encode().len() <= room));
            if turned {
                parcels.reverse();
            }
            let mut halves = Halves::default();
            let came = parcels.into_iter().filter_map(|parcel| match Parcel::decode(parcel.encode()).unwrap() {
                Parcel::Whole { bytes, .. } => Some(bytes),
                Parcel::Half { number, second, bytes, .. } => halves.join(number, second, bytes),
                _ => None,
            });
            assert_eq!(came.collect::<Vec<_>>(), [datagram]);
        }

        #[test]
        fn halves_without_their_other_are_few(numbers in prop::collection::vec(any::<(u16, bool)>(), 0..200)) {
            let mut halves = Halves::default();
            for (number, second) in numbers {
                halves.join(number, second, Bytes::from_static(b"half"));
                assert!(halves.waiting.len() <= WAITING_MAX);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, kind in 0u8..7) {
            bytes.splice(0..0, [1, kind]);
            if let Ok(parcel) = Parcel::decode(bytes.clone().into()) {
                assert_eq!(parcel.encode(), bytes);
            }
        }
    }

    #[test]
    fn what_is_too_large_is_not_packed() {
        assert!(Parcel::pack(Cargo::Sealed, &vec![0; DATAGRAM_BYTES_MAX + 1].into(), 2000, 0).is_none());
        assert!(Parcel::pack(Cargo::Sealed, &vec![0; 1200].into(), 300, 0).is_none());
    }
}
