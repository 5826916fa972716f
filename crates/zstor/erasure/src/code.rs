//! [`Code`]: checks what it is given, finds the plan, runs it. After the checks nothing can fail.

use std::borrow::Cow;

use thiserror::Error;

use crate::cache::{Cache, IndexSet, Pattern};
use crate::field;
use crate::kernel::{Kernel, Plan};

/// Shards of a code at most: GF(2⁸) has that many points.
const SHARDS_MAX: usize = 256;

/// A k+m code: k data shards, m parity shards, indexed 0..k and k..k+m.
///
/// Shareable between threads; each call runs on the calling thread alone. Making one costs microseconds and it
/// remembers the plans of recent erasure patterns, so keep it rather than making it per stripe.
#[derive(Debug)]
pub struct Code {
    data: usize,
    parity: usize,
    kernel: Kernel,
    encoding: Plan,
    recoveries: Cache,
}

impl Code {
    /// A code of `data` data and `parity` parity shards on the fastest kernel of this processor.
    ///
    /// # Errors
    /// [`CodeError::Shape`] unless both are at least 1 and their sum at most 256.
    pub fn new(data: usize, parity: usize) -> Result<Self, CodeError> {
        Self::with_kernel(data, parity, Kernel::detect())
    }

    /// The same on a chosen kernel, for tests and measurements.
    ///
    /// # Errors
    /// [`CodeError::Shape`], and [`CodeError::KernelUnavailable`] if this processor cannot run it.
    pub fn with_kernel(data: usize, parity: usize, kernel: Kernel) -> Result<Self, CodeError> {
        if data == 0 || parity == 0 || data > SHARDS_MAX || parity > SHARDS_MAX - data {
            return Err(CodeError::Shape { data, parity });
        }
        if !kernel.is_available() {
            return Err(CodeError::KernelUnavailable { kernel });
        }
        let points: Vec<u8> = (0..=u8::MAX).take(data + parity).collect();
        let (known, wanted) = points.split_at(data);
        let encoding = Plan::new(kernel, data, &field::interpolation(known, wanted));
        Ok(Self { data, parity, kernel, encoding, recoveries: Cache::default() })
    }

    /// Data shards (k).
    pub fn data_shards(&self) -> usize {
        self.data
    }

    /// Parity shards (m).
    pub fn parity_shards(&self) -> usize {
        self.parity
    }

    /// All shards (k+m).
    pub fn shards(&self) -> usize {
        self.data + self.parity
    }

    /// The kernel it runs on.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Computes all parity shards, overwriting what `parity` held.
    ///
    /// # Errors
    /// [`CodeError::Count`] unless there are k data and m parity shards, [`CodeError::Length`] unless all are equally
    /// long (any length, also 0). Nothing is written then.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), CodeError> {
        for (role, expected, given) in [("data", self.data, data.len()), ("parity", self.parity, parity.len())] {
            if expected != given {
                return Err(CodeError::Count { role, expected, given });
            }
        }
        let lengths = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|shard| shard.len()));
        check_lengths(lengths.enumerate())?;
        self.encoding.apply(|column| data[column], parity);
        Ok(())
    }

    /// Computes the shards in `missing`, data or parity, from those in `present`, both given as (index, bytes) in any
    /// order.
    ///
    /// Only what is listed is computed, from the first k shards in `present`; further ones are checked but not read.
    ///
    /// # Errors
    /// [`CodeError::Index`] for an index that is not below k+m, [`CodeError::Duplicate`] for one given twice (also once
    /// in each list), [`CodeError::TooFew`] for fewer than k present, [`CodeError::Length`] unless all are equally
    /// long. Nothing is written then.
    pub fn reconstruct(&self, present: &[(usize, &[u8])], missing: &mut [(usize, &mut [u8])]) -> Result<(), CodeError> {
        let pattern = self.check_recovery(present, missing)?;
        if missing.is_empty() {
            return Ok(());
        }
        // In the order of their indexes, so that one erasure pattern is one plan whatever order shards arrive in.
        let mut known = Cow::Borrowed(&present[..self.data]);
        if !known.is_sorted_by_key(|&(index, _)| index) {
            known.to_mut().sort_unstable_by_key(|&(index, _)| index);
        }
        let mut wanted: Vec<(usize, &mut [u8])> =
            missing.iter_mut().map(|(index, shard)| (*index, &mut **shard)).collect();
        wanted.sort_unstable_by_key(|&(index, _)| index);
        let mut outputs: Vec<&mut [u8]> = wanted.into_iter().map(|(_, shard)| shard).collect();
        let plan = self.recoveries.get_or_make(&pattern, || {
            let matrix = field::interpolation(&pattern.known.points(), &pattern.wanted.points());
            Plan::new(self.kernel, self.data, &matrix)
        });
        plan.apply(|column| known[column].1, &mut outputs);
        Ok(())
    }

    /// Everything that can be wrong with a recovery, else its pattern.
    fn check_recovery(&self, present: &[(usize, &[u8])], missing: &[(usize, &mut [u8])]) -> Result<Pattern, CodeError> {
        if present.len() < self.data {
            return Err(CodeError::TooFew { present: present.len(), needed: self.data });
        }
        let known = self.index_set(present.iter().take(self.data).map(|&(index, _)| index), IndexSet::default())?;
        let all_present = self.index_set(present.iter().skip(self.data).map(|&(index, _)| index), known)?;
        let wanted = self.index_set(missing.iter().map(|&(index, _)| index), IndexSet::default())?;
        if let Some(&(index, _)) = missing.iter().find(|&&(index, _)| all_present.contains(index)) {
            return Err(CodeError::Duplicate { index });
        }
        let present_lengths = present.iter().map(|(index, shard)| (*index, shard.len()));
        check_lengths(present_lengths.chain(missing.iter().map(|(index, shard)| (*index, shard.len()))))?;
        Ok(Pattern { known, wanted })
    }

    /// `set` with these indexes added, each in range and new.
    fn index_set(&self, indexes: impl Iterator<Item = usize>, mut set: IndexSet) -> Result<IndexSet, CodeError> {
        for index in indexes {
            if index >= self.shards() {
                return Err(CodeError::Index { index, shards: self.shards() });
            }
            if !set.insert(index) {
                return Err(CodeError::Duplicate { index });
            }
        }
        Ok(set)
    }
}

/// Requires (index, length) pairs to agree with the first on the length.
fn check_lengths(mut shards: impl Iterator<Item = (usize, usize)>) -> Result<(), CodeError> {
    let Some((_, expected)) = shards.next() else {
        return Ok(());
    };
    match shards.find(|&(_, length)| length != expected) {
        Some((index, found)) => Err(CodeError::Length { index, expected, found }),
        None => Ok(()),
    }
}

/// Input that cannot be coded. All of these are the caller's to fix; trying again changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodeError {
    /// No such code.
    #[error("no {data}+{parity} code: at least 1 data and 1 parity shard are needed, and at most 256 together")]
    Shape {
        /// Data shards asked for.
        data: usize,
        /// Parity shards asked for.
        parity: usize,
    },
    /// This processor lacks the instructions.
    #[error("this processor cannot run the {kernel} kernel: choose one of Kernel::available()")]
    KernelUnavailable {
        /// The kernel asked for.
        kernel: Kernel,
    },
    /// Not as many shards as the code has.
    #[error("{given} {role} shards given to a code that has {expected}")]
    Count {
        /// "data" or "parity".
        role: &'static str,
        /// Shards the code has in this role.
        expected: usize,
        /// Shards given.
        given: usize,
    },
    /// Shards of one stripe that differ in length.
    #[error("shard {index} has {found} bytes where the first has {expected}: all shards of a stripe are equally long")]
    Length {
        /// Index of the shard that differs from the first.
        index: usize,
        /// Bytes of the first shard.
        expected: usize,
        /// Bytes of this shard.
        found: usize,
    },
    /// An index the code does not have.
    #[error("shard index {index} is out of range: this code has shards 0 to {}", shards - 1)]
    Index {
        /// The index given.
        index: usize,
        /// Shards of the code.
        shards: usize,
    },
    /// An index given twice.
    #[error("shard {index} was given twice: each shard is either present or missing, once")]
    Duplicate {
        /// The index.
        index: usize,
    },
    /// Fewer shards than it takes.
    #[error("{present} shards are present and {needed} are needed: the missing ones cannot be computed")]
    TooFew {
        /// Shards given.
        present: usize,
        /// Shards needed (k).
        needed: usize,
    },
}
