//! Where certificates come from: the seam between the gateway's TLS and its own authority, or ACME.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::back::Gateway;

/// Why there is no certificate for a host.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// It cannot be made.
    #[error("no certificate for {host}: {why}")]
    Make {
        /// For which host.
        host: String,
        /// What is in the way.
        why: String,
    },
}

/// Something that has certificates. Asked in the middle of a handshake, so it answers at once or not at all: what takes time (ACME) is got ahead.
pub trait Certificates: Send + Sync + 'static {
    /// The certificate of a host that the gateway answers for.
    ///
    /// # Errors
    /// [`CertificateError`] ends the handshake.
    fn certificate(&self, host: &str) -> Result<Arc<CertifiedKey>, CertificateError>;
}

/// Answers a handshake: only for hosts that have a replica, so that strangers cannot make the authority sign names.
pub(crate) struct Resolver {
    pub(crate) gateway: Gateway,
    pub(crate) certificates: Arc<dyn Certificates>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name()?.to_ascii_lowercase();
        if !self.gateway.knows(&host) {
            tracing::debug!(%host, "a handshake for a host that nobody answers for");
            return None;
        }
        self.certificates.certificate(&host).inspect_err(|error| tracing::warn!(%error, "a handshake failed")).ok()
    }
}
