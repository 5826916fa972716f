//! [`PodNet`]: the one handle. It orders what the other modules do, and holds what is live: the pods' records, the Services and the policies programmed.
//! Memory follows the kernel: a record is written before its namespace is made and removed after it is gone; Services are noted after they are in force.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::address::allocate;
use crate::command::{CommandError, Tool, nft, run};
use crate::config::{Config, ConfigError, PodKey};
use crate::host;
use crate::policies::{self, Policies, PolicyUpdate, Verdicts};
use crate::records::{PodRecord, Records};
use crate::rules::{Move, Rules};
use crate::services::{Services, Update, admit, difference};

/// Why something about the network could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PodNetError {
    /// The configuration cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not permitted.
    #[error("pod networks need root (CAP_NET_ADMIN and CAP_SYS_ADMIN): start the node as root, or without workloads")]
    NotRoot,
    /// No planetary interface.
    #[error("there is no interface {0}: start the planetary network before the pod network")]
    NoPlanetary(String),
    /// The run folder's path.
    #[error("{0} cannot be the run folder: an absolute path without white space and quotes is needed")]
    RunDir(PathBuf),
    /// A tool of the system.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Thousands of collisions.
    #[error("no free address for pod {0}")]
    NoAddress(PodKey),
}

impl PodNetError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// What a pod has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Its address, for as long as it is attached.
    pub address: Ipv6Addr,
    /// Its network namespace, as a file: what an OCI runtime takes as the path of a namespace.
    pub namespace: PathBuf,
    /// The host's end of its pair of interfaces.
    pub interface: String,
}

/// The network of one eVDC on this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodNet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    records: Records,
    /// Held for moments: allocation and bookkeeping.
    pods: std::sync::Mutex<BTreeMap<PodKey, PodRecord>>,
    /// Held over a transaction: the kernel takes one at a time anyway. Guards what was programmed last.
    services: Mutex<Services>,
    /// The same for policies, and for which pods they are in force.
    enforced: Mutex<Enforced>,
}

/// What of policies the kernel has.
#[derive(Debug, Default)]
struct Enforced {
    policies: Policies,
    /// Of pods that have elements in the maps, however far their attaching came.
    verdicts: BTreeMap<PodKey, (String, Verdicts)>,
}

impl PodNet {
    /// Raises the network, or takes up the one that an earlier process left: pods keep their addresses and connections.
    ///
    /// # Errors
    ///
    /// A configuration that cannot be; no root, no tools, no planetary interface; anything the system refuses.
    pub async fn open(config: Config) -> Result<Self, PodNetError> {
        config.check()?;
        if !rustix::process::geteuid().is_root() {
            return Err(PodNetError::NotRoot);
        }
        if !host::is_plain(&config.run_dir) {
            return Err(PodNetError::RunDir(config.run_dir));
        }
        for tool in Tool::ALL {
            run(tool, "say its version", &[if tool == Tool::Ip { "-V" } else { "--version" }], "").await?;
        }
        if let Some(planetary) = &config.planetary
            && host::mtu_of(planetary).await?.is_none()
        {
            return Err(PodNetError::NoPlanetary(planetary.clone()));
        }
        let records = Records::open(&config.run_dir).map_err(PodNetError::io("could not open the run folder"))?;
        let services = records.services().map_err(PodNetError::io("could not read the Services last programmed"))?;
        let found = records.pods().map_err(PodNetError::io("could not read the records of pods"))?;
        let pods = still_alive(&records, found).await?;
        host::forward().map_err(PodNetError::io("could not switch IPv6 forwarding on"))?;
        // What an earlier configuration allowed is not what this one does.
        let (services, _) = admit(&config, &services);
        let policies = records.policies().map_err(PodNetError::io("could not read the policies last programmed"))?;
        let (policies, _) = policies::admit(&config, &policies);
        nft("raise the eVDC's table", &Rules::new(&config).replace(&pods, &services, &policies)).await?;
        host::raise(&config).await?;
        let verdict =
            |(pod, record): (&PodKey, &PodRecord)| (pod.clone(), (record.interface.clone(), policies.verdicts(pod)));
        let verdicts = pods.iter().map(verdict).collect();
        let shared = Shared {
            config,
            records,
            pods: std::sync::Mutex::new(pods),
            services: Mutex::new(services),
            enforced: Mutex::new(Enforced { policies, verdicts }),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Makes sure again of the node's address and routes, which go when the planetary interface is raised anew.
    ///
    /// # Errors
    ///
    /// What `ip` refuses, such as an interface that is not there.
    pub async fn refresh(&self) -> Result<(), PodNetError> {
        Ok(host::raise(&self.shared.config).await?)
    }

    /// Gives the pod its network, or says which it has. The caller does not attach and detach the same pod at the same time.
    ///
    /// # Errors
    ///
    /// What the system refuses; what was made until then is found and finished, or removed, by the next call.
    pub async fn attach(&self, pod: &PodKey) -> Result<Attachment, PodNetError> {
        let shared = &*self.shared;
        let namespace = shared.records.namespace(pod);
        let record = self.record_for(pod)?;
        if !host::is_namespace(&namespace) || !host::is_connected(&record.interface).await? {
            host::disconnect(&record.interface).await?;
            let broken = "could not remove what was left of a namespace";
            host::remove_namespace(&namespace).map_err(PodNetError::io(broken))?;
            // Closed before connected: there is no moment in which a pod could send, or hear, what it may not.
            self.let_in(pod, &record).await?;
            host::make_namespace(&namespace).await?;
            let mtu = host::mtu(&shared.config).await?;
            host::connect(&record, shared.config.node_address(), mtu, &namespace).await?;
            tracing::debug!(%pod, address = %record.address, "pod attached");
        }
        Ok(Attachment { address: record.address, namespace, interface: record.interface })
    }

    /// The pod's elements, with its policy in force: as it was last given, or closed.
    async fn let_in(&self, pod: &PodKey, record: &PodRecord) -> Result<(), PodNetError> {
        let rules = Rules::new(&self.shared.config);
        let mut enforced = self.shared.enforced.lock().await;
        let after = enforced.policies.verdicts(pod);
        let before = enforced.verdicts.get(pod).map(|(_, verdicts)| verdicts);
        let mut commands = rules.move_pod(&Move { interface: &record.interface, before, after: Some(&after) });
        commands.extend(rules.add_pod(record));
        nft("let a pod in", &commands).await?;
        enforced.verdicts.insert(pod.clone(), (record.interface.clone(), after));
        Ok(())
    }

    /// The pod's record, made and kept on disk if it is new.
    fn record_for(&self, pod: &PodKey) -> Result<PodRecord, PodNetError> {
        let shared = &*self.shared;
        let mut pods = self.pods();
        if let Some(record) = pods.get(pod) {
            return Ok(record.clone());
        }
        let taken: BTreeSet<Ipv6Addr> = pods.values().map(|record| record.address).collect();
        let interfaces: BTreeSet<String> = pods.values().map(|record| record.interface.clone()).collect();
        let identity = allocate(shared.config.tag.as_str(), pod.as_str(), &shared.config.node, &taken, &interfaces)
            .ok_or_else(|| PodNetError::NoAddress(pod.clone()))?;
        let record = PodRecord::new(identity.address, identity.interface);
        shared.records.save_pod(pod, &record).map_err(PodNetError::io("could not note a pod's address"))?;
        pods.insert(pod.clone(), record.clone());
        Ok(record)
    }

    /// Takes the pod's network away; its address is free again. A pod that has none is fine.
    ///
    /// # Errors
    ///
    /// What the system refuses; the pod stays known and can be detached again.
    pub async fn detach(&self, pod: &PodKey) -> Result<(), PodNetError> {
        let shared = &*self.shared;
        let record = self.pods().get(pod).cloned();
        let Some(record) = record else { return Ok(()) };
        host::disconnect(&record.interface).await?;
        host::remove_namespace(&shared.records.namespace(pod))
            .map_err(PodNetError::io("could not remove a pod's namespace"))?;
        let rules = Rules::new(&shared.config);
        let mut enforced = shared.enforced.lock().await;
        let before = enforced.verdicts.get(pod).map(|(_, verdicts)| verdicts);
        let mut commands = rules.move_pod(&Move { interface: &record.interface, before, after: None });
        commands.extend(rules.remove_pod(&record));
        nft("let a pod go", &commands).await?;
        enforced.verdicts.remove(pod);
        drop(enforced);
        shared.records.remove_pod(pod).map_err(PodNetError::io("could not forget a pod's address"))?;
        self.pods().remove(pod);
        Ok(())
    }

    /// All pods that have a network here, also from before this process.
    #[must_use]
    pub fn attachments(&self) -> BTreeMap<PodKey, Attachment> {
        let attachment = |(pod, record): (&PodKey, &PodRecord)| {
            let namespace = self.shared.records.namespace(pod);
            let attachment = Attachment { address: record.address, namespace, interface: record.interface.clone() };
            (pod.clone(), attachment)
        };
        self.pods().iter().map(attachment).collect()
    }

    /// Makes these the eVDC's Services. Only differences to the last call are programmed, in one transaction; connections that exist stay.
    ///
    /// # Errors
    ///
    /// What `nft` refuses; then nothing has changed.
    pub async fn set_services(&self, wanted: &Services) -> Result<Update, PodNetError> {
        let shared = &*self.shared;
        let (admitted, refused) = admit(&shared.config, wanted);
        let mut current = shared.services.lock().await;
        let difference = difference(&current, &admitted);
        let changed = difference.added.len() + difference.changed.len();
        let removed = difference.removed.len();
        if changed + removed > 0 {
            nft("change Services", &Rules::new(&shared.config).change_services(&difference)).await?;
            *current = admitted;
            shared.records.save_services(&current).map_err(PodNetError::io("could not note the Services"))?;
        }
        Ok(Update { changed, removed, refused })
    }

    /// Makes these the policies of this node's pods. Only differences to the last call are programmed, in one transaction. What a connection may is asked of
    /// every packet of the side that began it, so one that is allowed before and after goes on, and one that is not any more ends.
    ///
    /// # Errors
    ///
    /// What `nft` refuses; then nothing has changed.
    pub async fn set_policies(&self, wanted: &Policies) -> Result<PolicyUpdate, PodNetError> {
        let shared = &*self.shared;
        let (admitted, refused) = policies::admit(&shared.config, wanted);
        let mut enforced = shared.enforced.lock().await;
        if enforced.policies == admitted {
            return Ok(PolicyUpdate { changed: 0, refused });
        }
        let after: BTreeMap<PodKey, (String, Verdicts)> = enforced
            .verdicts
            .iter()
            .map(|(pod, (interface, _))| (pod.clone(), (interface.clone(), admitted.verdicts(pod))))
            .collect();
        let moved = enforced.verdicts.values().zip(after.values());
        let moves: Vec<Move<'_>> = moved
            .filter(|(before, after)| before != after)
            .map(|(before, after)| Move { interface: &after.0, before: Some(&before.1), after: Some(&after.1) })
            .collect();
        let commands = Rules::new(&shared.config).change_policies(&enforced.policies, &admitted, &moves);
        if !commands.is_empty() {
            nft("change policies", &commands).await?;
        }
        *enforced = Enforced { policies: admitted, verdicts: after };
        let broken = "could not note the policies";
        shared.records.save_policies(&enforced.policies).map_err(PodNetError::io(broken))?;
        Ok(PolicyUpdate { changed: commands.len(), refused })
    }

    /// Whether it is known what this pod may; until then it is closed.
    pub async fn is_known(&self, pod: &PodKey) -> bool {
        self.shared.enforced.lock().await.policies.pods.contains_key(pod)
    }

    /// Ends it all: every pod's network, the routes, the rules, the run folder. Pods must not run any more.
    ///
    /// # Errors
    ///
    /// What the system refuses; may be called again, also after a new [`PodNet::open`].
    pub async fn tear_down(&self) -> Result<(), PodNetError> {
        let shared = &*self.shared;
        let keys: Vec<PodKey> = self.pods().keys().cloned().collect();
        for pod in keys {
            self.detach(&pod).await?;
        }
        let mut services = shared.services.lock().await;
        nft("remove the eVDC's table", &Rules::new(&shared.config).absent()).await?;
        services.clear();
        host::lower(&shared.config).await?;
        shared.records.remove_all().map_err(PodNetError::io("could not remove the run folder"))
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodKey, PodRecord>> {
        // Nothing under this lock panics half-way through a change.
        self.shared.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Keeps the records whose namespaces still are; what is left of others is removed.
async fn still_alive(
    records: &Records,
    found: Vec<(PodKey, PodRecord)>,
) -> Result<BTreeMap<PodKey, PodRecord>, PodNetError> {
    let mut alive = BTreeMap::new();
    for (pod, record) in found {
        let namespace = records.namespace(&pod);
        if host::is_namespace(&namespace) {
            alive.insert(pod, record);
            continue;
        }
        host::disconnect(&record.interface).await?;
        host::remove_namespace(&namespace).map_err(PodNetError::io("could not remove what was left of a pod"))?;
        records.remove_pod(&pod).map_err(PodNetError::io("could not forget a pod that is gone"))?;
    }
    Ok(alive)
}
