//! Secret keys and what is signed with them: [`NodeKey`] and [`OwnerKey`] in files, the owner's 24-word [`Phrase`], and
//! [`Signed`] statements.
//!
//! Both kinds of key are an Ed25519 key from a 32-byte seed. The cryptography is `ed25519-dalek`, `blake3` and `bip39`; this crate
//! only composes it and says for each composition why it is safe. Not here: certificates, sessions (`atoll-lane`, iroh) and what
//! a statement entitles anyone to.
//!
//! # Uses of one seed, and why they do not meet
//! - Ed25519 signatures of [`Signed`] statements: the message always starts with `"atoll statement\0"`.
//! - Ed25519 signatures in TLS 1.3 handshakes, made by rustls and iroh from [`NodeKey::secret_bytes`]: those messages always
//!   start with 64 spaces (RFC 8446, 4.4.3). So neither signature can be taken for the other.
//! - [`OwnerKey::derive_secret`]: BLAKE3's key derivation of the seed. Ed25519 expands the seed by SHA-512, an unrelated
//!   function; who knows signatures or derived secrets learns nothing about the seed.
//!
//! # Memory
//! Secrets live on the heap and are overwritten when dropped, as are the buffers they are read through. Copies that the compiler
//! spills on the stack, swap and core dumps are out of this crate's reach.

mod file;
mod key;
mod phrase;
mod signed;

pub use file::{KeyFileError, KeyKind};
pub use key::{NodeKey, OwnerKey, Signer};
pub use phrase::{PHRASE_WORDS, Phrase, PhraseError};
pub use signed::{ED25519, STATEMENT_BYTES_MAX, Signed, Statement, VerifyError};
