//! Whose a name is at this gateway: the first tenant's who claimed it, kept on disk.

use std::sync::Arc;

use atoll_ids::OwnerId;
use atoll_kv::{Condition, KeyValue, KvError, Mutation};
use bytes::Bytes;
use thiserror::Error;

use crate::claim::is_host;

/// Where names lie in the key-value store.
const PREFIX: &str = "gateway/name/";

/// Why a name is not given.
#[derive(Debug, Error)]
pub enum NameError {
    /// It is no host name.
    #[error("it is no host name in lower case")]
    NotAHost,
    /// The gateway does not answer for it.
    #[error("this gateway answers for names below {0}")]
    OtherDomain(String),
    /// It is somebody else's.
    #[error("it belongs to another tenant")]
    Taken,
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] KvError),
}

/// The names given at this gateway.
#[derive(Clone)]
pub struct Names {
    kv: Arc<dyn KeyValue>,
    domain: String,
}

impl Names {
    /// Names below `domain`.
    pub fn new(kv: Arc<dyn KeyValue>, domain: &str) -> Self {
        Self { kv, domain: domain.to_ascii_lowercase() }
    }

    /// The domain whose names are given.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Gives `host` to `tenant`, or finds that it is theirs.
    ///
    /// # Errors
    /// [`NameError`]
    pub async fn take(&self, host: &str, tenant: OwnerId) -> Result<(), NameError> {
        if !is_host(host) {
            return Err(NameError::NotAHost);
        }
        if !host.strip_suffix(&self.domain).is_some_and(|rest| rest.ends_with('.')) {
            return Err(NameError::OtherDomain(self.domain.clone()));
        }
        let key = Bytes::from(format!("{PREFIX}{host}"));
        // Twice, because another session may take it between looking and taking.
        for _ in 0..2 {
            if let Some(entry) = self.kv.get(&key).await? {
                return if entry.value[..] == tenant.as_bytes()[..] { Ok(()) } else { Err(NameError::Taken) };
            }
            let value = Bytes::copy_from_slice(tenant.as_bytes());
            let put = Mutation::Put { key: key.clone(), value };
            match self.kv.commit(vec![Condition::Absent { key: key.clone() }], vec![put]).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NameError::Taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::OwnerKey;
    use atoll_kv::{Embedded, EmbeddedConfig};

    use super::*;

    #[tokio::test]
    async fn the_first_tenant_has_the_name_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let kv: Arc<dyn KeyValue> = Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap());
        let names = Names::new(kv.clone(), "Cloud.example");
        let (one, two) = (OwnerKey::generate().id(), OwnerKey::generate().id());
        names.take("a.cloud.example", one).await.unwrap();
        names.take("a.cloud.example", one).await.unwrap();
        let again = Names::new(kv, "cloud.example");
        assert!(matches!(again.take("a.cloud.example", two).await, Err(NameError::Taken)));
        again.take("b.a.cloud.example", two).await.unwrap();
        assert!(matches!(names.take("cloud.example", one).await, Err(NameError::OtherDomain(_))));
        assert!(matches!(names.take("evilcloud.example", one).await, Err(NameError::OtherDomain(_))));
        assert!(matches!(names.take("A.cloud.example", one).await, Err(NameError::NotAHost)));
    }
}
