//! The implementations the benches compare, each doing the same work on the same memory.
//!
//! All but `reed-solomon-simd` (another code, over GF(2¹⁶)) are given the same matrices and must produce the same
//! bytes; [`Work::check`] sees to it. What can be prepared outside the loop is: ISA-L's tables and pointers are, also
//! those of the decode matrix, which our own code and `reed-solomon-erasure` look up in their caches every time.
//! `reed-solomon-simd` copies shards in and out, as its interface asks.

use std::ffi::{c_int, c_uchar};
use std::fmt;
use std::ops::Range;

use atoll_erasure::{Code, Kernel};
use libloading::Library;
use reed_solomon_erasure::galois_8::ReedSolomon;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Debian's package `libisal2`.
const ISAL_SYSTEM: &str = "libisal.so.2";

/// Path of another ISA-L to compare with.
const ISAL_VARIABLE: &str = "ATOLL_ISAL";

/// A code and a shard size to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Data shards.
    pub(crate) data: usize,
    /// Parity shards, and data shards lost in decoding.
    pub(crate) parity: usize,
    /// Bytes of a shard.
    pub(crate) length: usize,
    /// What this size stands for.
    pub(crate) size: &'static str,
}

impl Case {
    /// Codes times sizes.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for (data, parity) in [(4, 2), (10, 4), (16, 4)] {
            // Even, for `reed-solomon-simd` works on 16-bit symbols.
            let of_stripe = |bytes: usize| bytes.div_ceil(data).next_multiple_of(2);
            for (length, size) in [
                (of_stripe(64 << 10), "64 KiB stripe"),
                (16 << 10, "16 KiB shards"),
                (of_stripe(1 << 20), "1 MiB stripe"),
            ] {
                cases.push(Self { data, parity, length, size });
            }
        }
        cases
    }

    /// Bytes of data that one operation covers.
    pub(crate) fn bytes(&self) -> usize {
        self.data * self.length
    }
}

/// Encode, or compute the first m data shards from all other shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// All parity from all data.
    Encode,
    /// The first m data shards from the rest.
    Decode,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Encode { "encode" } else { "decode" })
    }
}

/// A stripe in memory, every shard aligned to 64 bytes.
pub(crate) struct Work {
    pub(crate) case: Case,
    shards: Vec<Aligned>,
}

struct Aligned {
    bytes: Vec<u8>,
    range: Range<usize>,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + 63];
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, range: start..start + length }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

impl Work {
    /// An encoded stripe.
    pub(crate) fn new(case: Case) -> Self {
        let mut shards: Vec<Aligned> = (0..case.data + case.parity).map(|_| Aligned::new(case.length)).collect();
        let mut state = 0x9e37_79b9_u32;
        for byte in shards[..case.data].iter_mut().flat_map(Aligned::get_mut) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        let mut work = Self { case, shards };
        Ours::new(case, Kernel::Portable).run(Operation::Encode, &mut work, 1);
        work
    }

    fn split(&mut self, at: usize) -> (Vec<&mut [u8]>, Vec<&mut [u8]>) {
        let (left, right) = self.shards.split_at_mut(at);
        (left.iter_mut().map(Aligned::get_mut).collect(), right.iter_mut().map(Aligned::get_mut).collect())
    }

    /// Lets `contender` run once over overwritten outputs and panics unless the stripe is as before.
    pub(crate) fn check(&mut self, contender: &mut dyn Contender, operation: Operation) {
        let before: Vec<Vec<u8>> = self.shards.iter().map(|shard| shard.get().to_vec()).collect();
        let Case { data, parity, .. } = self.case;
        let outputs = if operation == Operation::Encode { data..data + parity } else { 0..parity };
        self.shards[outputs].iter_mut().for_each(|shard| shard.get_mut().fill(0x5a));
        contender.run(operation, self, 1);
        let same = self.shards.iter().zip(&before).all(|(shard, before)| shard.get() == before);
        assert!(same, "{} gives other bytes", contender.name());
    }
}

/// One implementation, prepared for one case.
pub(crate) trait Contender {
    /// What to call it in a table.
    fn name(&self) -> String;

    /// Does the operation `times` times.
    fn run(&mut self, operation: Operation, work: &mut Work, times: u32);

    /// Whether [`Work::check`] applies.
    fn same_code(&self) -> bool {
        true
    }
}

/// All contenders on this machine, ours first.
pub(crate) fn all(case: Case) -> Vec<Box<dyn Contender>> {
    let mut contenders: Vec<Box<dyn Contender>> = vec![Box::new(Ours::new(case, Kernel::detect()))];
    // The system's first: glibc answers a bare soname with any library of that soname that is already loaded, whatever
    // its path.
    let system = Some(("ISA-L (Debian)", ISAL_SYSTEM.to_owned()));
    let other = std::env::var(ISAL_VARIABLE).ok().map(|path| ("ISA-L ($ATOLL_ISAL)", path));
    for (name, path) in [system, other].into_iter().flatten() {
        match Isal::new(case, name, &path) {
            Ok(isal) => contenders.push(Box::new(isal)),
            Err(error) => eprintln!("{name} is left out: {error}"),
        }
    }
    contenders.push(Box::new(Erasure::new(case)));
    contenders.push(Box::new(Simd::new(case)));
    contenders
}

/// This crate.
pub(crate) struct Ours {
    code: Code,
}

impl Ours {
    /// On a chosen kernel.
    pub(crate) fn new(case: Case, kernel: Kernel) -> Self {
        Self { code: Code::with_kernel(case.data, case.parity, kernel).expect("cases are valid codes") }
    }
}

impl Contender for Ours {
    fn name(&self) -> String {
        format!("atoll-erasure ({})", self.code.kernel())
    }

    fn run(&mut self, operation: Operation, work: &mut Work, times: u32) {
        let Case { data, parity, .. } = work.case;
        match operation {
            Operation::Encode => {
                let (inputs, mut outputs) = work.split(data);
                let inputs: Vec<&[u8]> = inputs.into_iter().map(|shard| &*shard).collect();
                for _ in 0..times {
                    self.code.encode(&inputs, &mut outputs).expect("a whole stripe");
                }
            }
            Operation::Decode => {
                let (lost, left) = work.split(parity);
                let left: Vec<(usize, &[u8])> = (parity..).zip(left.into_iter().map(|shard| &*shard)).collect();
                let mut lost: Vec<(usize, &mut [u8])> = lost.into_iter().enumerate().collect();
                for _ in 0..times {
                    self.code.reconstruct(&left, &mut lost).expect("k shards are left");
                }
            }
        }
    }
}

/// Intel's library, loaded at run time.
struct Isal {
    name: &'static str,
    encode_data: EncodeData,
    encode_tables: Vec<u8>,
    decode_tables: Vec<u8>,
    _library: Library,
}

/// `void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *gftbls)`
type InitTables = unsafe extern "C" fn(c_int, c_int, *const c_uchar, *mut c_uchar);

/// `void ec_encode_data(int len, int k, int rows, unsigned char *gftbls, unsigned char **data, unsigned char **coding)`
type EncodeData = unsafe extern "C" fn(c_int, c_int, c_int, *const c_uchar, *const *const c_uchar, *const *mut c_uchar);

impl Isal {
    fn new(case: Case, name: &'static str, path: &str) -> Result<Self, libloading::Error> {
        // SAFETY: ISA-L has no initializers that run on load; the two functions have the types of its header
        // erasure_code.h.
        let (library, init_tables, encode_data) = unsafe {
            let library = Library::new(path)?;
            let init_tables = *library.get::<InitTables>(b"ec_init_tables\0")?;
            let encode_data = *library.get::<EncodeData>(b"ec_encode_data\0")?;
            (library, init_tables, encode_data)
        };
        let (encode, decode) = matrices(case);
        let tables = |matrix: &[u8]| {
            let mut tables = vec![0; 32 * matrix.len()];
            // SAFETY: the matrix has rows × k bytes and the tables 32 times that, as the header asks.
            unsafe {
                init_tables(case.data as c_int, case.parity as c_int, matrix.as_ptr(), tables.as_mut_ptr());
            }
            tables
        };
        Ok(Self {
            name,
            encode_data,
            encode_tables: tables(&encode),
            decode_tables: tables(&decode),
            _library: library,
        })
    }
}

impl Contender for Isal {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn run(&mut self, operation: Operation, work: &mut Work, times: u32) {
        let Case { data, parity, length, .. } = work.case;
        let (inputs, outputs, tables) = match operation {
            Operation::Encode => {
                let (inputs, outputs) = work.split(data);
                (inputs, outputs, &self.encode_tables)
            }
            Operation::Decode => {
                let (outputs, inputs) = work.split(parity);
                (inputs, outputs, &self.decode_tables)
            }
        };
        let inputs: Vec<*const u8> = inputs.into_iter().map(|shard| shard.as_ptr()).collect();
        let outputs: Vec<*mut u8> = outputs.into_iter().map(|shard| shard.as_mut_ptr()).collect();
        for _ in 0..times {
            // SAFETY: k inputs and m outputs of `length` bytes, none overlapping, and tables made for k and m.
            unsafe {
                (self.encode_data)(
                    length as c_int,
                    data as c_int,
                    parity as c_int,
                    tables.as_ptr(),
                    inputs.as_ptr(),
                    outputs.as_ptr(),
                );
            }
        }
    }
}

/// Our encode and decode matrices, read off from what the code does to unit vectors.
fn matrices(case: Case) -> (Vec<u8>, Vec<u8>) {
    let Case { data, parity, .. } = case;
    let code = Code::with_kernel(data, parity, Kernel::Portable).expect("cases are valid codes");
    let unit = |index: usize| (0..data).map(|at| u8::from(at == index)).collect::<Vec<u8>>();
    let units: Vec<Vec<u8>> = (0..data).map(unit).collect();
    let units: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
    let mut encode = vec![vec![0; data]; parity];
    let mut rows: Vec<&mut [u8]> = encode.iter_mut().map(Vec::as_mut_slice).collect();
    code.encode(&units, &mut rows).expect("a whole stripe");
    let left: Vec<(usize, &[u8])> = (parity..).zip(units).collect();
    let mut decode = vec![vec![0; data]; parity];
    let mut rows: Vec<(usize, &mut [u8])> = decode.iter_mut().map(Vec::as_mut_slice).enumerate().collect();
    code.reconstruct(&left, &mut rows).expect("k shards are left");
    (encode.concat(), decode.concat())
}

/// `reed-solomon-erasure` with its C kernels.
struct Erasure {
    code: ReedSolomon,
}

impl Erasure {
    fn new(case: Case) -> Self {
        Self { code: ReedSolomon::new(case.data, case.parity).expect("cases are valid codes") }
    }
}

impl Contender for Erasure {
    fn name(&self) -> String {
        "reed-solomon-erasure (simd-accel)".to_owned()
    }

    fn run(&mut self, operation: Operation, work: &mut Work, times: u32) {
        let Case { data, parity, .. } = work.case;
        match operation {
            Operation::Encode => {
                let (inputs, mut outputs) = work.split(data);
                for _ in 0..times {
                    self.code.encode_sep(&inputs, &mut outputs).expect("a whole stripe");
                }
            }
            Operation::Decode => {
                let (lost, left) = work.split(parity);
                let mut shards: Vec<(&mut [u8], bool)> =
                    lost.into_iter().chain(left).map(|shard| (shard, true)).collect();
                for _ in 0..times {
                    shards[..parity].iter_mut().for_each(|(_, present)| *present = false);
                    self.code.reconstruct_data(&mut shards).expect("k shards are left");
                }
            }
        }
    }
}

/// `reed-solomon-simd`: O(n log n), for codes of thousands of shards.
struct Simd {
    encoder: ReedSolomonEncoder,
    decoder: ReedSolomonDecoder,
    parity: Vec<Vec<u8>>,
}

impl Simd {
    fn new(case: Case) -> Self {
        let Case { data, parity, length, .. } = case;
        Self {
            encoder: ReedSolomonEncoder::new(data, parity, length).expect("cases are valid codes"),
            decoder: ReedSolomonDecoder::new(data, parity, length).expect("cases are valid codes"),
            parity: vec![vec![0; length]; parity],
        }
    }

    fn encode(&mut self, work: &mut Work) {
        let (inputs, outputs) = work.split(work.case.data);
        for input in inputs {
            self.encoder.add_original_shard(input).expect("k shards of one length");
        }
        let result = self.encoder.encode().expect("k shards were added");
        for (output, parity) in outputs.into_iter().zip(result.recovery_iter()) {
            output.copy_from_slice(parity);
        }
    }
}

impl Contender for Simd {
    fn name(&self) -> String {
        "reed-solomon-simd".to_owned()
    }

    fn same_code(&self) -> bool {
        false
    }

    fn run(&mut self, operation: Operation, work: &mut Work, times: u32) {
        let Case { data, parity, .. } = work.case;
        if operation == Operation::Encode {
            return (0..times).for_each(|_| self.encode(work));
        }
        if self.parity[0].iter().all(|&byte| byte == 0) {
            self.encode(work);
            let (_, encoded) = work.split(data);
            self.parity = encoded.into_iter().map(|shard| shard.to_vec()).collect();
        }
        for _ in 0..times {
            let (lost, left) = work.split(parity);
            for (index, shard) in (parity..data).zip(left) {
                self.decoder.add_original_shard(index, shard).expect("one length");
            }
            for (index, shard) in self.parity.iter().enumerate() {
                self.decoder.add_recovery_shard(index, shard).expect("one length");
            }
            let result = self.decoder.decode().expect("k shards were added");
            for (shard, (_, restored)) in lost.into_iter().zip(result.restored_original_iter()) {
                shard.copy_from_slice(restored);
            }
        }
    }
}
