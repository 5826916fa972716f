//! What was sealed opens again: every policy, size and kind of data, from every sufficient set of shards.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;

use atoll_codec::{
    BufferPool, Codec, ObjectKey, OpenError, Opener, Policy, RebuildError, STRIPE_BYTES, SealedStripe, Sealer,
};
use bytes::Bytes;
use proptest::prelude::*;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line: u32| format!("line {line} of a file that compresses\n").into_bytes());
    lines.take(len).collect()
}

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

fn pair(policy: Policy) -> (Sealer, Opener) {
    let (codec, key) = (Codec::new(policy), ObjectKey::generate());
    let sealer = codec.sealer(&key);
    let opener = codec.opener(&key, sealer.salt());
    (sealer, opener)
}

fn seal(sealer: &Sealer, plain: &[u8]) -> SealedStripe {
    sealer.seal(sealer.next().unwrap(), plain).unwrap()
}

/// Shards of a stripe but for those in the bit set `lost`.
fn without(stripe: &SealedStripe, lost: u128) -> Vec<(usize, Bytes)> {
    stripe.shards.iter().cloned().enumerate().filter(|(index, _)| lost >> index & 1 == 0).collect()
}

/// Every way to lose `count` of `of` shards.
fn patterns(of: usize, count: usize) -> impl Iterator<Item = u128> {
    (0u128..1 << of).filter(move |pattern| pattern.count_ones() as usize == count)
}

#[test]
fn every_erasure_pattern_opens_and_rebuilds() {
    for (name, lens) in [("1+1", [1, 70]), ("2+1", [2, 20_001]), ("4+2", [5, 70_000]), ("10+4", [99, 50_000])] {
        let (sealer, opener) = pair(policy(name));
        let (k, m) = (opener.policy().data(), opener.policy().parity());
        for plain in [noise(lens[0], 1), text(lens[1]), noise(lens[1], 2)] {
            let stripe = seal(&sealer, &plain);
            for lost in (0..=m).flat_map(|count| patterns(k + m, count)) {
                let left = without(&stripe, lost);
                assert_eq!(opener.open(&stripe.record, &left).unwrap(), plain, "{name} without {lost:b}");
                let missing: Vec<usize> = (0..k + m).rev().filter(|index| lost >> index & 1 == 1).collect();
                let rebuilt = opener.rebuild(&stripe.record, &left, &missing).unwrap();
                assert_eq!(rebuilt.len(), missing.len());
                for (index, shard) in missing.into_iter().zip(rebuilt) {
                    assert_eq!(shard, stripe.shards[index], "{name} shard {index} without {lost:b}");
                }
            }
            for lost in patterns(k + m, m + 1) {
                let left = without(&stripe, lost);
                let error = opener.open(&stripe.record, &left).unwrap_err();
                assert_eq!(error, OpenError::TooFewShards { counter: stripe.record.counter(), have: k - 1, need: k });
            }
        }
    }
}

#[test]
fn sizes_around_every_boundary() {
    let kinds = |len| [noise(len, 3), text(len), vec![0; len]];
    let lens =
        [1, 2, 3, 4, 63, 64, 65, 255, 256, 4095, 4096, 16_383, 16_384, 16_385, 131_071, STRIPE_BYTES - 1, STRIPE_BYTES];
    for name in ["1+1", "4+2", "10+4", "16+4", "64+32"] {
        let (sealer, opener) = pair(policy(name));
        let (k, m) = (opener.policy().data(), opener.policy().parity());
        for plain in lens.into_iter().flat_map(kinds) {
            let stripe = seal(&sealer, &plain);
            let shard_len = stripe.record.shard_len(opener.policy()).unwrap();
            assert_eq!(stripe.shards.len(), k + m);
            assert!(stripe.shards.iter().all(|shard| shard.len() == shard_len));
            let sealed_len = stripe.record.sealed_len() as usize;
            assert!(sealed_len <= plain.len() && shard_len * k >= sealed_len);
            assert!(shard_len * k <= sealed_len + k.max(sealed_len / 60), "no more padding than rounding up costs");
            assert_eq!(stripe.record.plain_len() as usize, plain.len());
            assert_eq!(opener.open(&stripe.record, &without(&stripe, 0)).unwrap(), plain);
            // The first m shards lost, which takes the most decoding.
            assert_eq!(opener.open(&stripe.record, &without(&stripe, (1 << m.min(k)) - 1)).unwrap(), plain);
        }
    }
}

#[test]
fn text_is_compressed_and_noise_is_not() {
    let (sealer, opener) = pair(policy("4+2"));
    let stripe = seal(&sealer, &text(STRIPE_BYTES));
    assert!(stripe.record.is_compressed() && stripe.record.sealed_len() < STRIPE_BYTES as u32 / 4);
    assert!(stripe.shards[0].len() < STRIPE_BYTES / 16);
    let stripe = seal(&sealer, &noise(STRIPE_BYTES, 4));
    assert!(!stripe.record.is_compressed());
    assert_eq!(stripe.record.shard_len(opener.policy()).unwrap(), STRIPE_BYTES / 4);
    assert!(postcard::to_stdvec(&stripe.record).unwrap().len() <= 30 + 6 * 16);
}

#[test]
fn shards_and_ids_tell_nothing_apart() {
    let policy = policy("2+1");
    let key = ObjectKey::generate();
    let (one, two) = (Sealer::new(&key, policy), Sealer::new(&key, policy));
    let plain = noise(1000, 5);
    let stripes = [seal(&one, &plain), seal(&one, &plain), seal(&two, &plain)];
    let shards: HashSet<&Bytes> = stripes.iter().flat_map(|stripe| &stripe.shards).collect();
    assert_eq!(shards.len(), 9, "the same plaintext never gives the same shard");
    let ids: HashSet<_> = stripes.iter().flat_map(|stripe| &stripe.ids).collect();
    assert_eq!(ids.len(), 9);
    let opener = Opener::new(&key, one.salt(), policy);
    assert_eq!(stripes[1].ids, [0, 1, 2].map(|index| opener.shard_id(1, index)));
    assert_eq!(stripes[1].ids, [0, 1, 2].map(|index| one.shard_id(1, index)));
}

#[test]
fn threads_seal_and_open_at_once() {
    let (sealer, opener) = pair(policy("4+2"));
    let slots: Vec<_> = (0..24).map(|_| sealer.next().unwrap()).collect();
    let plain = |counter: u32| {
        if counter.is_multiple_of(2) { noise(100_000, counter.into()) } else { text(100_000 + counter as usize) }
    };
    let work = std::sync::Mutex::new(slots);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(slot) = work.lock().unwrap().pop() else { return };
                    let counter = slot.counter();
                    let stripe = sealer.seal(slot, &plain(counter)).unwrap();
                    assert_eq!(stripe.record.counter(), counter);
                    assert_eq!(opener.open(&stripe.record, &without(&stripe, 3)).unwrap(), plain(counter));
                }
            });
        }
    });
}

#[test]
fn buffers_are_reused_and_never_show_what_they_held() {
    let pool = BufferPool::default();
    let codec = Codec::with_pool(policy("4+2"), pool.clone());
    let key = ObjectKey::generate();
    let sealer = codec.sealer(&key);
    let opener = codec.opener(&key, sealer.salt());
    drop(seal(&sealer, &noise(STRIPE_BYTES, 6)));
    let idle = pool.idle_bytes();
    assert!(idle >= STRIPE_BYTES / 2 * 3);
    // Shorter and not a multiple of anything: the padding lies where another ciphertext was.
    let plain = noise(STRIPE_BYTES - 77, 7);
    let stripe = seal(&sealer, &plain);
    assert!(pool.idle_bytes() < idle, "the buffer is in use again");
    let padding = stripe.shards[3].len() * 4 - plain.len();
    assert!(stripe.shards[3].ends_with(&vec![0; padding]) && padding > 0);
    assert_eq!(opener.open(&stripe.record, &without(&stripe, 0)).unwrap(), plain);
    drop(stripe);
    assert!(pool.idle_bytes() >= idle);
}

#[test]
fn rebuilding_refuses_what_it_cannot_do() {
    let (sealer, opener) = pair(policy("4+2"));
    let stripe = seal(&sealer, &text(5000));
    let all = without(&stripe, 0);
    let rebuild = |present: &[(usize, Bytes)], missing: &[usize]| opener.rebuild(&stripe.record, present, missing);
    assert_eq!(rebuild(&all, &[]).unwrap(), Vec::<Bytes>::new());
    assert_eq!(rebuild(&all, &[6]).unwrap_err(), RebuildError::NoSuchShard { counter: 0, index: 6 });
    assert_eq!(rebuild(&all, &[1, 1]).unwrap_err(), RebuildError::NoSuchShard { counter: 0, index: 1 });
    assert_eq!(rebuild(&all, &[1, 2, 3]).unwrap_err(), RebuildError::TooFewShards { counter: 0, have: 3, need: 4 });
    // What is to be rebuilt is not used, so it may be rotten.
    let mut rotten = all.clone();
    rotten[2].1 = Bytes::from(vec![9; rotten[2].1.len()]);
    assert_eq!(rebuild(&rotten, &[2]).unwrap(), [&stripe.shards[2]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_stripe_opens_from_any_k_shards(
        data in 1u8..=64,
        parity in 1u8..=32,
        len in prop_oneof![1usize..200, 1usize..40_000],
        compressible: bool,
        seed: u64,
    ) {
        let (sealer, opener) = pair(Policy::new(data, parity).unwrap());
        let plain = if compressible { text(len) } else { noise(len, seed) };
        let stripe = seal(&sealer, &plain);
        let mut shards = without(&stripe, 0);
        shards.sort_by_key(|(index, _)| blake3::hash(&[&seed.to_le_bytes()[..], &[*index as u8]].concat()).as_bytes().to_owned());
        let missing: Vec<usize> = shards[usize::from(data)..].iter().map(|(index, _)| *index).collect();
        shards.truncate(data.into());
        prop_assert_eq!(opener.open(&stripe.record, &shards).unwrap(), plain);
        let rebuilt = opener.rebuild(&stripe.record, &shards, &missing).unwrap();
        for (index, shard) in missing.into_iter().zip(rebuilt) {
            prop_assert_eq!(&shard, &stripe.shards[index]);
        }
        shards.pop();
        let too_few = opener.open(&stripe.record, &shards);
        prop_assert_eq!(too_few.unwrap_err(), OpenError::TooFewShards { counter: 0, have: usize::from(data) - 1, need: data.into() });
    }
}
