//! Why something cannot be deployed, and whose move it is.

use atoll_chart::lifecycle::LifecycleError;
use atoll_chart::{ChartError, ClusterError, ValuesError};
use atoll_cloud::{DialError, TenantError};
use atoll_iac::{CloudError, EngineError, PlanError, SourceError};
use atoll_images::{ImageError, ParseReferenceError};
use atoll_kv::KvError;
use thiserror::Error;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for is wrong.
    Input,
    /// What was named is not there.
    NotFound,
    /// It is there already, or is another by now.
    Conflict,
    /// Try again.
    Unavailable,
    /// Something that should hold does not.
    Broken,
}

/// Why something is not deployed.
#[derive(Debug, Error)]
pub enum DeployError {
    /// The eVDC cannot be had.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// Its API cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The API says no.
    #[error("{doing}: {source}")]
    Cluster {
        /// What was being done.
        doing: String,
        /// What it said.
        source: ClusterError,
    },
    /// The release cannot be made, changed or removed.
    #[error(transparent)]
    Release(#[from] LifecycleError),
    /// The chart is damaged.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// The values are none.
    #[error(transparent)]
    Values(#[from] ValuesError),
    /// There is no such application.
    #[error("there is no application {name:?} in the catalogue: {}", known.join(", "))]
    NoApp {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The release is of another application.
    #[error("release {release} is of {found}, not of {wanted}: take another name for it")]
    OtherApp {
        /// The release.
        release: String,
        /// Of what it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The name of an image is none.
    #[error("image {name:?}: {source}")]
    ImageName {
        /// The name.
        name: String,
        /// Why.
        source: ParseReferenceError,
    },
    /// The built-in image cannot be made.
    #[error("the image {name} cannot be made: {source}")]
    Image {
        /// Its name.
        name: String,
        /// Why.
        source: ImageError,
    },
    /// It was done and does not come up.
    #[error("{what} did not become ready within {seconds} s: {missing}")]
    NotReady {
        /// What.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// What is missing.
        missing: String,
    },
    /// The files of a stack are wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The stack cannot be planned or applied.
    #[error(transparent)]
    Engine(Box<EngineError>),
    /// What is planned is not done by this version.
    #[error("{0}")]
    NotDone(String),
    /// The plan is not the one that was shown.
    #[error("what is there has changed since the plan of stack {0} was shown: look at the plan again")]
    OtherPlan(String),
    /// What this node remembers cannot be read.
    #[error(transparent)]
    Store(#[from] KvError),
    /// A task ended early.
    #[error("{0}")]
    Broken(String),
}

impl DeployError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tenant(error) => tenant(error),
            Self::Dial(DialError::Credentials(_)) | Self::Chart(_) | Self::Store(_) | Self::Broken(_) => Kind::Broken,
            Self::Dial(_) | Self::NotReady { .. } => Kind::Unavailable,
            Self::Cluster { source, .. } | Self::Release(LifecycleError::Cluster { source, .. }) => cluster(source),
            Self::Release(LifecycleError::Missing(_)) | Self::NoApp { .. } => Kind::NotFound,
            Self::Release(LifecycleError::Exists(_)) | Self::OtherApp { .. } | Self::OtherPlan(_) => Kind::Conflict,
            Self::Release(LifecycleError::Render(_) | LifecycleError::Name(_)) => Kind::Input,
            Self::Release(LifecycleError::Record(_) | LifecycleError::Manifest { .. }) => Kind::Broken,
            Self::Values(_) | Self::ImageName { .. } | Self::Source(_) | Self::NotDone(_) => Kind::Input,
            Self::Image { .. } => Kind::Broken,
            Self::Engine(error) => engine(error),
        }
    }
}

fn tenant(error: &TenantError) -> Kind {
    match error {
        TenantError::TooFew(_) | TenantError::Node { .. } | TenantError::Leaving { .. } => Kind::Unavailable,
        TenantError::Membership(_) | TenantError::Gateway(_) => Kind::Input,
        TenantError::Exists(_) | TenantError::Stands(_) => Kind::Conflict,
        TenantError::NotFound(_) => Kind::NotFound,
        TenantError::Store(_) | TenantError::Corrupt(_) | TenantError::Random => Kind::Broken,
    }
}

fn cluster(error: &ClusterError) -> Kind {
    match error {
        ClusterError::Conflict(_) => Kind::Conflict,
        ClusterError::Unavailable(_) => Kind::Unavailable,
        ClusterError::Refused(_) => Kind::Input,
    }
}

fn engine(error: &EngineError) -> Kind {
    match error {
        EngineError::Plan(PlanError::NotOwned { .. } | PlanError::OtherStack { .. }) => Kind::Conflict,
        EngineError::Plan(PlanError::Circle(_)) => Kind::Input,
        EngineError::Inventory(_) => Kind::Broken,
        EngineError::Storage(error) | EngineError::Resource { source: error, .. } => match error {
            CloudError::Unavailable(_) => Kind::Unavailable,
            CloudError::Refused(_) => Kind::Input,
        },
    }
}

impl From<EngineError> for DeployError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

/// As the plan engine hears of it.
impl From<DeployError> for CloudError {
    fn from(error: DeployError) -> Self {
        match error.kind() {
            Kind::Unavailable | Kind::Broken => Self::Unavailable(error.to_string()),
            Kind::Input | Kind::NotFound | Kind::Conflict => Self::Refused(error.to_string()),
        }
    }
}

/// Says what was being done when the API said no.
pub(crate) fn doing(what: impl std::fmt::Display) -> impl FnOnce(ClusterError) -> DeployError {
    move |source| DeployError::Cluster { doing: what.to_string(), source }
}
