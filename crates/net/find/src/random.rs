//! Choices that may be predicted without harm: whom to tell, which part of the table to refresh, how much to jitter. Never keys or nonces.

/// SplitMix64: one multiplication chain, 8 bytes of state, repeatable from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Between three quarters of `mean` and five quarters of it, so that what began together does not stay together.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        mean - mean / 4 + self.below(mean / 2 + 1)
    }
}

/// The finalizer of SplitMix64.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
