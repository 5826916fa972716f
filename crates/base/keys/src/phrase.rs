//! The 24 words an owner writes down.
//!
//! BIP-39 in English, with the 32-byte seed of the key as its entropy: 256 bits and 8 bits of checksum are 24 words of 11 bits. The words
//! *are* the seed, in both directions; there is no passphrase and no stretching, which full-entropy secrets do not need.
//! (Wallets derive their keys from the words by PBKDF2 instead: the same words give them other keys.)

use std::fmt;

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

/// Words of a phrase.
pub const PHRASE_WORDS: usize = 24;

/// Changed letters within which a word of the list is offered for one that is not in it: BIP-39 words are 3 to 8 letters long,
/// and with three changes nearly any word is near to some other.
const TYPOS_MAX: usize = 2;

/// A word is shown in an error cut to this many characters; no word of the list has more than 8.
const SHOWN_CHARS_MAX: usize = 20;

/// The words of an owner's key. As secret as the key: has no `Display`, shows nothing in `Debug`, and is overwritten when dropped.
pub struct Phrase(Mnemonic);

/// Why a text is not the phrase of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Words are missing, or there are too many.
    #[error("a phrase has {PHRASE_WORDS} words, this one has {found}")]
    Count {
        /// Words that were given.
        found: usize,
    },
    /// A word that occurs in no phrase.
    #[error("word {position} of the phrase, {word:?}, is not in the list of words{}", did_you_mean(*suggestion))]
    Word {
        /// Its position, counted from 1.
        position: usize,
        /// The word as given.
        word: String,
        /// The word of the list that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// All the words exist, but together they are no key.
    #[error(
        "these words do not belong together (the checksum does not match): is one of them another word, or are two exchanged?"
    )]
    Checksum,
}

fn did_you_mean(suggestion: Option<&'static str>) -> String {
    suggestion.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default()
}

impl Phrase {
    pub(crate) fn of_seed(seed: &[u8; 32]) -> Self {
        Self(Mnemonic::from_entropy(seed).expect("32 bytes are a length BIP-39 knows"))
    }

    pub(crate) fn seed(&self) -> Zeroizing<[u8; 32]> {
        let (entropy, _) = self.0.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(&entropy[..32]);
        seed
    }

    /// Reads a phrase as people type it: in any case, over several lines, with or without numbers before the words.
    pub(crate) fn parse(text: &str) -> Result<Self, PhraseError> {
        // Reserved beforehand: a buffer that grows leaves its old self behind in memory. Lower case is at most 3 × as long in UTF-8.
        let mut words = Zeroizing::new(String::with_capacity(3 * text.len() + 1));
        let mut count = 0;
        for word in text.split_whitespace().filter(|word| !is_numbering(word)) {
            if count > 0 {
                words.push(' ');
            }
            words.extend(word.chars().flat_map(char::to_lowercase));
            count += 1;
        }
        for (at, word) in words.split(' ').enumerate().take(PHRASE_WORDS) {
            if !word.is_empty() && Language::English.find_word(word).is_none() {
                let shown = word.chars().take(SHOWN_CHARS_MAX).collect();
                return Err(PhraseError::Word { position: at + 1, word: shown, suggestion: nearest(word) });
            }
        }
        if count != PHRASE_WORDS {
            return Err(PhraseError::Count { found: count });
        }
        Mnemonic::parse_in_normalized(Language::English, &words).map(Self).map_err(|_| PhraseError::Checksum)
    }

    /// The words in order.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.words()
    }

    /// The words in one line.
    pub fn to_text(&self) -> Zeroizing<String> {
        // 24 words of at most 8 letters, and what stands between.
        let mut text = Zeroizing::new(String::with_capacity(PHRASE_WORDS * 9));
        for word in self.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(secret)")
    }
}

/// `7`, `7.` or `7)`, as people number lists.
fn is_numbering(word: &str) -> bool {
    let number = word.trim_end_matches(['.', ')', ':']);
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// The word that was probably meant: the only one that starts so (four letters suffice in BIP-39), or else the least changed.
fn nearest(word: &str) -> Option<&'static str> {
    let mut longer = Language::English.words_by_prefix_iter(word);
    if let (Some(only), None) = (longer.next(), longer.next()) {
        return Some(only);
    }
    if word.len() > SHOWN_CHARS_MAX {
        return None;
    }
    let distances = Language::English.word_list().iter().map(|known| (strsim::osa_distance(word, known), *known));
    distances
        .filter(|(distance, _)| *distance <= TYPOS_MAX)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests;
