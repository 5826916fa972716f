//! Reed–Solomon over GF(2⁸): k data shards become k+m shards, any k of which give back the rest.
//!
//! It computes and nothing else: no I/O, no threads, no notion of what a shard holds or whether it is genuine (that is
//! `atoll-codec`'s work: a tampered shard must be thrown out *before* it comes here, for an erasure code repairs what
//! is known to be missing, it does not notice what is wrong).
//!
//! # The code
//!
//! Bytes are elements of GF(2⁸) = GF(2)\[x\] / (x⁸+x⁴+x³+x²+1), written 0x11d. Take the bytes at one position of the k
//! data shards as the values of a polynomial of degree below k at the points 0, 1, …, k-1; then the byte of shard i at
//! that position is its value at the point i, for all i < k+m ≤ 256. The code is systematic (a data shard is itself),
//! and because k values at distinct points determine such a polynomial, *any* k shards determine all others: it is
//! maximum distance separable.
//!
//! By Lagrange's formula the value at a point t is a linear combination of the values at k known points p, with the
//! coefficients
//!
//! ```text
//!                 (t - q)           N(t)
//!   L_p(t) =  ∏   ———————  =  ———————————————— ,   N(t) = ∏ (t - q),   W(p) = ∏ (p - q)
//!            q≠p  (p - q)      (t - p) · W(p)             q            q≠p
//! ```
//!
//! which is a Cauchy matrix 1/(t - p) with scaled rows and columns. Encoding and reconstruction are therefore one
//! operation with different points, no matrix is ever inverted, and a lost parity shard is computed from any k
//! survivors directly. The parity is, byte for byte, that of the "Vandermonde times the inverse of its top square"
//! matrix of `reed-solomon-erasure` (the tests compare), Backblaze's JavaReedSolomon and klauspost/reedsolomon.
//!
//! # Kernels
//!
//! All the work is `outputs = matrix × inputs`, done by the fastest [`Kernel`] the processor has, chosen at run time.
//! Every kernel gives the same bytes.
//!
//! Shards may start anywhere; those that start at a multiple of 64 are coded some 10 % faster. Figures are in
//! `docs/benchmarks.md`.
//!
//! # Failure
//!
//! Input that cannot be coded (counts, lengths, indexes) is a [`CodeError`]; outputs are then untouched. Nothing
//! panics.
//!
//! # Example
//!
//! ```
//! use atoll_erasure::{Code, CodeError};
//!
//! let code = Code::new(2, 1)?;
//! let (a, b, mut parity) = (*b"left", *b"rite", [0; 4]);
//! code.encode(&[&a, &b], &mut [&mut parity])?;
//!
//! let mut found = [0; 4];
//! code.reconstruct(&[(2, &parity), (1, &b)], &mut [(0, &mut found)])?;
//! assert_eq!(found, a);
//! # Ok::<(), CodeError>(())
//! ```

mod cache;
mod code;
mod field;
mod kernel;

pub use code::{Code, CodeError};
pub use kernel::Kernel;
