//! What the agent is given besides the API and the runtime: the pod network, volumes, images. The node implements them; tests have others.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use atoll_podnet::{PodKey, PodNet, Policies, Services};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// What went wrong beyond a seam, in words for the pod's events.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// Gives pods their network. [`PodNet`] is one.
pub trait Network: Send + Sync + 'static {
    /// The pod's address and the file that is its network namespace; the same again when it has one.
    fn attach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(Ipv6Addr, PathBuf), Problem>>;

    /// Takes it away; none is fine.
    fn detach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(), Problem>>;

    /// Pods that have one.
    fn attached(&self) -> Vec<PodKey>;

    /// Makes these the eVDC's Services; what was refused, in words.
    fn set_services<'a>(&'a self, services: &'a Services) -> BoxFuture<'a, Result<Vec<String>, Problem>>;

    /// Makes these the policies of this node's pods; what was refused, in words. A pod that is not among them is closed.
    fn set_policies<'a>(&'a self, policies: &'a Policies) -> BoxFuture<'a, Result<Vec<String>, Problem>>;

    /// Whether the pod was among the policies that are in force.
    fn is_known<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, bool>;
}

impl Network for PodNet {
    fn attach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(Ipv6Addr, PathBuf), Problem>> {
        async move {
            let attachment = Self::attach(self, pod).await.map_err(|error| Problem(error.to_string()))?;
            Ok((attachment.address, attachment.namespace))
        }
        .boxed()
    }

    fn detach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(), Problem>> {
        async move { Self::detach(self, pod).await.map_err(|error| Problem(error.to_string())) }.boxed()
    }

    fn attached(&self) -> Vec<PodKey> {
        self.attachments().into_keys().collect()
    }

    fn set_services<'a>(&'a self, services: &'a Services) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        async move {
            let update = Self::set_services(self, services).await.map_err(|error| Problem(error.to_string()))?;
            Ok(update.refused.iter().map(ToString::to_string).collect())
        }
        .boxed()
    }

    fn set_policies<'a>(&'a self, policies: &'a Policies) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        async move {
            let update = Self::set_policies(self, policies).await.map_err(|error| Problem(error.to_string()))?;
            Ok(update.refused.iter().map(ToString::to_string).collect())
        }
        .boxed()
    }

    fn is_known<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, bool> {
        Self::is_known(self, pod).boxed()
    }
}

/// A volume to be mounted: the PersistentVolume's `csi` source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRequest {
    /// `spec.csi.driver`.
    pub driver: String,
    /// `spec.csi.volumeHandle`.
    pub handle: String,
    /// `spec.csi.volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// Nobody writes.
    pub read_only: bool,
    /// An empty folder to mount on.
    pub target: PathBuf,
}

/// What mounting came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// It was mounted there, and whoever has it open goes on.
    Kept,
    /// It was mounted just now. A container that began earlier still has what was there before, which nobody serves any more.
    Anew,
}

/// Mounts persistent volumes. Mounting for writing fences every earlier writer.
pub trait VolumeDriver: Send + Sync + 'static {
    /// Mounts it; mounted there already is fine. What an earlier process has left there, dead, is taken away first.
    fn mount<'a>(&'a self, request: &'a VolumeRequest) -> BoxFuture<'a, Result<Attached, Problem>>;

    /// Flushes and unmounts; nothing mounted is fine.
    fn unmount<'a>(&'a self, target: &'a Path) -> BoxFuture<'a, Result<(), Problem>>;
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pull {
    /// Ask the registry every time; what is here already is not fetched again.
    Always,
    /// Only what is not here.
    IfNotPresent,
    /// What is here, or nothing.
    Never,
}

/// What the agent needs to know of an image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageFacts {
    /// The reference under which it lies here.
    pub reference: String,
    /// Its digest.
    pub id: String,
    /// Its command line.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]` by name or number; empty: root.
    pub user: String,
    /// Empty: `/`.
    pub working_dir: String,
    /// The signal that asks it to end; `SIGTERM` if it names none.
    pub stop_signal: Option<String>,
}

/// Why there is no image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImageProblem {
    /// Not a reference.
    #[error("{0}")]
    InvalidName(String),
    /// Not here, and it may not be fetched.
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    /// It could not be fetched.
    #[error("{0}")]
    Pull(String),
}

/// A user as numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// Images and the file systems made of them. The node may fetch from registries and from other nodes.
pub trait ImageSource: Send + Sync + 'static {
    /// The image, fetched if the policy says so. `auth`: docker `config.json` documents of the pod's `imagePullSecrets`.
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        pull: Pull,
        auth: &'a [Vec<u8>],
    ) -> BoxFuture<'a, Result<ImageFacts, ImageProblem>>;

    /// A file system of its own for the container of this id, and the numbers of this user (`user[:group]`) in it. The same again when it is there.
    fn rootfs<'a>(
        &'a self,
        image: &'a ImageFacts,
        id: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(PathBuf, UserIds), Problem>>;

    /// Removes it; none is fine.
    fn remove_rootfs<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Problem>>;
}
