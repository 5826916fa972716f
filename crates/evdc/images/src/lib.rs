//! OCI images on a node: pull, load, unpack safely, layers on overlayfs.
//!
//! A [`Store`] is a directory. Images come into it from a registry ([`Store::pull`]), from an archive ([`Store::load`]: OCI layout, OCI
//! archive, docker-archive) or from files at hand ([`Builder`]). Every blob is kept under its SHA-256 digest and checked against it while
//! it is written; every layer is unpacked once, checked against the digest of its content, and shared by all images that have it. A
//! container's root file system ([`Rootfs`]) is an overlay mount of those layers under a directory of its own.
//!
//! What comes from outside is hostile until shown otherwise: sizes, counts and lengths are limited ([`Limits`]), a layer is written
//! relative to its own directory and cannot leave it, device nodes are refused.
//!
//! Not here: running anything (`atoll-runtime`), signatures of images, a registry to push to. Unpacking and mounting need root; without
//! it images can still be pulled, loaded, listed and saved.

mod archive;
mod blobs;
mod builder;
mod digest;
mod elf;
mod error;
mod fetch;
pub mod format;
mod limits;
mod pull;
mod reference;
mod rootfs;
mod store;
mod tarball;
mod unpack;
mod users;

pub use builder::{Builder, Compression, Content};
pub use digest::{Digest, ParseDigestError};
pub use error::{ErrorKind, ImageError};
pub use fetch::{Auth, Challenge, PullOptions};
pub use format::{ImageConfig, Platform};
pub use limits::Limits;
pub use reference::{ParseReferenceError, Reference};
pub use rootfs::Rootfs;
pub use store::{Collected, Image, Layer, Store, StoreConfig};
pub use unpack::{Unpacked, unpack_layer};
pub use users::User;
