//! A certificate authority of the gateway's own: for grids without public names, and for the time before a public certificate is there.
//!
//! One P-256 key in a file of mode 0600, made at the first start; its certificate may sign for names only (path length 0). Certificates for hosts are
//! made in memory when a host is first asked for, valid for 30 days, made anew after half of that. People trust it by importing the authority's
//! certificate (`atoll gateway ca`). rcgen composes, aws-lc signs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{Span, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::certificates::{CertificateError, Certificates};

/// How long a host's certificate is valid.
const HOST_DAYS: i32 = 30;

/// After this a host's certificate is made anew: half of its time.
const RENEW_AFTER: Duration = Duration::from_secs(HOST_DAYS as u64 * 24 * 3600 / 2);

/// How long the authority's certificate is valid: ten years, as people import it by hand.
const AUTHORITY_YEARS: i32 = 10;

/// Hosts whose certificates are kept ready. More are made anew each time one is needed.
const READY_MAX: usize = 4096;

const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.pem";

/// Why the authority cannot be used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {source}; move it away and a new authority is made, which everyone has to trust anew", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make the authority's certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    ready: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
}

impl Authority {
    /// Reads the authority in `folder`, or makes one there.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let io = |path: &Path, source| AuthorityError::Io { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
        let (key_path, pem_path) = (folder.join(KEY_FILE), folder.join(CERTIFICATE_FILE));
        if !pem_path.exists() {
            let (key, pem) = make()?;
            // The certificate last: where it is, the key is too.
            write_new(&key_path, &key, 0o600).map_err(|source| io(&key_path, source))?;
            write_new(&pem_path, &pem, 0o644).map_err(|source| io(&pem_path, source))?;
        }
        let unusable = |path: &Path, source| AuthorityError::Unusable { path: path.to_owned(), source };
        let key = fs::read_to_string(&key_path).map_err(|source| io(&key_path, source))?;
        let key = KeyPair::from_pem(&key).map_err(|source| unusable(&key_path, source))?;
        let pem = fs::read_to_string(&pem_path).map_err(|source| io(&pem_path, source))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|source| unusable(&pem_path, source))?;
        Ok(Self { issuer, pem, ready: Mutex::default() })
    }

    /// The authority's certificate, for people and programs to trust: PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn make(&self, host: &str) -> Result<CertifiedKey, CertificateError> {
        let failed =
            |error: &dyn std::fmt::Display| CertificateError::Make { host: host.into(), why: error.to_string() };
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(|error| failed(&error))?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, Span::new().days(HOST_DAYS));
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = any_ecdsa_type(&der).map_err(|error| failed(&error))?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        Ok(CertifiedKey::new(chain, signing))
    }
}

impl Certificates for Authority {
    fn certificate(&self, host: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, key)) = ready.get(host)
            && made.elapsed() < RENEW_AFTER
        {
            return Ok(key.clone());
        }
        let key = Arc::new(self.make(host)?);
        if ready.len() < READY_MAX {
            ready.insert(host.to_owned(), (Instant::now(), key.clone()));
        }
        Ok(key)
    }
}

fn make() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "atoll gateway");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, Span::new().years(AUTHORITY_YEARS));
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// From yesterday, because clocks differ, for `span` from today on.
fn validity(params: &mut CertificateParams, span: Span) {
    let today = Zoned::now().date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(today.saturating_sub(Span::new().days(1)));
    params.not_after = day(today.saturating_add(span));
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::open(folder.path()).unwrap();
        let again = Authority::open(folder.path()).unwrap();
        assert_eq!(first.pem(), again.pem());
        let mode = fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (one, two) = (first.certificate("a.example").unwrap(), first.certificate("a.example").unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        fs::write(folder.path().join(KEY_FILE), "nonsense").unwrap();
        assert!(matches!(Authority::open(folder.path()), Err(AuthorityError::Unusable { .. })));
    }
}
