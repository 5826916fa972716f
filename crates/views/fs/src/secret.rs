//! A volume's secret, what is settled about a volume, and the descriptor in which its owner keeps both.
//!
//! **Keys.** A volume has one random 32-byte secret. BLAKE3's key derivation makes a key for each use from it (blob manifests and blob keys in the engine,
//! the head here), so none is used for two things. Whoever has the secret can read and write this volume and nothing else of the owner: a leased
//! node is given the secret and a storage grant, never the owner's key.
//!
//! **Wrapping.** The owner keeps the secret sealed with AES-256-GCM-SIV (RFC 8452, random nonce) under a key derived from the owner's for this purpose alone,
//! with the volume's name as associated data: it opens for this owner under this name or not at all.

use std::fmt;
use std::str::FromStr;

use atoll_engine::{DomainLevel, Policy};
use atoll_ids::OwnerId;
use atoll_keys::OwnerKey;
use atoll_wire::Versioned;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Purpose of the owner's key that wraps volume secrets; part of the stored format.
const WRAP_CONTEXT: &str = "atoll 2026-11 fs volume secrets v1";
/// Starts what a wrapped secret is bound to.
const WRAP_PLACE: &[u8] = b"atoll/volume-secret ";
/// Longest name of a volume: a DNS label, as Kubernetes names are made of.
const NAME_BYTES_MAX: usize = 63;

/// The secret of one volume. Zeroized when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VolumeSecret([u8; 32]);

impl VolumeSecret {
    /// A fresh random one.
    ///
    /// # Panics
    /// If the operating system gives no randomness, which Linux does not let happen once it has booted.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system has a random number generator");
        Self(bytes)
    }

    /// One that was handed over.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To hand over, over an encrypted connection to whom it is lent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for one purpose.
    pub(crate) fn derive(&self, context: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &self.0))
    }
}

impl fmt::Debug for VolumeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeSecret(secret)")
    }
}

/// The name of a volume: 1 to 63 of `a`–`z`, `0`–`9` and `-`, neither first nor last of them `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// A name that a volume cannot have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a volume's name has 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -; {found:?} does not")]
pub struct BadVolumeName {
    /// What was given.
    pub found: String,
}

impl VolumeName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeName {
    type Error = BadVolumeName;

    fn try_from(found: String) -> Result<Self, BadVolumeName> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let whole = (1..=NAME_BYTES_MAX).contains(&found.len()) && found.bytes().all(fits);
        if whole && !found.starts_with('-') && !found.ends_with('-') {
            Ok(Self(found))
        } else {
            Err(BadVolumeName { found })
        }
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl FromStr for VolumeName {
    type Err = BadVolumeName;

    fn from_str(text: &str) -> Result<Self, BadVolumeName> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is settled about a volume when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// Its name.
    pub name: VolumeName,
    /// Whose it is.
    pub owner: OwnerId,
    /// Shards per stripe.
    pub policy: Policy,
    /// What no two shards of a stripe may share.
    pub level: DomainLevel,
    /// How many shards of a stripe must be durable before `fsync` returns, k to k+m.
    pub least: u8,
    /// How many bytes its files may hold; 0: as many as the nodes take.
    pub capacity_bytes: u64,
}

impl VolumeConfig {
    /// A volume on different nodes whose writes go on while one node is missing: `least` is k+m-1, but k+1 or more where there is parity for it.
    #[must_use]
    pub fn new(name: VolumeName, owner: OwnerId, policy: Policy) -> Self {
        let floor = (policy.data() + 1).min(policy.shards());
        let least = policy.shards().saturating_sub(1).max(floor);
        let least = u8::try_from(least).expect("a policy has at most 96 shards");
        Self { name, owner, policy, level: DomainLevel::Node, least, capacity_bytes: 0 }
    }
}

/// A volume's secret as its owner keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedSecret(Vec<u8>);

/// The secret does not open.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the secret of volume {name} does not open: it belongs to another owner or volume, or was altered; use the owner key that made it"
)]
pub struct WrongOwner {
    /// The volume.
    pub name: VolumeName,
}

/// A volume as its owner remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeDescriptor {
    /// What is settled.
    pub config: VolumeConfig,
    /// Its secret, sealed for the owner.
    pub secret: WrappedSecret,
}

impl Versioned for VolumeDescriptor {
    const VERSION: u16 = 1;
    const NAME: &'static str = "volume descriptor";
}

impl VolumeDescriptor {
    /// Describes a volume with this secret.
    #[must_use]
    pub fn new(config: VolumeConfig, secret: &VolumeSecret, owner: &OwnerKey) -> Self {
        let sealed = seal(&owner.derive_secret(WRAP_CONTEXT), &wrap_place(&config.name), secret.0.to_vec());
        Self { config, secret: WrappedSecret(sealed) }
    }

    /// The volume's secret.
    ///
    /// # Errors
    /// [`WrongOwner`]
    pub fn open(&self, owner: &OwnerKey) -> Result<VolumeSecret, WrongOwner> {
        let wrong = || WrongOwner { name: self.config.name.clone() };
        let opened = open(&owner.derive_secret(WRAP_CONTEXT), &wrap_place(&self.config.name), &self.secret.0);
        let plain = Zeroizing::new(opened.ok_or_else(wrong)?);
        Ok(VolumeSecret(plain.as_slice().try_into().map_err(|_| wrong())?))
    }
}

fn wrap_place(name: &VolumeName) -> Vec<u8> {
    [WRAP_PLACE, name.0.as_bytes()].concat()
}

/// `[nonce][ciphertext][tag]` of `plain` for the place `at`.
pub(crate) fn seal(key: &[u8; 32], at: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
    let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).expect("32 bytes are a key of AES-256");
    let nonce = key.seal_in_place_append_tag(Aad::from(at), &mut plain);
    let nonce = nonce.expect("AES-GCM-SIV seals anything below 2^36 bytes");
    let sealed = [nonce.as_ref().as_slice(), &plain].concat();
    plain.zeroize();
    sealed
}

/// What was sealed for the place `at`; `None` if it was not, or was altered.
pub(crate) fn open(key: &[u8; 32], at: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).expect("32 bytes are a key of AES-256");
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut plain = sealed.to_vec();
    let len = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(at), &mut plain).ok()?.len();
    plain.truncate(len);
    Some(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_descriptor_opens_for_its_owner_and_name_only() {
        let owner = OwnerKey::generate();
        let secret = VolumeSecret::generate();
        let config = VolumeConfig::new("disk0".parse().unwrap(), owner.id(), "4+2".parse().unwrap());
        assert_eq!(config.least, 5);
        let made = VolumeDescriptor::new(config, &secret, &owner);
        let kept: VolumeDescriptor = atoll_wire::decode(&atoll_wire::encode(&made)).unwrap();
        assert_eq!(kept.open(&owner).unwrap().0, secret.0);
        assert!(kept.open(&OwnerKey::generate()).is_err());
        let mut renamed = kept;
        renamed.config.name = "disk1".parse().unwrap();
        assert!(renamed.open(&owner).is_err());
        assert_eq!(format!("{secret:?}"), "VolumeSecret(secret)");
    }

    #[test]
    fn names() {
        for (name, good) in [("a", true), ("pvc-0b", true), ("", false), ("-a", false), ("a-", false), ("A", false)] {
            assert_eq!(name.parse::<VolumeName>().is_ok(), good, "{name}");
        }
        assert!("a".repeat(64).parse::<VolumeName>().is_err());
    }
}
