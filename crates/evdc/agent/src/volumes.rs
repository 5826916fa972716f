//! A pod's volumes as folders on this node.
//!
//! `emptyDir` lies in the agent's folder; configMap, secret, projected and downwardAPI in its volatile folder (memory), so that secrets
//! never touch a disk; claims
//! are mounted by the node's [`VolumeDriver`]. `hostPath` is refused unless allowed; `subPath` and everything else is refused by name.
//! Folders of claims are
//! never removed with their content: what cannot be unmounted stays, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Secret, ServiceAccount, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::env::{ConfigProblem, Facts};
use crate::files::{File, Files, MODE_DEFAULT, from_fields, from_keys, insert, mode_of, write};
use crate::inputs::{Inputs, Wanted, fetch};
use crate::quantity::units;
use crate::seams::{Attached, Problem, VolumeDriver, VolumeRequest};

/// Kubernetes' default for projected tokens.
const TOKEN_SECONDS: i64 = 3_607;

/// Why a volume is not there yet; the pod waits and the reason goes into an event (`FailedMount`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeProblem {
    /// A volume that this node does not do.
    #[error("volume {0:?}: {1}")]
    Refused(String, String),
    /// Something it needs is not there (yet).
    #[error("MountVolume.SetUp failed for volume {0:?} : {1}")]
    NotYet(String, String),
    /// The API.
    #[error("could not ask the API server: {0}")]
    Api(#[from] kube::Error),
    /// The file system.
    #[error("volume {0:?}: {1}")]
    Io(String, io::Error),
}

/// Where volumes are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    /// The folder of each volume.
    pub folders: BTreeMap<String, PathBuf>,
    /// One of them may be written by one node at a time.
    pub exclusive: bool,
}

/// One volume.
struct Made {
    folder: PathBuf,
    exclusive: bool,
    anew: bool,
}

impl Made {
    /// One that lies in a folder of this node.
    fn plain(folder: PathBuf) -> Self {
        Self { folder, exclusive: false, anew: false }
    }
}

/// Makes and removes them.
#[derive(Clone)]
pub(crate) struct Volumes {
    pub(crate) client: Client,
    pub(crate) driver: Arc<dyn VolumeDriver>,
    pub(crate) dir: PathBuf,
    pub(crate) volatile: PathBuf,
    pub(crate) host_path: bool,
    /// Tokens that were given, until it is time for others.
    pub(crate) tokens: Arc<Mutex<BTreeMap<TokenKey, (String, Timestamp)>>>,
}

/// The pod's uid, for whom, for how many seconds.
type TokenKey = (String, Option<String>, i64);

impl Volumes {
    /// The folder of this pod's records and volumes.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.dir.join(uid)
    }

    fn claims(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("claims")
    }

    fn empties(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("empty")
    }

    fn files(&self, uid: &str) -> PathBuf {
        self.volatile.join(uid)
    }

    /// Makes all volumes of the pod; again brings those made of objects up to date. `anew` is told which were mounted just now, also when another
    /// one fails after it: what began before does not see these.
    pub(crate) async fn mount(
        &self,
        pod: &Pod,
        uid: &str,
        facts: &Facts,
        anew: &mut BTreeSet<String>,
    ) -> Result<Mounted, VolumeProblem> {
        let Some(spec) = &pod.spec else { return Ok(Mounted::default()) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut wanted = Wanted::default();
        wanted.volumes(spec);
        let inputs = fetch(&self.client, namespace, &wanted).await?;
        let mut mounted = Mounted::default();
        for volume in spec.volumes.iter().flatten() {
            let made = self.one(pod, spec, uid, volume, &inputs, facts).await?;
            mounted.exclusive |= made.exclusive;
            if made.anew {
                anew.insert(volume.name.clone());
            }
            mounted.folders.insert(volume.name.clone(), made.folder);
        }
        Ok(mounted)
    }

    async fn one(
        &self,
        pod: &Pod,
        spec: &PodSpec,
        uid: &str,
        volume: &Volume,
        inputs: &Inputs,
        facts: &Facts,
    ) -> Result<Made, VolumeProblem> {
        let group =
            spec.security_context.as_ref().and_then(|it| it.fs_group).and_then(|group| u32::try_from(group).ok());
        let refused = |why: &str| VolumeProblem::Refused(volume.name.clone(), why.to_owned());
        let broken = |error| VolumeProblem::Io(volume.name.clone(), error);
        if let Some(empty) = &volume.empty_dir {
            let memory = match empty.medium.as_deref() {
                None | Some("") => None,
                Some("Memory") => Some(empty.size_limit.as_ref().and_then(units)),
                Some(medium) => {
                    return Err(refused(&format!("the medium {medium} is not offered; leave it out or say Memory")));
                }
            };
            let folder = self.empties(uid).join(&volume.name);
            make_empty(&folder, memory, group).map_err(broken)?;
            return Ok(Made::plain(folder));
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            let read_only = claim.read_only == Some(true);
            return self.claim(pod, uid, &volume.name, &claim.claim_name, read_only, group).await;
        }
        if let Some(host) = &volume.host_path {
            return if self.host_path {
                Ok(Made::plain(PathBuf::from(&host.path)))
            } else {
                Err(refused("hostPath would open the node's own files to pods; this node does not allow it"))
            };
        }
        let Some(files) = self.content(pod, volume, inputs, facts).await? else {
            return Err(refused(
                "only emptyDir, configMap, secret, projected, downwardAPI and persistentVolumeClaim are offered",
            ));
        };
        let folder = self.files(uid).join(&volume.name);
        let target = folder.clone();
        let written = tokio::task::spawn_blocking(move || write(&target, &files, group)).await;
        written.map_err(|error| broken(io::Error::other(error)))?.map_err(broken)?;
        Ok(Made::plain(folder))
    }

    /// The files of a volume that is made of objects; `None` for other kinds.
    async fn content(
        &self,
        pod: &Pod,
        volume: &Volume,
        inputs: &Inputs,
        facts: &Facts,
    ) -> Result<Option<Files>, VolumeProblem> {
        let not_yet = |problem: ConfigProblem| VolumeProblem::NotYet(volume.name.clone(), problem.0);
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let mode = mode_of(source.default_mode, MODE_DEFAULT);
            let map = inputs.config_maps.get(&source.name);
            let optional = source.optional == Some(true);
            config_map(&mut files, &source.name, map, source.items.as_deref(), mode, optional).map_err(not_yet)?;
        } else if let Some(source) = &volume.secret {
            let mode = mode_of(source.default_mode, MODE_DEFAULT);
            let name = source.secret_name.as_deref().unwrap_or_default();
            let optional = source.optional == Some(true);
            secret(&mut files, name, inputs.secrets.get(name), source.items.as_deref(), mode, optional)
                .map_err(not_yet)?;
        } else if let Some(source) = &volume.downward_api {
            let mode = mode_of(source.default_mode, MODE_DEFAULT);
            from_fields(&mut files, pod, source.items.as_deref().unwrap_or_default(), mode, facts).map_err(not_yet)?;
        } else if let Some(source) = &volume.projected {
            let mode = mode_of(source.default_mode, MODE_DEFAULT);
            for part in source.sources.iter().flatten() {
                self.projection(&mut files, pod, &volume.name, part, inputs, facts, mode).await?;
            }
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    #[expect(clippy::too_many_arguments, reason = "one part of a volume, with all that a part may refer to")]
    async fn projection(
        &self,
        files: &mut Files,
        pod: &Pod,
        volume: &str,
        part: &VolumeProjection,
        inputs: &Inputs,
        facts: &Facts,
        mode: u32,
    ) -> Result<(), VolumeProblem> {
        let not_yet = |problem: ConfigProblem| VolumeProblem::NotYet(volume.to_owned(), problem.0);
        if let Some(it) = &part.config_map {
            let map = inputs.config_maps.get(&it.name);
            config_map(files, &it.name, map, it.items.as_deref(), mode, it.optional == Some(true)).map_err(not_yet)?;
        }
        if let Some(it) = &part.secret {
            let found = inputs.secrets.get(&it.name);
            secret(files, &it.name, found, it.items.as_deref(), mode, it.optional == Some(true)).map_err(not_yet)?;
        }
        if let Some(it) = &part.downward_api {
            from_fields(files, pod, it.items.as_deref().unwrap_or_default(), mode, facts).map_err(not_yet)?;
        }
        if let Some(it) = &part.service_account_token {
            let token = self.token(pod, it.audience.clone(), it.expiration_seconds).await?;
            // For a group of the volume, whoever is in it; else whoever the container runs as, which may be anyone: only they have the folder.
            let grouped = pod.spec.as_ref().and_then(|it| it.security_context.as_ref()?.fs_group).is_some();
            let file = File { bytes: token.into_bytes(), mode: if grouped { mode & 0o640 } else { mode } };
            insert(files, &it.path, file).map_err(not_yet)?;
        }
        if part.cluster_trust_bundle.is_some() {
            return Err(VolumeProblem::Refused(volume.to_owned(), "clusterTrustBundle is not offered".to_owned()));
        }
        Ok(())
    }

    /// A token of the pod's service account that is worth nothing once the pod is gone.
    async fn token(&self, pod: &Pod, audience: Option<String>, seconds: Option<i64>) -> Result<String, VolumeProblem> {
        let seconds = seconds.unwrap_or(TOKEN_SECONDS);
        let key = (pod.metadata.uid.clone().unwrap_or_default(), audience.clone(), seconds);
        let known = self.tokens().get(&key).cloned();
        if let Some((token, _)) = known.filter(|(_, until)| Timestamp::now() < *until) {
            return Ok(token);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            audiences: audience.into_iter().filter(|it| !it.is_empty()).collect(),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(seconds),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        let token = answer.status.map(|status| status.token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            VolumeProblem::NotYet("token".to_owned(), format!("no token for service account {account:?}"))
        })?;
        // As kubelet: another one after four fifths of its time.
        let until =
            Timestamp::now().saturating_add(SignedDuration::from_secs(seconds / 5 * 4)).unwrap_or(Timestamp::MAX);
        self.tokens().insert(key, (token.clone(), until));
        Ok(token)
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<TokenKey, (String, Timestamp)>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(
        &self,
        pod: &Pod,
        uid: &str,
        volume: &str,
        name: &str,
        read_only: bool,
        group: Option<u32>,
    ) -> Result<Made, VolumeProblem> {
        let not_yet = |why: String| VolumeProblem::NotYet(volume.to_owned(), why);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(name).await?;
        let claim = claim.ok_or_else(|| not_yet(format!("persistentvolumeclaim {name:?} not found")))?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let spec = claim.spec.unwrap_or_default();
        let Some(bound_to) = spec.volume_name.filter(|_| bound) else {
            return Err(not_yet(format!("persistentvolumeclaim {name:?} is not bound yet")));
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = volumes.get_opt(&bound_to).await?.and_then(|it| it.spec);
        let found = found.ok_or_else(|| not_yet(format!("persistentvolume {bound_to:?} not found")))?;
        let exclusive =
            spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
        let csi = found.csi.ok_or_else(|| not_yet(format!("persistentvolume {bound_to:?} has no csi source")))?;
        let broken = |error| VolumeProblem::Io(volume.to_owned(), error);
        let target = self.claims(uid).join(volume);
        make_target(&target).map_err(broken)?;
        let request = VolumeRequest {
            driver: csi.driver,
            handle: csi.volume_handle,
            attributes: csi.volume_attributes.unwrap_or_default(),
            read_only: read_only || csi.read_only == Some(true),
            target: target.clone(),
        };
        let attached = self.driver.mount(&request).await.map_err(|problem| not_yet(problem.0))?;
        if let Some(group) = group.filter(|_| !request.read_only) {
            let target = target.clone();
            // Answered by this very process: not on a thread that its answer may need.
            let shared = tokio::task::spawn_blocking(move || share(&target, group)).await;
            shared.map_err(|error| broken(io::Error::other(error)))?.map_err(broken)?;
        }
        Ok(Made { folder: target, exclusive: exclusive && !request.read_only, anew: attached == Attached::Anew })
    }

    /// Takes all volumes of the pod away; content of `emptyDir` and of objects is removed, of claims never.
    pub(crate) async fn unmount(&self, uid: &str) -> Result<(), Problem> {
        self.tokens().retain(|(pod, ..), _| pod != uid);
        for target in folders_in(&self.claims(uid)) {
            self.driver.unmount(&target).await?;
            std::fs::remove_dir(&target).map_err(|error| problem("remove the folder of a claim", &target, &error))?;
        }
        for folder in folders_in(&self.empties(uid)) {
            // Of memory: a mount of ours. Of disk: nothing is mounted, which is what the error says.
            let _ = rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::DETACH);
        }
        for folder in [self.empties(uid), self.files(uid)] {
            let removed = std::fs::remove_dir_all(&folder);
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(problem("remove volumes", &folder, &error));
            }
        }
        Ok(())
    }
}

fn problem(what: &str, path: &Path, error: &io::Error) -> Problem {
    Problem(format!("could not {what} ({}): {error}", path.display()))
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).collect()
}

fn config_map(
    files: &mut Files,
    name: &str,
    map: Option<&ConfigMap>,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), ConfigProblem> {
    let Some(map) = map else {
        return if optional { Ok(()) } else { Err(ConfigProblem(format!("configmap {name:?} not found"))) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    from_keys(files, "configmap", &text.chain(binary).collect(), items, mode, optional)
}

fn secret(
    files: &mut Files,
    name: &str,
    secret: Option<&Secret>,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), ConfigProblem> {
    let Some(secret) = secret else {
        return if optional { Ok(()) } else { Err(ConfigProblem(format!("secret {name:?} not found"))) };
    };
    let keys = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    from_keys(files, "secret", &keys, items, mode, optional)
}

fn make_empty(folder: &Path, memory: Option<Option<u64>>, group: Option<u32>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    if let Some(limit) = memory {
        let options = limit.map(|bytes| format!("size={bytes}")).unwrap_or_default();
        let options = std::ffi::CString::new(options)?;
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, Some(options.as_c_str()))?;
    }
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777))?;
    group.map_or(Ok(()), |group| share(folder, group))
}

/// The folder on which a claim is mounted. It is not looked at: what an earlier process had mounted there is dead, and every look at it fails.
fn make_target(target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// What is written in it belongs to the pod's group.
fn share(folder: &Path, group: u32) -> io::Result<()> {
    chown(folder, None, Some(group))?;
    let mode = std::fs::metadata(folder)?.permissions().mode();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(mode | 0o2070))
}
