//! The BLAKE3 hash of an object's content, computed stripe by stripe in any order and put together in order.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks. A stripe is 1 MiB at an offset that is a multiple of 1 MiB, hence a complete subtree (the
//! last stripe: a right edge), so each stripe's chaining value is computed where the stripe is read, on whichever thread, and
//! only the 32-byte values are merged in order. The result is the ordinary BLAKE3 hash of the whole content; nothing waits for
//! its turn to hash a megabyte. The construction is the one `blake3::hazmat` documents; a property test compares with `blake3::hash`.
//!
//! A [`ContentDigest`] is small (one value per level of the tree), so an interrupted upload keeps it in its journal and compares it
//! with what the source gives when it is read again.
//!
//! Invariant: stripes are pushed in order, all but the last exactly [`STRIPE_BYTES`] long. The caller cuts them so.

use atoll_codec::STRIPE_BYTES;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

const _: () = assert!(STRIPE_BYTES.is_power_of_two() && STRIPE_BYTES >= blake3::CHUNK_LEN);

/// What one stripe contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its chaining value as a subtree.
    value: [u8; 32],
    /// Its hash as the whole content: only the first stripe can be that.
    whole: Option<[u8; 32]>,
}

impl Leaf {
    /// The leaf of stripe `number`, which has these bytes (at least one).
    pub(crate) fn of(number: u64, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(number * STRIPE_BYTES as u64);
        hasher.update(bytes);
        Self { value: hasher.finalize_non_root(), whole: (number == 0).then(|| *hasher.finalize().as_bytes()) }
    }
}

/// The leaves so far, merged as far as they can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentDigest {
    /// How many leaves were pushed.
    leaves: u64,
    /// Complete subtrees, largest first. The last one stays unmerged until another leaf follows, because the root is merged differently.
    stack: Vec<[u8; 32]>,
    /// The hash if there is only one leaf.
    whole: Option<[u8; 32]>,
}

impl ContentDigest {
    /// Adds the next stripe's leaf.
    pub(crate) fn push(&mut self, leaf: Leaf) {
        while self.stack.len() > self.leaves.count_ones() as usize {
            self.merge_last();
        }
        self.stack.push(leaf.value);
        self.whole = if self.leaves == 0 { leaf.whole } else { None };
        self.leaves += 1;
    }

    /// The hash of the content, if what was pushed is all of it.
    pub(crate) fn finish(mut self) -> [u8; 32] {
        if let Some(whole) = self.whole {
            return whole;
        }
        while self.stack.len() > 2 {
            self.merge_last();
        }
        match self.stack.as_slice() {
            [left, right] => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
            _ => *blake3::hash(b"").as_bytes(),
        }
    }

    fn merge_last(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_blake3_of_the_content() {
        let mib = STRIPE_BYTES;
        let content: Vec<u8> = (0..9 * mib + 77).map(|i| (i % 251) as u8 ^ (i / 4096) as u8).collect();
        for len in [
            0,
            1,
            1024,
            1025,
            mib - 1,
            mib,
            mib + 1,
            2 * mib,
            3 * mib,
            4 * mib + 1,
            5 * mib,
            7 * mib,
            8 * mib,
            content.len(),
        ] {
            let content = content.get(..len).unwrap_or_default();
            let mut digest = ContentDigest::default();
            for (number, stripe) in content.chunks(mib).enumerate() {
                digest.push(Leaf::of(number as u64, stripe));
            }
            assert_eq!(digest.finish(), *blake3::hash(content).as_bytes(), "{len}");
        }
    }
}
