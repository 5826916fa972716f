//! Where in the space of lookups a node stands: a [`Key`], and how far two are apart.

use atoll_ids::{NodeId, PlanetaryAddress};
use serde::{Deserialize, Serialize};

/// A point of the space: the 120 bits of hash in a planetary address, and behind them its first byte, which all have in common. So who knows a node and who knows no
/// more than its address look in the same place, and points are spread evenly. Whoever tries many keys can still come near a point that they chose; what that
/// gains them is limited by networks (`network.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "[u8; 16]", into = "[u8; 16]")]
pub struct Key(u128);

impl Key {
    /// Bits of a key, and so the most buckets that a table can have.
    pub(crate) const BITS: u32 = 128;

    /// The key of a node: where its record is kept, and what it stands next to.
    pub fn of(node: &NodeId) -> Self {
        Self::at(node.planetary_address())
    }

    /// The key of the node that has this address.
    pub fn at(address: PlanetaryAddress) -> Self {
        let mut octets = address.ip().octets();
        octets.rotate_left(1);
        Self::from(octets)
    }

    /// Kademlia's metric: smaller is nearer, and two keys have the same distance to a third only if they are the same.
    pub(crate) fn distance(self, other: Self) -> u128 {
        self.0 ^ other.0
    }

    /// How many leading bits two keys share, up to 127: the bucket of one in the other's table.
    pub(crate) fn shared_bits(self, other: Self) -> u32 {
        self.distance(other).leading_zeros().min(Self::BITS - 1)
    }

    /// A key that shares exactly `bits` leading bits with this one; what follows is taken from `random`.
    pub(crate) fn sharing(self, bits: u32, random: u128) -> Self {
        let bits = bits.min(Self::BITS - 1);
        let flipped = 1_u128 << (Self::BITS - 1 - bits);
        let below = flipped - 1;
        Self((self.0 ^ flipped) & !below | random & below)
    }
}

impl From<[u8; 16]> for Key {
    fn from(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl From<Key> for [u8; 16] {
    fn from(key: Key) -> Self {
        key.0.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    /// Part of the protocol: these may never change.
    #[test]
    fn golden_key() {
        let hash = blake3::derive_key("atoll 2026-11 planetary address v1", &[7; 32]);
        let expected = [&hash[..15], &[6]].concat();
        assert_eq!(<[u8; 16]>::from(Key::of(&NodeId::from_bytes([7; 32])))[..], expected);
    }

    proptest! {
        #[test]
        fn a_key_shares_as_many_bits_as_asked(key in any::<[u8; 16]>(), bits in 0..128_u32, random in any::<u128>()) {
            let key = Key::from(key);
            prop_assert_eq!(key.shared_bits(key.sharing(bits, random)), bits);
        }
    }
}
