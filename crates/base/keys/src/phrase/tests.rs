//! BIP-39's own vectors, and what people get wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, proptest};
use proptest::{prop_assert_eq, prop_assert_ne};

use super::*;
use crate::OwnerKey;

/// From the test vectors of BIP-39 (entropy of 256 bits).
const VECTORS: [([u8; 32], &str); 3] = [
    (
        [0; 32],
        concat!(
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon ",
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art"
        ),
    ),
    (
        [0x7f; 32],
        concat!(
            "legal winner thank year wave sausage worth useful legal winner thank year ",
            "wave sausage worth useful legal winner thank year wave sausage worth title"
        ),
    ),
    (
        [0xff; 32],
        concat!("zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo ", "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote"),
    ),
];

#[test]
fn the_words_are_the_seed() {
    for (seed, words) in VECTORS {
        let key = OwnerKey::from_secret_bytes(&seed);
        assert_eq!(*key.phrase().to_text(), words);
        assert_eq!(*OwnerKey::from_phrase(words).unwrap().secret_bytes(), seed);
    }
    assert_eq!(format!("{:?}", Phrase::of_seed(&[0; 32])), "Phrase(secret)");
}

#[test]
fn read_as_people_type_it() {
    let (seed, words) = VECTORS[1];
    let numbered: String = words.split(' ').enumerate().map(|(i, word)| format!("{:>2}. {word}\n", i + 1)).collect();
    for text in [words.to_uppercase(), words.replace(' ', "\n\t "), format!("  {words} "), numbered] {
        assert_eq!(*Phrase::parse(&text).unwrap().seed(), seed, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let words: Vec<&str> = VECTORS[1].1.split(' ').collect();
    let with = |at: usize, word: &str| {
        let mut words = words.clone();
        words[at] = word;
        words.join(" ")
    };
    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(Phrase::parse(text).unwrap_err().to_string(), expect);
    }
    check("", "a phrase has 24 words, this one has 0");
    check(&words[..23].join(" "), "a phrase has 24 words, this one has 23");
    check(&[&words[..], &["zoo"]].concat().join(" "), "a phrase has 24 words, this one has 25");
    check(&with(0, "leagl"), "word 1 of the phrase, \"leagl\", is not in the list of words; did you mean \"legal\"?");
    check(&with(5, "saus"), "word 6 of the phrase, \"saus\", is not in the list of words; did you mean \"sausage\"?");
    check(&with(23, "Xylophone"), "word 24 of the phrase, \"xylophone\", is not in the list of words");
    check(&with(2, "schönheit"), "word 3 of the phrase, \"schönheit\", is not in the list of words");
    let checksum = "these words do not belong together (the checksum does not match): is one of them another word, or are two \
                    exchanged?";
    check(&with(0, "zoo"), checksum);
    // A missing word is still found to be wrong before the count is: that is what the person can fix.
    assert!(matches!(Phrase::parse("legal winer"), Err(PhraseError::Word { position: 2, .. })));
    let long = "x".repeat(100_000);
    assert!(matches!(Phrase::parse(&long), Err(PhraseError::Word { word, .. }) if word.len() == 20));
}

proptest! {
    #[test]
    fn every_seed_has_a_phrase_of_its_own(seed in any::<[u8; 32]>(), other in any::<[u8; 32]>()) {
        let phrase = Phrase::of_seed(&seed);
        prop_assert_eq!(phrase.words().count(), 24);
        prop_assert_eq!(*Phrase::parse(&phrase.to_text()).unwrap().seed(), seed);
        if seed != other {
            prop_assert_ne!(phrase.to_text(), Phrase::of_seed(&other).to_text());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = Phrase::parse(&text);
    }
}
