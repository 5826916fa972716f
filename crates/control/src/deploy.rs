//! Types about applications and stacks.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// `GET /v1/catalogue`: an application that can be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueApp {
    /// The name it is installed by.
    pub name: String,
    /// Version of its chart.
    pub version: String,
    /// One line on what it is.
    pub summary: String,
    /// A page on what it is, in Markdown.
    pub page: String,
    /// What it asks for.
    pub asks: Vec<AppAsk>,
    /// What it needs.
    pub needs: AppNeeds,
}

/// A value that an application asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppAsk {
    /// Its path among the values, such as `image.tag`.
    pub path: String,
    /// What it is.
    pub what: String,
    /// What holds if it is not given.
    pub default: Json,
    /// Whether the application is of no use without it.
    pub required: bool,
}

/// What an application needs of an eVDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppNeeds {
    /// Nodes.
    pub nodes: u64,
    /// Memory over all its pods, in MiB.
    pub memory_mib: u64,
    /// Storage, in MiB.
    pub storage_mib: u64,
    /// Whether a gateway makes it reachable.
    pub gateway: bool,
}

/// `POST /v1/evdcs/{evdc}/apps/{release}/install`. Answers with [`Event`](crate::Event)s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallRequest {
    /// The application; of a release that is upgraded, by default what it is.
    pub app: Option<String>,
    /// Where.
    pub namespace: String,
    /// What is given.
    pub values: Json,
    /// Whether the release is there already: then what is given is laid over what was given before.
    pub upgrade: bool,
}

/// `POST /v1/evdcs/{evdc}/apps/{release}/rollback`. Answers with [`Event`](crate::Event)s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// Where.
    pub namespace: String,
    /// To which revision; by default the one before.
    pub revision: Option<u64>,
}

/// `POST /v1/evdcs/{evdc}/apps/{release}/remove`. Answers with [`Event`](crate::Event)s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UninstallRequest {
    /// Where.
    pub namespace: String,
    /// Whether its volumes go, too.
    pub data: bool,
}

/// `GET /v1/evdcs/{evdc}/apps`, `GET /v1/evdcs/{evdc}/apps/{release}`: a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// The eVDC.
    pub evdc: String,
    /// Its name.
    pub release: String,
    /// Its namespace.
    pub namespace: String,
    /// The application.
    pub app: String,
    /// Version of its chart.
    pub version: String,
    /// The revision, from 1.
    pub revision: u64,
    /// `deployed`, `failed`, `pending-install`, …
    pub status: String,
    /// When this revision was installed (RFC 3339).
    pub updated: String,
    /// What was given.
    pub values: Json,
    /// What the application says to whoever installed it.
    pub notes: String,
    /// What it consists of; empty in listings.
    pub objects: Vec<AppObject>,
}

/// One object of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppObject {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `2/2 ready`, `there`, `missing`, …
    pub state: String,
    /// Whether it is as it should be.
    pub good: bool,
}

/// A pod of an eVDC, as the dashboard shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The member that it is on, once it is on one.
    pub node: Option<String>,
    /// `Running`, `Pending`, …, or why it waits.
    pub state: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u64,
}

/// What a removal left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedApp {
    /// The release.
    pub release: String,
    /// Claims of volumes that are kept with their data.
    pub kept: Vec<String>,
}

/// A file of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackFile {
    /// Its name as errors show it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Which stack, and what is wanted of it: `POST /v1/stacks/plan`, `POST /v1/stacks/apply`, `POST /v1/stacks/drift`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRequest {
    /// Its files.
    pub files: Vec<StackFile>,
    /// Its name, where there are no files any more.
    pub name: Option<String>,
    /// Whether nothing is to be left of it.
    pub destroy: bool,
    /// The digest of the plan that somebody agreed to; another one is not carried out.
    pub shown: Option<String>,
}

/// What would be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StackPlan {
    /// The stack.
    pub stack: String,
    /// Whether nothing would be done.
    pub empty: bool,
    /// Each change: `change` (`create`, `update`, `replace`, `delete`, `record`), `id`, and what it writes or changes.
    pub changes: Json,
    /// The same for people.
    pub text: String,
    /// What tells this plan from another.
    pub digest: String,
}

/// What has moved since it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StackDrift {
    /// Each resource that moved: `id`, `missing`, and `fields` with `path`, `from`, `to`.
    pub moved: Json,
    /// The same for people.
    pub text: String,
}

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StackSummary {
    /// The stack.
    pub stack: String,
    /// Resources made.
    pub created: u64,
    /// Changed.
    pub changed: u64,
    /// Made anew.
    pub replaced: u64,
    /// Deleted.
    pub deleted: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// `POST /v1/images/sample`: makes the image of the catalogue's own servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRequest {
    /// Its tag: the version that they report.
    pub tag: String,
}
