//! The authority of one API server: it signs the server's certificate and those of its clients, and nobody else's.
//!
//! Keys are ECDSA P-256 made by aws-lc-rs through rcgen. The authority's key lies in a file of mode 0600 beside its certificate; the server's own
//! certificate is made anew at every start and never stored. Client certificates bear the user as common name and the groups as organizations,
//! as Kubernetes reads them.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{auth::User, object::random};

/// How long the authority is valid: longer than a server is expected to live; there is no rotation yet, so it must not run out.
const AUTHORITY_DAYS: u64 = 20 * 365;

/// How long a certificate is valid before it was made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Names that every API server answers to, besides those configured.
const OWN_NAMES: [&str; 6] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
];

/// Why the authority could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of it could not be read or written.
    #[error("cannot use the certificate authority's file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of it does not hold what it should, or a name cannot stand in a certificate.
    #[error("the certificate authority of the Kubernetes API: {0}")]
    Certificate(#[from] rcgen::Error),
    /// More than one group was asked for: the names that rcgen writes have one organization.
    #[error("a client certificate names at most one group, not {0}; bind the user by name for further rights")]
    Groups(usize),
    /// The TLS library refused what was made.
    #[error("the TLS configuration of the Kubernetes API: {0}")]
    Tls(String),
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key: whoever has it is that user.
    pub key_pem: String,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// The authority of one API server.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the authority in `dir`, making it if there is none. The key is written before the certificate; a crash in between makes a new
    /// certificate for the same key.
    pub(crate) fn open(dir: &Path) -> Result<Self, CaError> {
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem)?,
            None => {
                let key = KeyPair::generate()?;
                write_new(&key_path, &key.serialize_pem())?;
                key
            }
        };
        let certificate_pem = match read(&certificate_path)? {
            Some(pem) => pem,
            None => {
                let pem = authority_params().self_signed(&key)?.pem();
                write_new(&certificate_path, &pem)?;
                pem
            }
        };
        let certificate = der_of(&certificate_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate_pem, certificate })
    }

    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for a user in this group, if one is given.
    pub(crate) fn issue(&self, user: &str, groups: &[&str], valid: Duration) -> Result<ClientCertificate, CaError> {
        let mut params = leaf_params(user, valid);
        match groups {
            [] => {}
            [group] => params.distinguished_name.push(DnType::OrganizationName, *group),
            many => return Err(CaError::Groups(many.len())),
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// How the server speaks TLS: its own certificate for these names, and clients of this authority or without a certificate.
    pub(crate) fn server_config(&self, names: &[String]) -> Result<Arc<ServerConfig>, CaError> {
        let names =
            OWN_NAMES.iter().map(|&name| name.to_owned()).chain(["::1".to_owned()]).chain(names.iter().cloned());
        let mut params = leaf_params("kube-apiserver", AUTHORITY_DAYS as u32 * DAY / 20);
        params.subject_alt_names = CertificateParams::new(names.collect::<Vec<_>>())?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let tls = |error: &dyn std::fmt::Display| CaError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(|error| tls(&error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().map_err(|error| tls(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone(), self.certificate.clone()], key)
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The user that a verified client certificate names.
pub(crate) fn user_of(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    Some(User::new(name, groups))
}

fn authority_params() -> CertificateParams {
    let mut params = leaf_params("kubernetes", AUTHORITY_DAYS as u32 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn leaf_params(common_name: &str, valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (std::time::SystemTime::now() - BACKDATED).into();
    params.not_after = (std::time::SystemTime::now() + valid).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    // 127 random bits: unique without a counter, and positive.
    let mut serial = random::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn der_of(pem: &str) -> Result<CertificateDer<'static>, CaError> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| CaError::Certificate(rcgen::Error::CouldNotParseCertificate))
}

fn read(path: &Path) -> Result<Option<String>, CaError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file that only this user may read, whole or not at all.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), CaError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    write().map_err(|source| CaError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_stays_the_same_and_names_users() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let issued = again.issue("jane", &["dev"], DAY).unwrap();
        assert!(matches!(again.issue("jane", &["dev", "ops"], DAY), Err(CaError::Groups(2))));
        let user = user_of(&der_of(&issued.certificate_pem).unwrap()).unwrap();
        assert_eq!(user, User::new("jane", ["dev"]));
        again.server_config(&["api.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    }
}
