//! The plan engine's [`Cloud`]: leases and eVDCs of the tenant, releases and objects of the eVDC's API.

use std::time::Duration;

use atoll_chart::lifecycle::{self, LifecycleError};
use atoll_chart::{ObjectRef, Status};
use atoll_cloud::{Evdc, TenantError, Wish};
use atoll_iac::{Cloud, CloudError, Resource, ResourceId};
use atoll_ids::{ByteCount, NodeId};
use atoll_lease::Capacity;
use serde_json::{Value as Json, json};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::apps::{self, Install};
use crate::error::{DeployError, Kind, doing};
use crate::objects::Objects;
use crate::tell::{Note, Tell};
use crate::{Deploy, images, inventories, rollout};

/// Pods on each node of a stack: the default of `atoll evdc create`.
const PODS: u32 = 30;

/// How long an object may take to go: pods get 30 s to end.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// One stack's view of the cloud.
pub(crate) struct StackCloud<'a> {
    pub(crate) deploy: &'a Deploy,
    /// The eVDC that the stack's applications and objects are in.
    pub(crate) evdc: Option<String>,
    /// Everything is to go: what is in an eVDC that cannot be reached goes with it.
    pub(crate) destroying: bool,
    pub(crate) tell: &'a Tell,
    pub(crate) api: OnceCell<Objects>,
}

impl StackCloud<'_> {
    async fn evdc(&self, name: &str) -> Result<Option<Evdc>, DeployError> {
        match self.deploy.tenant.get(name).await {
            Ok(evdc) if evdc.removing => Ok(None),
            Ok(evdc) => Ok(Some(evdc)),
            Err(TenantError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The API of the stack's eVDC; `None` if the eVDC is not there (yet, or any more).
    async fn api(&self) -> Result<Option<&Objects>, DeployError> {
        let Some(name) = &self.evdc else { return Ok(None) };
        if self.evdc(name).await?.is_none_or(|evdc| evdc.reserved) {
            return Ok(None);
        }
        match self.api.get_or_try_init(|| self.deploy.objects(name)).await {
            Ok(api) => Ok(Some(api)),
            Err(error) if self.destroying && error.kind() == Kind::Unavailable => {
                (self.tell)(Note::Warning(format!("what is in {name} cannot be looked at, and goes with it: {error}")));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn api_needed(&self) -> Result<&Objects, DeployError> {
        let missing = || TenantError::NotFound(self.evdc.clone().unwrap_or_default());
        self.api().await?.ok_or_else(|| missing().into())
    }

    async fn look(&self, id: &ResourceId) -> Result<Option<Json>, DeployError> {
        match id {
            ResourceId::Lease { evdc, index } => {
                Ok(self.evdc(evdc).await?.and_then(|evdc| lease(&evdc, *index, self.destroying)))
            }
            ResourceId::Evdc(name) => Ok(self.evdc(name).await?.filter(|it| !it.reserved).map(|it| standing(&it))),
            ResourceId::App { namespace, name } => {
                let Some(api) = self.api().await? else { return Ok(None) };
                let history = lifecycle::history(api, namespace, name).await?;
                let Some(last) = history.last() else { return Ok(None) };
                let mut live = apps::live(last);
                if !self.destroying && last.info.status == Status::Deployed {
                    live["moved"] = json!(apps::moved(api, last).await?);
                }
                Ok(Some(live))
            }
            ResourceId::Object { .. } => {
                let Some(api) = self.api().await? else { return Ok(None) };
                let (of, namespace) = object(id);
                api.get(&of, &namespace).await.map_err(doing(format!("reading {of}")))
            }
        }
    }

    async fn make(&self, resource: &Resource) -> Result<(), DeployError> {
        match &resource.id {
            ResourceId::Lease { evdc, index } => {
                let nodes = usize::try_from(*index).unwrap_or(usize::MAX);
                let wish =
                    Wish { name: evdc.clone(), nodes, each: capacity(&resource.spec), price_max: 0, gateway: None };
                self.deploy.tenant.reserve(wish).await?;
                Ok(())
            }
            ResourceId::Evdc(name) => {
                let gateway = resource.spec["gateway"].as_str().map(|domain| self.gateway(domain)).transpose()?;
                let evdc = self.deploy.tenant.open(name, gateway).await?;
                self.deploy.wait_ready(&evdc, self.tell).await
            }
            ResourceId::App { namespace, name } => self.make_app(namespace, name, &resource.spec).await,
            ResourceId::Object { .. } => {
                let api = self.api_needed().await?;
                let (of, namespace) = object(&resource.id);
                let spec = std::slice::from_ref(&resource.spec);
                images::provide(&self.deploy.images, spec, self.tell).await?;
                let applied = api.apply(&resource.spec, &namespace, false).await;
                applied.map_err(doing(format!("applying {of}")))?;
                rollout::wait(api, spec, &namespace, self.tell).await
            }
        }
    }

    async fn make_app(&self, namespace: &str, name: &str, spec: &Json) -> Result<(), DeployError> {
        let api = self.api_needed().await?;
        let history = lifecycle::history(api, namespace, name).await?;
        let install = Install {
            app: spec["app"].as_str().unwrap_or_default().to_owned(),
            release: name.to_owned(),
            namespace: namespace.to_owned(),
            values: spec["values"].clone(),
            upgrade: apps::is_up(&history),
        };
        self.deploy.put(api, &install, self.tell).await
    }

    /// Which peer is the gateway of a domain.
    fn gateway(&self, domain: &str) -> Result<(NodeId, String), DeployError> {
        let known = (self.deploy.gateways)();
        let mut found = known.iter().filter(|(_, it)| it.eq_ignore_ascii_case(domain));
        match (found.next(), found.next()) {
            (Some((node, _)), None) => Ok((*node, domain.to_ascii_lowercase())),
            (Some(_), Some(_)) => Err(DeployError::NotDone(format!(
                "more than one peer says that it is the gateway of {domain}: forget one of them (`atoll forget`)"
            ))),
            (None, _) => {
                let names: Vec<&str> = known.iter().map(|(_, it)| it.as_str()).collect();
                let there =
                    if names.is_empty() { "none is known".into() } else { format!("known are {}", names.join(", ")) };
                Err(DeployError::NotDone(format!(
                    "no peer is the gateway of {domain} ({there}): join one that runs with gateway.domain={domain}"
                )))
            }
        }
    }

    async fn unmake(&self, id: &ResourceId) -> Result<(), DeployError> {
        match id {
            ResourceId::Lease { evdc, index } => {
                if self.evdc(evdc).await?.is_none() {
                    return Ok(());
                }
                let left = usize::try_from(index.saturating_sub(1)).unwrap_or(usize::MAX);
                Ok(self.deploy.tenant.return_reserved(evdc, left).await?)
            }
            ResourceId::Evdc(name) => match self.evdc(name).await? {
                Some(evdc) if !evdc.reserved => self.deploy.give_back(name, self.tell).await,
                _ => Ok(()),
            },
            ResourceId::App { namespace, name } => {
                let Some(api) = self.api().await? else { return Ok(()) };
                match apps::uninstall(api, namespace, name, self.tell).await {
                    Err(DeployError::Release(LifecycleError::Missing(_))) => Ok(()),
                    done => done,
                }
            }
            ResourceId::Object { .. } => {
                let Some(api) = self.api().await? else { return Ok(()) };
                let (of, namespace) = object(id);
                api.delete(&of, &namespace).await.map_err(doing(format!("deleting {of}")))?;
                self.wait_gone(api, &of, &namespace).await
            }
        }
    }

    async fn wait_gone(&self, api: &Objects, of: &ObjectRef, namespace: &str) -> Result<(), DeployError> {
        let deadline = Instant::now() + GONE_WITHIN;
        while api.get(of, namespace).await.map_err(doing(format!("reading {of}")))?.is_some() {
            if Instant::now() >= deadline {
                let (what, seconds) = (format!("the deletion of {of}"), GONE_WITHIN.as_secs());
                return Err(DeployError::NotReady { what, seconds, missing: "it is still there".into() });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

impl Cloud for StackCloud<'_> {
    async fn get(&self, id: &ResourceId) -> Result<Option<Json>, CloudError> {
        Ok(self.look(id).await?)
    }

    async fn apply(&self, resource: &Resource, _last: Option<&Json>) -> Result<(), CloudError> {
        // Fields that are not written any more go by themselves: the API knows which were ours (server-side apply), a release is made whole.
        Ok(self.make(resource).await?)
    }

    async fn delete(&self, id: &ResourceId) -> Result<(), CloudError> {
        Ok(self.unmake(id).await?)
    }

    async fn load(&self, stack: &str) -> Result<Option<Json>, CloudError> {
        Ok(inventories::load(&*self.deploy.kv, stack).await.map_err(DeployError::from)?)
    }

    async fn store(&self, stack: &str, inventory: Option<&Json>) -> Result<(), CloudError> {
        Ok(inventories::store(&*self.deploy.kv, stack, inventory).await.map_err(DeployError::from)?)
    }
}

/// A lease as a plan sees it. One that was not granted yet counts where everything is to go.
fn lease(evdc: &Evdc, index: u64, also_not_granted: bool) -> Option<Json> {
    // Those that lend storage alone come with the eVDC; no stack names them.
    let mut named = evdc.picks.iter().filter(|pick| !pick.is_storage_only());
    let pick = named.nth(usize::try_from(index.checked_sub(1)?).ok()?)?;
    if pick.lease.is_none() && !also_not_granted {
        return None;
    }
    let Capacity { cpu_milli, memory, storage, .. } = evdc.wish.each;
    Some(json!({ "cpuMillis": cpu_milli, "memoryBytes": memory.0, "storageBytes": storage.0 }))
}

/// An eVDC as a plan sees it.
fn standing(evdc: &Evdc) -> Json {
    let name = &evdc.wish.name;
    let leases: Vec<String> = (1..=evdc.wish.nodes).map(|index| format!("lease/{name}/{index}")).collect();
    let gateway = evdc.wish.gateway.as_ref().map(|(_, domain)| domain);
    json!({ "leases": leases, "gateway": gateway })
}

fn capacity(spec: &Json) -> Capacity {
    let number = |key: &str| spec[key].as_u64().unwrap_or(0);
    Capacity {
        cpu_milli: u32::try_from(number("cpuMillis")).unwrap_or(u32::MAX),
        memory: ByteCount(number("memoryBytes")),
        storage: ByteCount(number("storageBytes")),
        pods: PODS,
    }
}

fn object(id: &ResourceId) -> (ObjectRef, String) {
    match id {
        ResourceId::Object { api_version, kind, namespace, name } => {
            let of = ObjectRef {
                api_version: api_version.clone(),
                kind: kind.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
            };
            (of, namespace.clone().unwrap_or_else(|| "default".to_owned()))
        }
        // Only objects are asked for.
        other => (
            ObjectRef { api_version: String::new(), kind: String::new(), namespace: None, name: other.to_string() },
            String::new(),
        ),
    }
}
