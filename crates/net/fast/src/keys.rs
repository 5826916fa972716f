//! From a connection's exporter to the keys of one direction, epoch by epoch.

use aws_lc_rs::aead::{AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use atoll_ids::NodeId;

/// The label under which both ends ask their TLS session for the secret (RFC 5705, RFC 8446 section 7.5); the context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-atoll-fast-1";

const SALT: &[u8] = b"atoll 2026-11 fast packets v1";

/// What a connection's exporter gave. Not printed, not copied, erased when dropped.
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Has `export` fill a secret, under [`EXPORTER_LABEL`].
    ///
    /// # Errors
    ///
    /// What `export` says.
    pub fn export<E>(export: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; 32]);
        export(&mut bytes[..])?;
        Ok(Self(bytes))
    }
}

/// What packets are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-256-GCM, where both processors have AES.
    Aes256Gcm,
    /// ChaCha20-Poly1305 everywhere else: three times as fast as AES without hardware, and without its timing.
    ChaCha20Poly1305,
}

impl Cipher {
    /// What two nodes use of which these have AES in hardware.
    #[must_use]
    pub fn for_both(ours: bool, theirs: bool) -> Self {
        if ours && theirs { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// Packets that may be refused under one key before it is given up (RFC 9001, section 6.6), well below.
    pub(crate) fn forgeries_max(self) -> u64 {
        match self {
            Self::Aes256Gcm => 1 << 48,
            Self::ChaCha20Poly1305 => 1 << 34,
        }
    }
}

/// Whether this processor has AES and carry-less multiplication.
#[must_use]
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// Everything that the keys depend on beside the secret, the same at both ends.
pub(crate) struct Context<'a> {
    pub(crate) dialler: &'a NodeId,
    pub(crate) acceptor: &'a NodeId,
    pub(crate) dialler_fresh: &'a [u8],
    pub(crate) acceptor_fresh: &'a [u8],
    pub(crate) cipher: Cipher,
}

/// Who seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    FromDialler = 1,
    FromAcceptor = 2,
}

/// The key of one epoch. It makes a nonce of a counter; who calls sees to it that no counter is sealed with twice.
pub(crate) struct EpochKey {
    pub(crate) epoch: u32,
    key: LessSafeKey,
    iv: [u8; 12],
}

impl EpochKey {
    /// As in TLS 1.3 (RFC 8446, section 5.3): the counter, over a secret that differs by key.
    pub(crate) fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_counter) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
            *byte ^= of_counter;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    pub(crate) fn key(&self) -> &LessSafeKey {
        &self.key
    }
}

/// The keys of one direction that are still to come. Each step forgets what it came from: who gets hold of this learns nothing about earlier epochs.
pub(crate) struct Chain {
    cipher: Cipher,
    epoch: u32,
    secret: Prk,
}

/// Output lengths of 32 bytes and less and a context below a kilobyte: HKDF-SHA-256 has no reason to refuse.
const FINE: &str = "the lengths are within HKDF's limits";

impl Chain {
    pub(crate) fn new(secret: &Secret, context: &Context<'_>, direction: Direction) -> Self {
        let root = Salt::new(HKDF_SHA256, SALT).extract(&secret.0[..]);
        let info = [
            &b"direction"[..],
            context.dialler.as_bytes(),
            context.acceptor.as_bytes(),
            context.dialler_fresh,
            context.acceptor_fresh,
            &[context.cipher.number(), direction as u8],
        ];
        let secret = Prk::from(root.expand(&info, HKDF_SHA256).expect(FINE));
        Self { cipher: context.cipher, epoch: 0, secret }
    }

    /// The key of the next epoch.
    pub(crate) fn step(&mut self) -> EpochKey {
        let epoch = self.epoch.to_be_bytes();
        let key = UnboundKey::from(self.secret.expand(&[b"key", &epoch], self.cipher.algorithm()).expect(FINE));
        let mut iv = [0; 12];
        self.secret.expand(&[b"iv", &epoch], Bytes(12)).and_then(|okm| okm.fill(&mut iv)).expect(FINE);
        let key = EpochKey { epoch: self.epoch, key: LessSafeKey::new(key), iv };
        self.secret = Prk::from(self.secret.expand(&[b"next", &epoch], HKDF_SHA256).expect(FINE));
        self.epoch += 1;
        key
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}
