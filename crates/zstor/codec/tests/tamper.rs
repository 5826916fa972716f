//! Whatever is altered, forged, swapped or made up gives an error: never wrong bytes, never a panic.

#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_codec::{Codec, ObjectKey, OpenError, Opener, Policy, RebuildError, SealedStripe, StripeRecord};
use atoll_ids::ObjectId;
use bytes::Bytes;
use proptest::prelude::*;

/// The record as it is stored, field by field.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Stored {
    counter: u32,
    plain_len: u32,
    sealed_len: u32,
    stripe_tag: [u8; 16],
    shard_tags: Vec<[u8; 16]>,
}

fn stored(record: &StripeRecord) -> Stored {
    postcard::from_bytes(&postcard::to_stdvec(record).unwrap()).unwrap()
}

fn record(stored: &Stored) -> StripeRecord {
    postcard::from_bytes(&postcard::to_stdvec(stored).unwrap()).unwrap()
}

struct Object {
    key: ObjectKey,
    opener: Opener,
    stripes: Vec<SealedStripe>,
}

fn object(policy: &str, plaintexts: &[&[u8]]) -> Object {
    let codec = Codec::new(policy.parse().unwrap());
    let key = ObjectKey::generate();
    let sealer = codec.sealer(&key);
    let stripes = plaintexts.iter().map(|plain| sealer.seal(sealer.next().unwrap(), plain).unwrap()).collect();
    Object { opener: codec.opener(&key, sealer.salt()), key, stripes }
}

fn shards(stripe: &SealedStripe) -> Vec<(usize, Bytes)> {
    stripe.shards.iter().cloned().enumerate().collect()
}

fn flip(bytes: &Bytes, bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.into()
}

const SHORT: &[u8] = b"a stripe short enough to flip every bit of every shard of it, and then some more";
const REPETITIVE: &[u8] = &[b'r'; 3000];

#[test]
fn any_flipped_bit_of_any_shard_is_found() {
    for plain in [SHORT, REPETITIVE] {
        let object = object("4+2", &[plain]);
        let stripe = &object.stripes[0];
        let all = shards(stripe);
        for (index, shard) in all.iter() {
            assert!(object.opener.check(&stripe.record, *index, shard));
            for bit in 0..shard.len() * 8 {
                let mut altered = all.clone();
                altered[*index].1 = flip(shard, bit);
                assert!(!object.opener.check(&stripe.record, *index, &altered[*index].1));
                // Used, it spoils the stripe and is named, but for the padding at the end of the data, of which no plaintext is made.
                let needed = &altered[index.saturating_sub(3)..];
                let is_padding = *index < 4 && index * shard.len() + bit / 8 >= stripe.record.sealed_len() as usize;
                let expect = match is_padding {
                    true => Ok(Bytes::from(plain)),
                    false => Err(OpenError::BadStripe { counter: 0, bad: vec![*index] }),
                };
                assert!(object.opener.open(&stripe.record, needed) == expect, "shard {index} bit {bit}");
                // Without it all is well.
                altered.remove(*index);
                assert_eq!(object.opener.open(&stripe.record, &altered).unwrap(), plain);
            }
        }
    }
}

#[test]
fn a_forged_shard_does_not_become_the_source_of_others() {
    let object = object("4+2", &[SHORT]);
    let stripe = &object.stripes[0];
    let mut present = shards(stripe);
    present[1].1 = flip(&present[1].1, 5);
    let error = object.opener.rebuild(&stripe.record, &present, &[0]).unwrap_err();
    assert_eq!(error, RebuildError::BadStripe { counter: 0, bad: vec![1] });
    present.remove(1);
    assert_eq!(object.opener.rebuild(&stripe.record, &present, &[0, 1]).unwrap(), stripe.shards[..2]);
}

#[test]
fn shards_of_the_wrong_length_index_or_number_are_refused() {
    let object = object("2+1", &[SHORT]);
    let stripe = &object.stripes[0];
    let [a, b, c] = [0, 1, 2].map(|index| stripe.shards[index].clone());
    let open = |shards: &[(usize, Bytes)]| object.opener.open(&stripe.record, shards);
    let long: Bytes = [&a[..], b"x"].concat().into();
    for wrong in [a.slice(1..), a.slice(..0), long] {
        assert!(!object.opener.check(&stripe.record, 0, &wrong));
        assert_eq!(
            open(&[(0, wrong.clone()), (1, b.clone())]).unwrap_err(),
            OpenError::BadStripe { counter: 0, bad: vec![0] }
        );
        assert_eq!(open(&[(0, wrong), (1, b.clone()), (2, c.clone())]).unwrap(), SHORT, "enough without it");
    }
    let too_few = |have| OpenError::TooFewShards { counter: 0, have, need: 2 };
    assert_eq!(open(&[]).unwrap_err(), too_few(0));
    assert_eq!(open(&[(0, a.clone()), (0, a.clone())]).unwrap_err(), too_few(1), "twice the same is one");
    assert_eq!(open(&[(0, a.clone()), (3, b.clone()), (usize::MAX, b.clone())]).unwrap_err(), too_few(1));
    assert!(!object.opener.check(&stripe.record, 3, &a) && !object.opener.check(&stripe.record, usize::MAX, &a));
    let swapped = [(1, a.clone()), (0, b.clone())];
    assert_eq!(open(&swapped).unwrap_err(), OpenError::BadStripe { counter: 0, bad: vec![1, 0] });
}

#[test]
fn shards_and_records_of_other_stripes_runs_objects_and_policies_are_refused() {
    let one = object("4+2", &[SHORT, SHORT]);
    let other = object("4+2", &[SHORT]);
    let rerun = Codec::new("4+2".parse().unwrap()).sealer(&one.key);
    let rerun_stripe = rerun.seal(rerun.next().unwrap(), SHORT).unwrap();
    let expect = |record: &StripeRecord, shards: &[(usize, Bytes)]| {
        let error = one.opener.open(record, shards).unwrap_err();
        assert!(matches!(&error, OpenError::BadStripe { .. }), "{error:?}");
    };
    let own = &one.stripes[0];
    for foreign in [&one.stripes[1], &other.stripes[0], &rerun_stripe] {
        expect(&own.record, &shards(foreign));
        assert!((0..6).all(|index| !one.opener.check(&own.record, index, &foreign.shards[index])));
        let mut mixed = shards(own);
        mixed[2] = (2, foreign.shards[2].clone());
        let error = one.opener.open(&own.record, &mixed).unwrap_err();
        assert_eq!(error, OpenError::BadStripe { counter: 0, bad: vec![2] });
    }
    // Whole stripes, record and all, under the keys of another object or run.
    expect(&other.stripes[0].record, &shards(&other.stripes[0]));
    expect(&rerun_stripe.record, &shards(&rerun_stripe));
    // The same data shards, all genuine, under a policy that the stripe was not sealed with.
    let reread = Opener::new(&one.key, one.opener.salt(), "4+1".parse().unwrap());
    let mut fewer = stored(&own.record);
    fewer.shard_tags.pop();
    let error = reread.open(&record(&fewer), &shards(own)[..5]).unwrap_err();
    assert_eq!(error, OpenError::BadStripe { counter: 0, bad: vec![] });
    let error = reread.open(&own.record, &shards(own)).unwrap_err();
    assert!(matches!(error, OpenError::BadRecord(_)), "{error:?}");
}

#[test]
fn every_altered_field_of_a_record_is_noticed() {
    for plain in [SHORT, REPETITIVE] {
        let object = object("4+2", &[plain]);
        let stripe = &object.stripes[0];
        let good = stored(&stripe.record);
        assert_eq!(record(&good), stripe.record);
        let refused = |altered: Stored| {
            let altered = record(&altered);
            let opened = object.opener.open(&altered, &shards(stripe));
            assert!(
                matches!(opened, Err(OpenError::BadStripe { .. } | OpenError::BadRecord(_))),
                "{altered:?}: {opened:?}"
            );
        };
        for bit in 0..32 {
            refused(Stored { counter: good.counter ^ 1 << bit, ..good.clone() });
            refused(Stored { plain_len: good.plain_len ^ 1 << bit, ..good.clone() });
            refused(Stored { sealed_len: good.sealed_len ^ 1 << bit, ..good.clone() });
        }
        for bit in 0..128 {
            let mut altered = good.clone();
            altered.stripe_tag[bit / 8] ^= 1 << (bit % 8);
            refused(altered);
            let mut altered = good.clone();
            altered.shard_tags[5][bit / 8] ^= 1 << (bit % 8);
            let altered = record(&altered);
            assert!(!object.opener.check(&altered, 5, &stripe.shards[5]));
            assert_eq!(object.opener.open(&altered, &shards(stripe)).unwrap(), plain, "the stripe itself is authentic");
            let error = object.opener.rebuild(&altered, &shards(stripe), &[5]).unwrap_err();
            assert_eq!(error, RebuildError::BadStripe { counter: 0, bad: vec![] });
        }
        // An altered record, but no bad shard: the error says so.
        let altered = Stored { plain_len: good.plain_len + 1, ..good.clone() };
        let error = object.opener.open(&record(&altered), &shards(stripe)).unwrap_err();
        assert_eq!(error, OpenError::BadStripe { counter: 0, bad: vec![] });
        assert!(error.to_string().contains("no shard is to blame"));
    }
}

#[test]
fn impossible_records_are_refused_before_anything_is_allocated() {
    let object = object("4+2", &[SHORT]);
    let good = stored(&object.stripes[0].record);
    let bad = |altered: Stored, reason: &str| {
        let record = record(&altered);
        let error = object.opener.open(&record, &shards(&object.stripes[0])).unwrap_err();
        assert!(matches!(&error, OpenError::BadRecord(bad) if bad.reason.contains(reason)), "{error}");
        assert!(matches!(object.opener.rebuild(&record, &[], &[0]), Err(RebuildError::BadRecord(_))));
        assert!(record.shard_len(object.opener.policy()).is_err());
        assert!(!object.opener.check(&record, 0, &object.stripes[0].shards[0]));
    };
    bad(Stored { counter: 1 << 28, ..good.clone() }, "limit of a run");
    bad(Stored { plain_len: 0, sealed_len: 0, ..good.clone() }, "1 byte to 1 MiB");
    bad(Stored { plain_len: (1 << 20) + 1, ..good.clone() }, "1 byte to 1 MiB");
    bad(Stored { plain_len: u32::MAX, sealed_len: u32::MAX, ..good.clone() }, "1 byte to 1 MiB");
    bad(Stored { sealed_len: 0, ..good.clone() }, "empty or longer");
    bad(Stored { sealed_len: good.plain_len + 1, ..good.clone() }, "empty or longer");
    for tags in [0, 1, 5, 7, 300] {
        bad(Stored { shard_tags: vec![[0; 16]; tags], ..good.clone() }, "one tag for each shard");
    }
}

#[test]
fn the_key_of_another_owner_gives_its_own_error() {
    let object = object("4+2", &[SHORT]);
    let id = ObjectId::from_bytes([7; 16]);
    let wrapped = object.key.wrap(&[1; 32], id);
    let error = wrapped.unwrap(&[2; 32], id).unwrap_err();
    assert_eq!(error.object, id);
    let key = wrapped.unwrap(&[1; 32], id).unwrap();
    let opener = Opener::new(&key, object.opener.salt(), object.opener.policy());
    assert_eq!(opener.open(&object.stripes[0].record, &shards(&object.stripes[0])).unwrap(), SHORT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Records and shards from nowhere: no panic, no plaintext, and (lengths being what they are) no large allocation.
    #[test]
    fn made_up_input_opens_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        fields in (any::<u32>(), 0u32..70_000, 0u32..70_000),
        tags in proptest::collection::vec(any::<[u8; 16]>(), 3..=3),
        shard_lens in proptest::collection::vec((0usize..5, 0usize..40_000), 0..5),
        exact: bool,
    ) {
        let policy: Policy = "2+1".parse().unwrap();
        let codec = Codec::new(policy);
        let key = ObjectKey::generate();
        let opener = codec.opener(&key, codec.sealer(&key).salt());
        if let Ok(record) = postcard::from_bytes::<StripeRecord>(&bytes) {
            prop_assert!(opener.open(&record, &[]).is_err());
        }
        let (counter, plain_len, sealed_len) = fields;
        let record = record(&Stored { counter, plain_len, sealed_len, stripe_tag: tags[0], shard_tags: tags });
        let exact_len = record.shard_len(policy).ok().filter(|_| exact);
        let shards: Vec<(usize, Bytes)> =
            shard_lens.into_iter().map(|(index, len)| (index, vec![1; exact_len.unwrap_or(len)].into())).collect();
        prop_assert!(opener.open(&record, &shards).is_err());
        prop_assert!(opener.rebuild(&record, &shards, &[0]).is_err());
        prop_assert!(shards.iter().all(|(index, shard)| !opener.check(&record, *index, shard)));
    }
}
