//! Every available kernel against plain arithmetic in the field, against `reed-solomon-erasure`, and against bad input.

#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_erasure::{Code, CodeError, Kernel};
use proptest::prelude::*;
use proptest::sample::Index;
use reed_solomon_erasure::galois_8::ReedSolomon;

/// Lengths around every vector width, block and tile there is.
const LENGTHS: [usize; 24] =
    [0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 1023, 4096, 4097, 20_011];

/// Reproducible bytes that look random (xorshift64*).
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// k data shards and m parity shards of rubbish, to be overwritten.
fn stripe(data: usize, parity: usize, length: usize, seed: u64) -> Vec<Vec<u8>> {
    (0..data + parity).map(|index| bytes(seed + 1000 * index as u64, length)).collect()
}

/// Encodes in place with `code`.
fn encode(code: &Code, shards: &mut [Vec<u8>]) {
    let (data, parity) = shards.split_at_mut(code.data_shards());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    code.encode(&data, &mut parity).unwrap();
}

/// The stripe encoded by `reed-solomon-erasure`.
fn encoded_by_reference(data: usize, parity: usize, length: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut shards = stripe(data, parity, length, seed);
    if length > 0 {
        ReedSolomon::new(data, parity).unwrap().encode(&mut shards).unwrap();
    }
    shards
}

/// Computes `missing` from `present` and compares with the whole stripe.
fn recover(code: &Code, whole: &[Vec<u8>], present: &[usize], missing: &[usize]) {
    let given: Vec<(usize, &[u8])> = present.iter().map(|&index| (index, whole[index].as_slice())).collect();
    let mut found: Vec<Vec<u8>> = missing.iter().map(|&index| bytes(index as u64, whole[index].len())).collect();
    let mut wanted: Vec<(usize, &mut [u8])> =
        missing.iter().copied().zip(found.iter_mut().map(Vec::as_mut_slice)).collect();
    code.reconstruct(&given, &mut wanted).unwrap();
    for (index, shard) in missing.iter().zip(&found) {
        assert!(shard == &whole[*index], "{}: shard {index} from {present:?}", code.kernel());
    }
}

#[test]
fn parity_is_that_of_reed_solomon_erasure_at_every_length() {
    for (data, parity) in [(1, 1), (4, 2), (5, 3), (10, 4), (3, 7), (16, 9)] {
        for length in LENGTHS {
            let expected = encoded_by_reference(data, parity, length, 7);
            for kernel in Kernel::available() {
                let code = Code::with_kernel(data, parity, kernel).unwrap();
                let mut shards = stripe(data, parity, length, 7);
                encode(&code, &mut shards);
                assert!(shards == expected, "{kernel}: {data}+{parity}, {length} bytes");
            }
        }
    }
}

#[test]
fn the_largest_codes_work() {
    for (data, parity) in [(255, 1), (1, 255), (128, 128), (64, 32)] {
        let expected = encoded_by_reference(data, parity, 131, 3);
        for kernel in Kernel::available() {
            let code = Code::with_kernel(data, parity, kernel).unwrap();
            let mut shards = stripe(data, parity, 131, 3);
            encode(&code, &mut shards);
            assert!(shards == expected, "{kernel}: {data}+{parity}");
            let lost: Vec<usize> = (0..data.min(parity)).collect();
            let left: Vec<usize> = (data.min(parity)..data + parity).collect();
            recover(&code, &shards, &left, &lost);
        }
    }
}

#[test]
fn any_k_shards_of_a_small_code_give_all_others() {
    let (data, parity) = (4, 3);
    let whole = encoded_by_reference(data, parity, 100, 11);
    for kernel in Kernel::available() {
        let code = Code::with_kernel(data, parity, kernel).unwrap();
        for mask in 0..1_u32 << (data + parity) {
            let (present, missing): (Vec<usize>, Vec<usize>) =
                (0..data + parity).partition(|index| mask >> index & 1 == 1);
            if present.len() >= data {
                recover(&code, &whole, &present, &missing);
            }
        }
    }
}

#[test]
fn more_erasure_patterns_than_the_cache_holds() {
    let whole = encoded_by_reference(10, 4, 64, 5);
    let code = Code::new(10, 4).unwrap();
    for _ in 0..2 {
        for a in 0..14 {
            for b in 0..a {
                let present: Vec<usize> = (0..14).filter(|index| ![a, b].contains(index)).collect();
                recover(&code, &whole, &present, &[a, b]);
            }
        }
    }
}

#[test]
fn threads_share_a_code() {
    let whole = encoded_by_reference(6, 3, 777, 2);
    let code = Code::new(6, 3).unwrap();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (whole, code) = (&whole, &code);
            scope.spawn(move || {
                for lost in (first..9).chain(0..first) {
                    let present: Vec<usize> = (0..9).filter(|&index| index != lost).collect();
                    recover(code, whole, &present, &[lost]);
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any code, any length, any erasures, shards in any order and at any alignment.
    #[test]
    fn what_is_lost_is_found(
        data in 1_usize..40,
        parity in 1_usize..20,
        length in prop_oneof![0_usize..300, proptest::sample::select(LENGTHS.to_vec()), 0_usize..9000],
        seed in 0_u64..1 << 32,
        order in proptest::collection::vec(any::<Index>(), 60),
        computed in 1_usize..20,
    ) {
        let whole = encoded_by_reference(data, parity, length, seed);
        let mut indexes: Vec<usize> = (0..data + parity).collect();
        for (at, pick) in order.iter().enumerate().take(data + parity) {
            let other = pick.index(data + parity);
            indexes.swap(at, other);
        }
        let (present, missing) = indexes.split_at(data);
        for kernel in Kernel::available() {
            let code = Code::with_kernel(data, parity, kernel).unwrap();
            let mut shards = stripe(data, parity, length, seed);
            encode(&code, &mut shards);
            prop_assert!(shards == whole, "{}", kernel);
            recover(&code, &whole, present, &missing[..computed.min(parity)]);
        }
    }

    /// Slices that start anywhere, with guards on both sides that must stay as they are.
    #[test]
    fn nothing_outside_the_shards_is_written(
        offset in 0_usize..64,
        length in 0_usize..700,
        data in 1_usize..12,
        parity in 1_usize..12,
    ) {
        let whole = encoded_by_reference(data, parity, length, 9);
        for kernel in Kernel::available() {
            let code = Code::with_kernel(data, parity, kernel).unwrap();
            let shifted = |shard: &Vec<u8>| [&vec![1; offset], shard.as_slice()].concat();
            let inputs: Vec<Vec<u8>> = whole[..data].iter().map(shifted).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(|shard| &shard[offset..]).collect();
            let mut outputs = vec![vec![0xa5; offset + length + 64]; parity];
            let mut slices: Vec<&mut [u8]> =
                outputs.iter_mut().map(|shard| &mut shard[offset..offset + length]).collect();
            code.encode(&inputs, &mut slices).unwrap();
            for (output, expected) in outputs.iter().zip(&whole[data..]) {
                prop_assert!(output[offset..offset + length] == **expected);
                prop_assert!(output[..offset].iter().chain(&output[offset + length..]).all(|&byte| byte == 0xa5));
            }
        }
    }

    /// Whatever is handed in, it is an answer or an error.
    #[test]
    fn rubbish_never_panics(
        data in 1_usize..5,
        parity in 1_usize..5,
        present in proptest::collection::vec((0_usize..11, 0_usize..3), 0..10),
        missing in proptest::collection::vec((0_usize..11, 0_usize..3), 0..10),
    ) {
        let bytes = [0; 3];
        let code = Code::new(data, parity).unwrap();
        let present: Vec<(usize, &[u8])> =
            present.into_iter().map(|(index, length)| (index, &bytes[..length])).collect();
        let mut room = [[0; 3]; 10];
        let mut missing: Vec<(usize, &mut [u8])> =
            missing.into_iter().zip(&mut room).map(|((index, length), room)| (index, &mut room[..length])).collect();
        let _ = code.reconstruct(&present, &mut missing);
        let inputs: Vec<&[u8]> = present.iter().map(|(_, shard)| *shard).collect();
        let mut outputs: Vec<&mut [u8]> = missing.iter_mut().map(|(_, shard)| &mut **shard).collect();
        let _ = code.encode(&inputs, &mut outputs);
    }
}

#[test]
fn impossible_codes_are_refused() {
    for (data, parity) in [(0, 1), (1, 0), (0, 0), (256, 1), (200, 57), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(Code::new(data, parity).unwrap_err(), CodeError::Shape { data, parity });
    }
    assert!(Code::new(255, 1).is_ok());
}

#[test]
fn kernels_of_other_processors_are_refused() {
    let all = [Kernel::Gfni512, Kernel::Gfni256, Kernel::Avx2, Kernel::Neon, Kernel::Portable];
    let available = Kernel::available();
    assert_eq!(available.first(), Some(&Kernel::detect()));
    assert_eq!(available.last(), Some(&Kernel::Portable));
    for kernel in all {
        let code = Code::with_kernel(2, 1, kernel);
        assert_eq!(code.is_ok(), available.contains(&kernel), "{kernel}");
        assert!(code.is_ok_and(|code| code.kernel() == kernel) || !available.contains(&kernel));
    }
}

#[test]
fn bad_input_to_encode_is_refused_and_nothing_written() {
    let long = [1; 9];
    let check = |data: &[usize], parity: &[usize], expected: CodeError| {
        let code = Code::new(2, 2).unwrap();
        let data: Vec<&[u8]> = data.iter().map(|&length| &long[..length]).collect();
        let mut room = [[7; 9]; 4];
        let mut parity: Vec<&mut [u8]> =
            parity.iter().zip(&mut room).map(|(&length, room)| &mut room[..length]).collect();
        assert_eq!(code.encode(&data, &mut parity), Err(expected));
        assert_eq!(room, [[7; 9]; 4]);
    };
    check(&[8], &[8, 8], CodeError::Count { role: "data", expected: 2, given: 1 });
    check(&[8, 8, 8], &[8, 8], CodeError::Count { role: "data", expected: 2, given: 3 });
    check(&[8, 8], &[], CodeError::Count { role: "parity", expected: 2, given: 0 });
    check(&[8, 8], &[8, 8, 8], CodeError::Count { role: "parity", expected: 2, given: 3 });
    check(&[8, 9], &[8, 8], CodeError::Length { index: 1, expected: 8, found: 9 });
    check(&[8, 8], &[8, 0], CodeError::Length { index: 3, expected: 8, found: 0 });
}

#[test]
fn bad_input_to_reconstruct_is_refused_and_nothing_written() {
    let long = [1; 9];
    let check = |present: &[(usize, usize)], missing: &[(usize, usize)], expected: CodeError| {
        let code = Code::new(2, 2).unwrap();
        let present: Vec<(usize, &[u8])> = present.iter().map(|&(index, length)| (index, &long[..length])).collect();
        let mut room = [[7; 9]; 4];
        let mut missing: Vec<(usize, &mut [u8])> =
            missing.iter().zip(&mut room).map(|(&(index, length), room)| (index, &mut room[..length])).collect();
        assert_eq!(code.reconstruct(&present, &mut missing), Err(expected));
        assert_eq!(room, [[7; 9]; 4]);
    };
    check(&[], &[(0, 8)], CodeError::TooFew { present: 0, needed: 2 });
    check(&[(1, 8)], &[(0, 8)], CodeError::TooFew { present: 1, needed: 2 });
    check(&[(1, 8), (1, 8)], &[(0, 8)], CodeError::Duplicate { index: 1 });
    check(&[(1, 8), (2, 8), (1, 8)], &[(0, 8)], CodeError::Duplicate { index: 1 });
    check(&[(1, 8), (2, 8)], &[(0, 8), (0, 8)], CodeError::Duplicate { index: 0 });
    check(&[(1, 8), (2, 8)], &[(2, 8)], CodeError::Duplicate { index: 2 });
    check(&[(1, 8), (2, 8), (3, 8)], &[(3, 8)], CodeError::Duplicate { index: 3 });
    check(&[(1, 8), (4, 8)], &[(0, 8)], CodeError::Index { index: 4, shards: 4 });
    check(&[(1, 8), (2, 8)], &[(usize::MAX, 8)], CodeError::Index { index: usize::MAX, shards: 4 });
    check(&[(1, 8), (2, 9)], &[(0, 8)], CodeError::Length { index: 2, expected: 8, found: 9 });
    check(&[(1, 8), (2, 8)], &[(0, 8), (3, 7)], CodeError::Length { index: 3, expected: 8, found: 7 });
}

#[test]
fn nothing_missing_is_nothing_to_do() {
    let code = Code::new(2, 2).unwrap();
    assert_eq!(code.reconstruct(&[(3, b"ab"), (0, b"cd")], &mut []), Ok(()));
}

#[test]
fn errors_say_what_and_what_to_do() {
    let check = |error: CodeError, text: &str| assert_eq!(error.to_string(), text);
    check(
        CodeError::Shape { data: 300, parity: 4 },
        "no 300+4 code: at least 1 data and 1 parity shard are needed, and at most 256 together",
    );
    check(
        CodeError::TooFew { present: 3, needed: 4 },
        "3 shards are present and 4 are needed: the missing ones cannot be computed",
    );
    check(CodeError::Index { index: 9, shards: 6 }, "shard index 9 is out of range: this code has shards 0 to 5");
}
