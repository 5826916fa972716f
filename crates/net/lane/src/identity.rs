//! A node's key as TLS sees it: raw public keys (RFC 7250), who is accepted, and with which algorithms.
//!
//! Nothing here computes anything cryptographic: keys go into rustls' signer, signatures are checked by
//! aws-lc-rs through rustls, and what is ours is the comparison of a public key with the expected one.

use std::sync::Arc;

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, alg_id};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, public_key_to_spki};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme,
};
use zeroize::Zeroizing;

use crate::error::WrongNode;

/// What stands before the 32-byte seed in the PKCS#8 form of an Ed25519 private key (RFC 8410, 7): version 0, the
/// algorithm's identifier 1.3.101.112, and the headers of two nested octet strings.
const PKCS8_ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The algorithms of a lane: one key exchange, two ciphers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

/// The node's own key in the form in which it is presented and signed with.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
}

impl Identity {
    pub(crate) fn new(node: &NodeKey) -> Self {
        let mut pkcs8 = Zeroizing::new([0; 48]);
        pkcs8[..16].copy_from_slice(&PKCS8_ED25519_PREFIX);
        pkcs8[16..].copy_from_slice(node.secret_bytes().as_ref());
        let signing = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))
            .expect("every 32 bytes are an Ed25519 seed, and the prefix is constant");
        let public = CertificateDer::from(spki(&node.id()).to_vec());
        Self { provider: provider(), key: Arc::new(CertifiedKey::new(vec![public], signing)) }
    }

    /// Dialling `expected` to speak `protocol`.
    pub(crate) fn client(&self, expected: NodeId, protocol: &str) -> Result<Arc<ClientConfig>, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(&self.provider, Some(expected))))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// Answering anyone who speaks one of `protocols`.
    pub(crate) fn server(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier::new(&self.provider, None)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

fn spki(node: &NodeId) -> SubjectPublicKeyInfoDer<'static> {
    public_key_to_spki(&alg_id::ED25519, node.as_bytes())
}

/// The node whose Ed25519 key `der` is, if it is exactly such a key: DER has one encoding, so the answer is found by
/// encoding again and comparing.
pub(crate) fn node_of(der: &[u8]) -> Option<NodeId> {
    let key: [u8; 32] = *der.last_chunk()?;
    let node = NodeId::from_bytes(key);
    (spki(&node).as_ref() == der).then_some(node)
}

/// Accepts a raw Ed25519 key: the expected one, or anybody's when none is expected. That the other end *has* the key is
/// shown by its signature over the transcript, which rustls demands in either case.
#[derive(Debug)]
struct Verifier {
    expected: Option<NodeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(provider: &CryptoProvider, expected: Option<NodeId>) -> Self {
        Self { expected, algorithms: provider.signature_verification_algorithms }
    }

    fn check(&self, end: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let found = node_of(end.as_ref())
            .filter(|_| intermediates.is_empty())
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.expected {
            Some(expected) if expected != found => {
                let wrong = WrongNode { expected, found };
                Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(end.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _end: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, end, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _end: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, end, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_its_one_encoding_only() {
        let node = NodeId::from_bytes([7; 32]);
        let good = spki(&node).to_vec();
        assert_eq!(node_of(&good), Some(node));
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("the bare key", node.as_bytes().to_vec()),
            ("too short", good[1..].to_vec()),
            ("something behind", [good.as_slice(), &[0]].concat()),
            ("another algorithm", {
                let mut other = good.clone();
                other[8] ^= 1;
                other
            }),
        ] {
            assert_eq!(node_of(&bytes), None, "{what}");
        }
    }

    #[test]
    fn only_the_hybrid_key_exchange_and_256_bit_ciphers_are_offered() {
        let provider = provider();
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768]);
        let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(
            suites,
            [rustls::CipherSuite::TLS13_AES_256_GCM_SHA384, rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256]
        );
    }
}
