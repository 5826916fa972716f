//! Releases as Helm 3 and 4 store them: a Secret `sh.helm.release.v1.NAME.vREVISION` of the type `helm.sh/release.v1` whose `release`
//! is base64 of gzip of JSON (and, like all of a Secret's data, once more base64).
//!
//! What this crate does not use of a record is carried along unchanged, so that reading and writing a record of Helm's loses nothing.

use std::io::{Read, Write};

use data_encoding::BASE64;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::chart::{Chart, File, Metadata};
use crate::manifest::Hook;

/// Largest record unpacked. A Secret holds 1 MiB at most; text packs about ten to one.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Where a release stands; the words are Helm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are Helm's and say it all")]
pub enum Status {
    Unknown,
    Deployed,
    Uninstalled,
    Superseded,
    Failed,
    Uninstalling,
    PendingInstall,
    PendingUpgrade,
    PendingRollback,
}

impl Status {
    /// The word as it stands in labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Deployed => "deployed",
            Self::Uninstalled => "uninstalled",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Uninstalling => "uninstalling",
            Self::PendingInstall => "pending-install",
            Self::PendingUpgrade => "pending-upgrade",
            Self::PendingRollback => "pending-rollback",
        }
    }
}

/// One revision of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The release's name.
    #[serde(default)]
    pub name: String,
    /// When and how.
    pub info: Info,
    /// The chart as it was.
    #[serde(default)]
    pub chart: StoredChart,
    /// What the user gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Json>>,
    /// The rendered objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest: String,
    /// The hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Vec<Hook>>,
    /// The revision, from 1.
    #[serde(default)]
    pub version: u64,
    /// The namespace.
    #[serde(default)]
    pub namespace: String,
    /// What else a record has.
    #[serde(flatten)]
    pub other: Map<String, Json>,
}

/// When and how a revision came to be. Times are RFC 3339, empty for never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// When the release was first installed.
    #[serde(default)]
    pub first_deployed: String,
    /// When this revision was.
    #[serde(default)]
    pub last_deployed: String,
    /// When it was removed.
    #[serde(default)]
    pub deleted: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// Where it stands.
    pub status: Status,
    /// `NOTES.txt`, rendered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// What else there is.
    #[serde(flatten)]
    pub other: Map<String, Json>,
}

/// A chart within a record: without its subcharts, as Helm has it; the manifest is what counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StoredChart {
    /// `Chart.yaml`.
    pub metadata: Option<Metadata>,
    /// `Chart.lock`.
    #[serde(default)]
    pub lock: Json,
    /// The templates.
    #[serde(default)]
    pub templates: Option<Vec<File>>,
    /// `values.yaml`.
    #[serde(default)]
    pub values: Json,
    /// `values.schema.json`, base64.
    #[serde(default)]
    pub schema: Json,
    /// Other files.
    #[serde(default)]
    pub files: Option<Vec<File>>,
}

impl From<&Chart> for StoredChart {
    fn from(chart: &Chart) -> Self {
        Self {
            metadata: Some(chart.metadata.clone()),
            lock: Json::Null,
            templates: Some(chart.templates.clone()),
            values: chart.values.clone(),
            schema: chart.schema.as_ref().map_or(Json::Null, |it| BASE64.encode(it).into()),
            files: Some(chart.files.clone()),
        }
    }
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The Secret is no record.
    #[error("secret {name} is no release record: {message}")]
    Invalid {
        /// The Secret.
        name: String,
        /// What is wrong.
        message: String,
    },
}

impl Release {
    /// The name of the Secret that keeps a revision.
    #[must_use]
    pub fn secret_name(name: &str, version: u64) -> String {
        format!("sh.helm.release.v1.{name}.v{version}")
    }

    /// The Secret of this revision. `modified_at` is in seconds since 1970; Helm keeps it as a label.
    ///
    /// # Errors
    /// The record cannot be written as JSON, which does not happen for records made by this crate.
    pub fn to_secret(&self, modified_at: i64) -> Result<Json, ReleaseError> {
        let name = Self::secret_name(&self.name, self.version);
        let failed = |it: &dyn std::fmt::Display| ReleaseError::Invalid { name: name.clone(), message: it.to_string() };
        let record = serde_json::to_vec(self).map_err(|it| failed(&it))?;
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&record).map_err(|it| failed(&it))?;
        let packed = gzip.finish().map_err(|it| failed(&it))?;
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {
                    "name": self.name,
                    "owner": "helm",
                    "status": self.info.status.word(),
                    "version": self.version.to_string(),
                    "modifiedAt": modified_at.to_string(),
                },
            },
            "type": "helm.sh/release.v1",
            "data": { "release": BASE64.encode(BASE64.encode(&packed).as_bytes()) },
        }))
    }

    /// Reads a Secret of Helm's or ours.
    ///
    /// # Errors
    /// It is none of them, or damaged.
    pub fn from_secret(secret: &Json) -> Result<Self, ReleaseError> {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        let failed = |message: String| ReleaseError::Invalid { name: name.to_owned(), message };
        let Some(data) = secret["data"]["release"].as_str() else {
            return Err(failed("it has no data.release".into()));
        };
        let outer = BASE64.decode(data.as_bytes()).map_err(|it| failed(it.to_string()))?;
        let mut bytes = BASE64.decode(&outer).map_err(|it| failed(it.to_string()))?;
        // Records of the first Helm 3 were not packed.
        if bytes.starts_with(&[0x1f, 0x8b, 0x08]) {
            let mut unpacked = Vec::new();
            let read = GzDecoder::new(&bytes[..]).take(RECORD_BYTES_MAX + 1).read_to_end(&mut unpacked);
            let size = u64::try_from(read.map_err(|it| failed(it.to_string()))?).unwrap_or(u64::MAX);
            if size > RECORD_BYTES_MAX {
                return Err(failed(format!("it unpacks to more than {RECORD_BYTES_MAX} bytes")));
            }
            bytes = unpacked;
        }
        serde_json::from_slice(&bytes).map_err(|it| failed(it.to_string()))
    }
}
