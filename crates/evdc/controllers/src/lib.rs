//! What makes objects true: Deployments, ReplicaSets, StatefulSets, EndpointSlices, volumes, namespaces, garbage collection, the life of nodes, and the
//! scheduler's hands. All of it is an ordinary Kubernetes client: it asks for nothing that only our API server offers, so [`run`] serves a real
//! Kubernetes as well (with its own controllers switched off).
//!
//! **How it works.** One watch per kind keeps a copy of all objects; a change names the objects that have to be looked at; a controller looks at one
//! object at a time, as it is now, and does what is missing. Nothing is remembered between two looks that could not be read again, so it can be
//! killed at any time and started anew; an object is looked at once more every [`Config::resync`], so a lost signal heals.
//!
//! **Dead nodes.** A node whose Lease is not renewed for [`Config::node_grace`] becomes `Ready=Unknown` and tainted; its pods are no endpoints any more,
//! are deleted when their toleration ends, and, since nobody is there to confirm it, deleted without confirmation [`Config::force_delete_after`]
//! later. Only then can a pod of a StatefulSet start elsewhere under the same name. If the node is in truth alive and only cut off, both run for a
//! while. That is safe for what they keep on volumes of [`PROVISIONER`] because mounting such a volume raises its epoch and the older mount's writes
//! are refused from then on; a volume without such a fence must not be used with a short time here.
//!
//! **Not here:** scaling a Deployment in proportion while it rolls out, adopting pods without an owner, ControllerRevisions (a StatefulSet keeps no old
//! template: a pod recreated below a `partition` gets the new one), binding to volumes that nobody provisioned unless the claim names one,
//! DaemonSets, Jobs, autoscaling, quotas.
//!
//! **Failure.** A failed look is logged, and repeated later and later, up to half a minute. [`run`] ends when told to, or with [`RunError`] if it
//! lost the Lease that makes it the only one.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Toleration;
use kube::Client;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use crate::volumes::{PROVISIONER, ProvisionError, Provisioner, VolumeRequest};

mod accounts;
mod cache;
mod deployment;
mod driver;
mod endpoints;
mod events;
mod garbage;
mod leader;
mod namespaces;
mod nodes;
mod objects;
mod queue;
mod replicaset;
mod scheduling;
mod statefulset;
mod volumes;
mod world;

/// How the controllers behave. The defaults are Kubernetes'.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this is, as the holder of the Lease; unique among all that run.
    pub identity: String,
    /// Whether to hold the Lease `kube-system/atoll-controllers` while working, so that of several only one works.
    pub elect_leader: bool,
    /// How long a node may not renew its Lease before it counts as gone.
    pub node_grace: Duration,
    /// How long a pod stays on a node that is gone or not ready if it states no `tolerationSeconds` itself. The 300 that Kubernetes' admission writes
    /// into every pod that states nothing count as nothing stated.
    pub evict_after: Duration,
    /// How long after its deletion a pod on a node that is gone is deleted without anyone's confirmation. See the crate's page on dead nodes.
    pub force_delete_after: Duration,
    /// How often every object is looked at without a signal.
    pub resync: Duration,
    /// The certificates, in PEM, that pods need to trust the API server: kept as the ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca: Option<String>,
    /// The name of the scheduler; pods that ask for another are left alone.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: "atoll-controllers".to_owned(),
            elect_leader: false,
            node_grace: Duration::from_secs(40),
            evict_after: Duration::from_secs(300),
            force_delete_after: Duration::from_secs(30),
            resync: Duration::from_secs(60),
            root_ca: None,
            scheduler_name: "default-scheduler".to_owned(),
        }
    }
}

/// What Kubernetes' admission plugin `DefaultTolerationSeconds` writes into pods.
const ADMITTED_SECONDS: i64 = 300;

impl Config {
    /// How long the tolerations let a pod stay under a taint of effect NoExecute; `None` for ever.
    pub(crate) fn stay(&self, tolerations: &[&Toleration]) -> Option<Duration> {
        if tolerations.is_empty() {
            return Some(self.evict_after);
        }
        match tolerations.iter().filter_map(|it| it.toleration_seconds).min()? {
            ADMITTED_SECONDS => Some(self.evict_after),
            seconds => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
        }
    }
}

/// Why the controllers stopped by themselves.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another one leads now. Start again to wait for one's turn.
    #[error(
        "the Lease kube-system/atoll-controllers was lost to another holder or could not be renewed in time; start the controllers again"
    )]
    LeaseLost,
}

/// Runs all controllers and the scheduler until `shutdown`.
///
/// # Errors
/// [`RunError::LeaseLost`] if leading was asked for and lost.
pub async fn run(
    client: Client,
    config: Config,
    provisioner: Arc<dyn Provisioner>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    if !config.elect_leader {
        driver::run(client, config, provisioner, shutdown).await;
        return Ok(());
    }
    let leadership = leader::Leadership::new(client.clone(), config.identity.clone());
    if shutdown.run_until_cancelled(leadership.acquire()).await.is_none() {
        return Ok(());
    }
    let work = shutdown.child_token();
    let working = driver::run(client, config, provisioner, work.clone());
    tokio::pin!(working);
    tokio::select! {
        () = &mut working => {
            leadership.release().await;
            Ok(())
        }
        () = leadership.keep() => {
            work.cancel();
            working.await;
            Err(RunError::LeaseLost)
        }
    }
}
