//! Makes the pods bound to this node run, and reports on them. It schedules nothing and makes no endpoints: those are controllers'.
//!
//! [`Agent`] is what a kubelet, a kube-proxy and a network plugin's agent are together, as an ordinary API client: it registers the Node, renews its Lease, watches
//! the pods bound to
//! it, gives each a worker, and programs Services and NetworkPolicies into the pod network. What it runs containers with, how they get a network, images and persistent
//! volumes, is handed in ([`Parts`]).
//!
//! # How a pod is run
//!
//! [`plan::decide`] is pure: the pod as wanted and what is [observed] go in, one step comes out. A worker takes the step, notes what came of it and
//! asks again; it waits when there is none. So there is one code path for a new pod, a crashed container, an agent that was killed and a machine that was
//! restarted. [`status::status`] is pure as well and words things as kubelet does.
//!
//! # Invariants
//!
//! - **Containers outlive the agent.** Ending it ends none of them; the next one on the same folder takes them up and restarts nothing.
//! - **Noted before made**: what runs here is on disk first, so nothing is ever left that nobody knows of.
//! - **Not twice**: a pod with a volume that one node may write stops when the API server has been out of reach for
//!   [`Config::cut_off_after`]; the pod is deleted from the API only after nothing of it is left here, and only if it is this very one (uid).
//! - **Secrets touch memory only**: volumes made of objects lie in [`Config::volatile_dir`].
//!
//! - **No pod runs before it is known what it may**: its network is closed until its policies are in force, and its containers wait for that.
//!
//! # What is refused
//!
//! By name, as `CreateContainerConfigError` or `FailedMount` with what to do instead: privileged containers, host namespaces, hostPath
//! (unless allowed), subPath,
//! terminals of a container's own (exec has them), volumeDevices, gRPC and HTTPS probes, volume kinds other than emptyDir, configMap, secret, projected, downwardAPI and claims.
//! Ephemeral containers and static pods are not run.
//!
//! # How it fails
//!
//! It does not: whatever the API server, the runtime or a disk refuses is reported in the pod's status and events where they can be heard, logged, and
//! tried again. Only [`Agent::new`] can fail, for lack of its folders.

mod agent;
pub mod env;
pub mod files;
pub mod inputs;
mod launch;
mod log_files;
mod mirror;
mod node;
pub mod observed;
pub mod plan;
pub mod policies;
mod policy_watch;
mod probes;
pub mod quantity;
mod records;
mod report;
mod seams;
mod service_watch;
pub mod services;
pub mod status;
mod store_images;
pub mod streams;
mod volumes;
mod worker;

pub use agent::{Agent, Config, Parts, StartError};
pub use seams::{
    Attached, ImageFacts, ImageProblem, ImageSource, Network, Problem, Pull, UserIds, VolumeDriver, VolumeRequest,
};
pub use store_images::{Fetch, Registry, StoreImages};
