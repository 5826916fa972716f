//! What two nodes tell each other about their path, and how it becomes a [`Sealer`] and an [`Opener`].
//!
//! The dialler of a connection sends its [`Terms`] on a stream of it, the acceptor answers with its own. Both have drawn 128 fresh bits, and both are in every
//! key: who is to seal twice under one key would have to draw the same bits twice. [`Half`] is what was drawn; it is used up when it becomes a sealer.

use std::net::SocketAddr;

use atoll_ids::NodeId;
use atoll_wire::{DecodeError, Versioned};
use serde::{Deserialize, Serialize};

use crate::keys::{Chain, Cipher, Context, Direction, Secret, has_aes};
use crate::open::Opener;
use crate::seal::Sealer;

/// The most bytes that terms take: the numbers below and a version.
pub const TERMS_BYTES_MAX: u32 = 64;

/// Where a node takes in sealed packets: UDP ports by family, 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// On IPv4.
    pub v4: u16,
    /// On IPv6.
    pub v6: u16,
}

impl Ports {
    /// Where packets go to a node that is reached at `address` otherwise; `None` if it takes none in that family.
    #[must_use]
    pub fn at(&self, mut address: SocketAddr) -> Option<SocketAddr> {
        address.set_ip(address.ip().to_canonical());
        let port = if address.is_ipv4() { self.v4 } else { self.v6 };
        address.set_port(port);
        (port != 0).then_some(address)
    }
}

/// What one of two nodes says about their path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Drawn for this path.
    pub fresh: [u8; 16],
    /// What the other is to write into the header of what it sends.
    pub index: u32,
    /// Where to send.
    pub ports: Ports,
    /// Whether AES is quick here.
    pub aes: bool,
}

impl Versioned for Terms {
    const VERSION: u16 = 1;
    const NAME: &'static str = "terms of a packet path";
}

/// Reads terms.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_terms(bytes: &[u8]) -> Result<Terms, DecodeError> {
    atoll_wire::decode(bytes)
}

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We dialled.
    Dialler,
    /// The other dialled.
    Acceptor,
}

/// Our half of a path that is being agreed on. There is one way to get it, which draws, and one way to use it, which uses it up.
#[derive(Debug)]
pub struct Half(Terms);

impl Half {
    /// Draws ours. `index` is what we want to be called by.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness.
    #[must_use]
    pub fn draw(index: u32, ports: Ports) -> Self {
        let mut fresh = [0; 16];
        getrandom::fill(&mut fresh).expect("the operating system has randomness");
        Self(Terms { fresh, index, ports, aes: has_aes() })
    }

    /// As on another processor.
    #[cfg(test)]
    pub(crate) fn with_aes(mut self, aes: bool) -> Self {
        self.0.aes = aes;
        self
    }

    /// What to tell the other.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.0
    }

    /// Makes of both halves what seals towards the other and what opens what it sealed. `us` and `them` are who the connection's handshake proved.
    #[must_use]
    pub fn join(self, secret: &Secret, side: Side, us: &NodeId, them: &NodeId, theirs: &Terms) -> (Sealer, Opener) {
        let ours = self.0;
        let cipher = Cipher::for_both(ours.aes, theirs.aes);
        let (outward, inward, context) = match side {
            Side::Dialler => (
                Direction::FromDialler,
                Direction::FromAcceptor,
                Context {
                    dialler: us,
                    acceptor: them,
                    dialler_fresh: &ours.fresh,
                    acceptor_fresh: &theirs.fresh,
                    cipher,
                },
            ),
            Side::Acceptor => (
                Direction::FromAcceptor,
                Direction::FromDialler,
                Context {
                    dialler: them,
                    acceptor: us,
                    dialler_fresh: &theirs.fresh,
                    acceptor_fresh: &ours.fresh,
                    cipher,
                },
            ),
        };
        let sealer = Sealer::new(Chain::new(secret, &context, outward), theirs.index);
        let opener = Opener::new(Chain::new(secret, &context, inward), ours.index, cipher);
        (sealer, opener)
    }
}
