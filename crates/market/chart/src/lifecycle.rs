//! Install, upgrade, roll back, uninstall, list: first a [`Plan`] that says what would be done, then its execution.
//!
//! A record is written before anything is applied (`pending-…`) and again when it is known how it ended, so that an interruption is seen
//! and the next attempt can go on: everything applied is applied again without harm. Two at a time are told apart by the record's name,
//! which only one can create.

use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use crate::chart::Chart;
use crate::cluster::{Cluster, ClusterError, ObjectRef};
use crate::manifest::{self, Hook, HookEvent};
use crate::release::{Info, Release, ReleaseError, Status, StoredChart};
use crate::render::{self, RenderError, RenderOptions};

/// Revisions kept of a release, as Helm's default.
const HISTORY_MAX: usize = 10;

/// Why a release cannot be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The chart does not render.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The cluster said no.
    #[error("{doing}: {source}")]
    Cluster {
        /// What was being done.
        doing: String,
        /// What it said.
        source: ClusterError,
    },
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] ReleaseError),
    /// There is no such release or revision.
    #[error("release {0} does not exist: `atoll app list` shows what does")]
    Missing(String),
    /// There is one already.
    #[error("release {0} exists already: upgrade it, or take another name")]
    Exists(String),
    /// A name that Kubernetes would not take.
    #[error("release name {0:?} must be 1 to 53 lower-case letters, digits and dashes")]
    Name(String),
    /// What the record keeps is no list of objects.
    #[error("release {name}: its stored objects cannot be read: {message}")]
    Manifest {
        /// The release.
        name: String,
        /// What is wrong.
        message: String,
    },
}

fn doing(what: impl std::fmt::Display) -> impl FnOnce(ClusterError) -> LifecycleError {
    move |source| LifecycleError::Cluster { doing: what.to_string(), source }
}

/// What will be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The record to be written; for an uninstallation the last one.
    pub release: Release,
    /// Custom resource definitions applied first.
    pub crds: Vec<Json>,
    /// Objects applied, in order.
    pub apply: Vec<Json>,
    /// Objects deleted afterwards, in order.
    pub delete: Vec<ObjectRef>,
    /// What was not done, for people.
    pub warnings: Vec<String>,
    action: Action,
    history: Vec<Release>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Install,
    Upgrade,
    Rollback,
    Uninstall,
}

impl Action {
    fn events(self) -> [HookEvent; 2] {
        match self {
            Self::Install => [HookEvent::PreInstall, HookEvent::PostInstall],
            Self::Upgrade => [HookEvent::PreUpgrade, HookEvent::PostUpgrade],
            Self::Rollback => [HookEvent::PreRollback, HookEvent::PostRollback],
            Self::Uninstall => [HookEvent::PreDelete, HookEvent::PostDelete],
        }
    }

    fn pending(self) -> Status {
        match self {
            Self::Install => Status::PendingInstall,
            Self::Upgrade => Status::PendingUpgrade,
            Self::Rollback => Status::PendingRollback,
            Self::Uninstall => Status::Uninstalling,
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Install => "Install complete",
            Self::Upgrade => "Upgrade complete",
            Self::Rollback => "Rollback complete",
            Self::Uninstall => "Uninstallation complete",
        }
    }
}

/// All revisions of one release, the oldest first.
///
/// # Errors
/// The cluster does not answer, or a record is damaged.
pub async fn history<C: Cluster>(cluster: &C, namespace: &str, name: &str) -> Result<Vec<Release>, LifecycleError> {
    let selector = format!("owner=helm,name={name}");
    let secrets = cluster.secrets(Some(namespace), &selector).await.map_err(doing("reading release records"))?;
    let mut found = secrets.iter().map(Release::from_secret).collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(|it| it.version);
    Ok(found)
}

/// The last revision of every release, in one namespace or all, by namespace and name.
///
/// # Errors
/// As [`history`].
pub async fn list<C: Cluster>(cluster: &C, namespace: Option<&str>) -> Result<Vec<Release>, LifecycleError> {
    let secrets = cluster.secrets(namespace, "owner=helm").await.map_err(doing("reading release records"))?;
    let mut found = secrets.iter().map(Release::from_secret).collect::<Result<Vec<_>, _>>()?;
    found.sort_by(|a, b| (&a.namespace, &a.name, b.version).cmp(&(&b.namespace, &b.name, a.version)));
    found.dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    Ok(found)
}

/// Plans an installation, or an upgrade if `options.upgrade` says so. `options.revision` is taken from the history.
///
/// # Errors
/// The release exists (or not), the chart does not render, the cluster does not answer.
pub async fn plan<C: Cluster>(
    cluster: &C,
    chart: &Chart,
    values: &Json,
    options: RenderOptions<'_>,
) -> Result<Plan, LifecycleError> {
    check_name(options.name)?;
    let history = history(cluster, options.namespace, options.name).await?;
    let last = history.last();
    let live = last.is_some_and(|it| !matches!(it.info.status, Status::Uninstalled));
    // A first installation that failed may be tried again.
    let deployed = history.iter().any(|it| matches!(it.info.status, Status::Deployed | Status::Superseded));
    if live && deployed && !options.upgrade {
        return Err(LifecycleError::Exists(options.name.to_owned()));
    }
    if !live && options.upgrade {
        return Err(LifecycleError::Missing(options.name.to_owned()));
    }
    let revision = last.map_or(1, |it| it.version + 1);
    let options = RenderOptions { revision, ..options };
    let rendered = render::render(chart, values, &options)?;
    let action = if options.upgrade { Action::Upgrade } else { Action::Install };
    let config = match values {
        Json::Object(map) if !map.is_empty() => Some(map.clone()),
        _ => None,
    };
    let release = Release {
        name: options.name.to_owned(),
        info: info(&history, action, rendered.notes.clone()),
        chart: StoredChart::from(chart),
        config,
        manifest: rendered.manifest(),
        hooks: Some(rendered.hooks.clone()),
        version: revision,
        namespace: options.namespace.to_owned(),
        other: Map::new(),
    };
    let apply: Vec<Json> = rendered.manifests.iter().map(|it| it.object.clone()).collect();
    let delete = obsolete(&history, &apply)?;
    Ok(Plan { release, crds: rendered.crds, apply, delete, warnings: rendered.warnings, action, history })
}

/// Plans the return to an earlier revision; the last that was deployed before the present one if `revision` is `None`.
///
/// # Errors
/// There is no such revision, or the cluster does not answer.
pub async fn plan_rollback<C: Cluster>(
    cluster: &C,
    namespace: &str,
    name: &str,
    revision: Option<u64>,
) -> Result<Plan, LifecycleError> {
    let history = history(cluster, namespace, name).await?;
    let Some(last) = history.last() else { return Err(LifecycleError::Missing(name.to_owned())) };
    let target = match revision {
        Some(wanted) => history.iter().find(|it| it.version == wanted),
        None => history.iter().rev().skip(1).find(|it| matches!(it.info.status, Status::Superseded | Status::Deployed)),
    };
    let Some(target) = target else {
        let wanted = revision.map_or_else(|| "an earlier one".to_owned(), |it| it.to_string());
        return Err(LifecycleError::Missing(format!("{name} revision {wanted}")));
    };
    let mut release = target.clone();
    release.version = last.version + 1;
    release.info = info(&history, Action::Rollback, target.info.notes.clone());
    release.info.description = format!("Rollback to {}", target.version);
    let apply = objects(target)?;
    let delete = obsolete(&history, &apply)?;
    let (crds, warnings) = (Vec::new(), Vec::new());
    Ok(Plan { release, crds, apply, delete, warnings, action: Action::Rollback, history })
}

/// Plans the removal of a release and its records. What has the annotation `helm.sh/resource-policy: keep` stays.
///
/// # Errors
/// There is none, or the cluster does not answer.
pub async fn plan_uninstall<C: Cluster>(cluster: &C, namespace: &str, name: &str) -> Result<Plan, LifecycleError> {
    let history = history(cluster, namespace, name).await?;
    let Some(last) = history.last() else { return Err(LifecycleError::Missing(name.to_owned())) };
    let mut doomed: Vec<Json> = Vec::new();
    // An interrupted upgrade may have left objects of either revision.
    for release in history.iter().rev().take(2) {
        for object in objects(release)? {
            let reference = ObjectRef::of(&object);
            if !doomed.iter().any(|it| ObjectRef::of(it).identity() == reference.identity()) {
                doomed.push(object);
            }
        }
    }
    doomed.sort_by_cached_key(|it| manifest::order(it["kind"].as_str().unwrap_or_default()));
    let delete = doomed.iter().rev().filter(|it| !is_kept(it)).map(ObjectRef::of).collect();
    let mut release = last.clone();
    release.info.status = Status::Uninstalling;
    let (crds, apply, warnings) = (Vec::new(), Vec::new(), Vec::new());
    Ok(Plan { release, crds, apply, delete, warnings, action: Action::Uninstall, history })
}

fn is_kept(object: &Json) -> bool {
    object["metadata"]["annotations"]["helm.sh/resource-policy"].as_str() == Some("keep")
}

fn check_name(name: &str) -> Result<(), LifecycleError> {
    // Helm's limit: names are prefixes of names of objects, which have 63 characters.
    let fits = (1..=53).contains(&name.len())
        && name.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits { Ok(()) } else { Err(LifecycleError::Name(name.to_owned())) }
}

fn info(history: &[Release], action: Action, notes: String) -> Info {
    let first = history.iter().map(|it| it.info.first_deployed.clone()).find(|it| !it.is_empty());
    Info {
        first_deployed: first.unwrap_or_default(),
        last_deployed: String::new(),
        deleted: String::new(),
        description: String::new(),
        status: action.pending(),
        notes,
        other: Map::new(),
    }
}

/// The objects of a revision, without hooks.
///
/// # Errors
/// The record keeps something else.
pub fn objects(release: &Release) -> Result<Vec<Json>, LifecycleError> {
    let read = atoll_template::yaml::read_all(&release.manifest);
    let all = read.map_err(|message| LifecycleError::Manifest { name: release.name.clone(), message })?;
    Ok(all.into_iter().filter(|it| !it.is_null()).collect())
}

/// What earlier revisions made and the new one does not, in the order of removal.
fn obsolete(history: &[Release], apply: &[Json]) -> Result<Vec<ObjectRef>, LifecycleError> {
    let mut old: Vec<Json> = Vec::new();
    for release in history.iter().rev().take_while(|it| it.info.status != Status::Uninstalled).take(2) {
        old.extend(objects(release)?);
    }
    let kept: Vec<ObjectRef> = apply.iter().map(ObjectRef::of).collect();
    old.retain(|it| !is_kept(it) && !kept.iter().any(|kept| kept.identity() == ObjectRef::of(it).identity()));
    old.sort_by_cached_key(|it| manifest::order(it["kind"].as_str().unwrap_or_default()));
    let mut gone: Vec<ObjectRef> = old.iter().rev().map(ObjectRef::of).collect();
    gone.dedup();
    Ok(gone)
}

impl Plan {
    /// Does it. `now` is what the records will say.
    ///
    /// # Errors
    /// The cluster says no; the record then says `failed` and why, and the same can be tried again.
    pub async fn execute<C: Cluster>(mut self, cluster: &C, now: Timestamp) -> Result<Release, LifecycleError> {
        if self.action == Action::Uninstall {
            return self.uninstall(cluster, now).await;
        }
        let at = now.to_string();
        if self.release.info.first_deployed.is_empty() {
            self.release.info.first_deployed.clone_from(&at);
        }
        self.release.info.last_deployed = at;
        let secret = self.release.to_secret(now.as_second())?;
        let namespace = self.release.namespace.clone();
        cluster.create(&secret, &namespace).await.map_err(doing("writing the release record"))?;
        let result = self.carry_out(cluster).await;
        match &result {
            Ok(()) => {
                self.release.info.status = Status::Deployed;
                if self.release.info.description.is_empty() {
                    self.action.done().clone_into(&mut self.release.info.description);
                }
            }
            Err(error) => {
                self.release.info.status = Status::Failed;
                self.release.info.description = format!("{:?} failed: {error}", self.action);
            }
        }
        let secret = self.release.to_secret(now.as_second())?;
        cluster.apply(&secret, &namespace).await.map_err(doing("writing the release record"))?;
        result?;
        self.close_history(cluster, now).await?;
        Ok(self.release)
    }

    async fn carry_out<C: Cluster>(&self, cluster: &C) -> Result<(), LifecycleError> {
        let namespace = &self.release.namespace;
        let [before, after] = self.action.events();
        for object in &self.crds {
            cluster.apply(object, namespace).await.map_err(doing(format!("applying {}", ObjectRef::of(object))))?;
        }
        self.run_hooks(cluster, before).await?;
        for object in &self.apply {
            cluster.apply(object, namespace).await.map_err(doing(format!("applying {}", ObjectRef::of(object))))?;
        }
        for object in &self.delete {
            cluster.delete(object, namespace).await.map_err(doing(format!("deleting {object}")))?;
        }
        self.run_hooks(cluster, after).await
    }

    async fn run_hooks<C: Cluster>(&self, cluster: &C, event: HookEvent) -> Result<(), LifecycleError> {
        let hooks = self.release.hooks.iter().flatten().filter(|it| it.events.contains(&event));
        let mut hooks: Vec<&Hook> = hooks.collect();
        hooks.sort_by_key(|it| (it.weight, &it.name));
        for hook in hooks {
            self.run_hook(cluster, hook).await?;
        }
        Ok(())
    }

    async fn run_hook<C: Cluster>(&self, cluster: &C, hook: &Hook) -> Result<(), LifecycleError> {
        let namespace = &self.release.namespace;
        let broken = |message| LifecycleError::Manifest { name: self.release.name.clone(), message };
        let object = atoll_template::yaml::read(&hook.manifest).map_err(broken)?;
        let reference = ObjectRef::of(&object);
        let says = |policy: &str| hook.delete_policies.iter().any(|it| it == policy);
        if hook.delete_policies.is_empty() || says("before-hook-creation") {
            cluster.delete(&reference, namespace).await.map_err(doing(format!("deleting the hook {reference}")))?;
        }
        cluster.apply(&object, namespace).await.map_err(doing(format!("applying the hook {reference}")))?;
        let ended = cluster.wait_done(&reference, namespace).await;
        if says(if ended.is_ok() { "hook-succeeded" } else { "hook-failed" }) {
            cluster.delete(&reference, namespace).await.map_err(doing(format!("deleting the hook {reference}")))?;
        }
        ended.map_err(doing(format!("running the hook {reference}")))
    }

    /// Marks what was deployed before as superseded and forgets the oldest revisions.
    async fn close_history<C: Cluster>(&self, cluster: &C, now: Timestamp) -> Result<(), LifecycleError> {
        let namespace = &self.release.namespace;
        for old in self.history.iter().filter(|it| it.info.status == Status::Deployed) {
            let mut old = old.clone();
            old.info.status = Status::Superseded;
            let secret = old.to_secret(now.as_second())?;
            cluster.apply(&secret, namespace).await.map_err(doing("marking the release before as superseded"))?;
        }
        let excess = (self.history.len() + 1).saturating_sub(HISTORY_MAX);
        for old in self.history.iter().take(excess) {
            self.forget(cluster, old).await?;
        }
        Ok(())
    }

    async fn forget<C: Cluster>(&self, cluster: &C, old: &Release) -> Result<(), LifecycleError> {
        let secret = ObjectRef {
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: Some(old.namespace.clone()),
            name: Release::secret_name(&old.name, old.version),
        };
        cluster.delete(&secret, &old.namespace).await.map_err(doing("deleting a release record")).map(|_| ())
    }

    async fn uninstall<C: Cluster>(mut self, cluster: &C, now: Timestamp) -> Result<Release, LifecycleError> {
        let namespace = self.release.namespace.clone();
        let secret = self.release.to_secret(now.as_second())?;
        cluster.apply(&secret, &namespace).await.map_err(doing("writing the release record"))?;
        self.carry_out(cluster).await?;
        // The last record goes last: as long as it is there, the removal can be tried again.
        for old in &self.history {
            self.forget(cluster, old).await?;
        }
        self.release.info.status = Status::Uninstalled;
        self.release.info.deleted = now.to_string();
        self.action.done().clone_into(&mut self.release.info.description);
        Ok(self.release)
    }
}
