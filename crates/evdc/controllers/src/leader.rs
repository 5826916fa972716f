//! Leading by a Lease, as Kubernetes' own components do: of all that ask, one works.
//!
//! The holder renews every few seconds; who does not is out after [`LEASE_SECONDS`] by everyone else's own clock since they saw the last renewal, so clocks
//! need not agree. The holder stops before that.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "atoll-controllers";

/// How long a Lease holds without renewal; Kubernetes' own number.
const LEASE_SECONDS: i32 = 15;

/// When the holder gives up without a renewal: before others may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(2);

pub(crate) struct Leadership {
    api: Api<Lease>,
    identity: String,
}

impl Leadership {
    pub(crate) fn new(client: Client, identity: String) -> Self {
        Self { api: Api::namespaced(client, NAMESPACE), identity }
    }

    /// Waits until the Lease is ours.
    pub(crate) async fn acquire(&self) {
        let mut seen: Option<(Option<MicroTime>, Instant)> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => {
                    info!(identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => warn!(%error, "cannot ask for the Lease {NAMESPACE}/{NAME}"),
            }
            sleep(RETRY).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Option<(Option<MicroTime>, Instant)>) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(1)) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let held =
                Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS)).unwrap_or(0));
            let since = match seen {
                Some((time, since)) if *time == spec.renew_time => *since,
                _ => seen.insert((spec.renew_time, Instant::now())).1,
            };
            if since.elapsed() < held {
                return Ok(false);
            }
        }
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or(0) + 1));
        won(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_duration_seconds: Some(LEASE_SECONDS),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Renews until that fails for too long or another holds the Lease.
    pub(crate) async fn keep(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            sleep(RETRY).await;
            match self.renew().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => warn!(%error, "cannot renew the Lease {NAMESPACE}/{NAME}"),
            }
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let mut lease = self.api.get(NAME).await?;
        let Some(spec) = lease.spec.as_mut() else { return Ok(false) };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(false);
        }
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(|_| true)
    }

    /// Gives the Lease up, so that another need not wait.
    pub(crate) async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(NAME).await?;
            if let Some(spec) =
                lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
            {
                spec.holder_identity = None;
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = released.await {
            warn!(%error, "cannot release the Lease {NAMESPACE}/{NAME}; it ends by itself");
        }
    }
}

/// Whoever meets a conflict was not first.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
