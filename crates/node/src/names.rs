//! Names in the node: what is known of peers made into names, the server that answers for them, and the machine's resolver told of it.
//!
//! A peer's owner is in its card only under that owner's signature (`card`), so whoever calls a node `web1` can do so below their own id alone.
//!
//! By default nothing of the machine is changed but what systemd-resolved is told of the interface, which goes with the interface. `resolv.conf` is written only where
//! `network.dns` says `system`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use atoll_ids::{NodeId, OwnerId};
use atoll_kv::KeyValue;
use atoll_link::LinkHandle;
use atoll_names::{
    Bind, Forward, GivenBack, GivenName, KnownNode, Listener, Names, Resolved, Store, StoreError, TakeError, Taken,
};
use atoll_settings::{Key, Kind, Settings, SettingsError};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::NodeError;
use crate::peer_table::PeerTable;

/// Peers come and go in groups; names are made anew once for a group.
const SETTLE: Duration = Duration::from_millis(50);

/// Where it is noted down what `resolv.conf` was before.
const NOTE: &str = "resolv.conf.note";

/// Names on this node.
pub(crate) const DNS: Key = Key {
    name: "network.dns",
    kind: Kind::Choice(&["auto", "listen", "system", "off"]),
    default: Some("auto"),
    doc: "names below .atoll: listen answers on loopback, auto tells systemd-resolved too where it runs, system writes resolv.conf where it does not",
    flag: None,
};

/// See [`DNS`].
pub(crate) const DNS_BIND: Key = Key {
    name: "network.dns_bind",
    kind: Kind::Text,
    default: Some("auto"),
    doc: "where names are answered for: a loopback address with a port, or auto (127.64.0.53:53, and a free port where 53 is not to be had)",
    flag: None,
};

/// See [`DNS`].
pub(crate) const RESOLV_CONF: Key = Key {
    name: "network.resolv_conf",
    kind: Kind::Path,
    default: Some("/etc/resolv.conf"),
    doc: "the file that network.dns = system writes, and puts back when the node ends",
    flag: None,
};

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    Listen,
    Auto,
    System,
}

/// What the settings come to.
#[derive(Debug, Clone)]
pub(crate) struct NamesConfig {
    mode: Mode,
    bind: Bind,
    resolv_conf: PathBuf,
}

impl NamesConfig {
    /// Reads the settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let mode = match settings.get::<String>("network.dns").as_str() {
            "off" => Mode::Off,
            "listen" => Mode::Listen,
            "system" => Mode::System,
            _ => Mode::Auto,
        };
        let bind: String = settings.get("network.dns_bind");
        let bind = bind.parse().map_err(|error| settings.refuse("network.dns_bind", error))?;
        Ok(Self { mode, bind, resolv_conf: settings.get("network.resolv_conf") })
    }
}

/// Where the note lies of the node over this folder.
pub(crate) fn note(data_dir: &Path) -> PathBuf {
    data_dir.join(NOTE)
}

/// Puts `resolv.conf` back if a node that was killed left it written. What cannot be put back keeps no node from starting.
pub(crate) async fn put_back(data_dir: &Path) {
    let note = note(data_dir);
    match blocking(move || atoll_names::give_back(&note)).await {
        Ok(outcome) => say(outcome),
        Err(error) => tracing::error!(%error, "what an earlier run wrote into resolv.conf is still there"),
    }
}

fn say(outcome: GivenBack) {
    match outcome {
        GivenBack::Nothing => {}
        GivenBack::Restored => tracing::info!("resolv.conf is as it was before"),
        GivenBack::LeftAlone => tracing::warn!(
            "somebody else has changed resolv.conf since this node wrote it: it is left alone, and what was there before lies beside it (.before-atoll)"
        ),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TakeError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// What others see of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NamesHandle {
    names: Names,
    store: Store,
    server: Option<SocketAddr>,
    /// How programs come to ask.
    told: Arc<RwLock<Told>>,
    /// One change of the given names at a time: what is written last is what holds.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// Who asks the server, and whom it asks.
#[derive(Debug, Clone, Default)]
struct Told {
    note: String,
    /// The note on disk, while `resolv.conf` is ours.
    file: Option<PathBuf>,
    upstreams: Vec<SocketAddr>,
}

impl NamesHandle {
    /// The names that hold now.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Where the server listens.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.server
    }

    /// How programs come to ask it, in a line.
    pub(crate) fn note(&self) -> String {
        let told = self.told();
        match &told.file {
            Some(file) if !atoll_names::is_taken(file) => {
                "somebody else has changed resolv.conf since this node wrote it; restart the node to be asked again"
                    .into()
            }
            _ => told.note,
        }
    }

    /// Who is asked about the rest.
    pub(crate) fn upstreams(&self) -> Vec<SocketAddr> {
        self.told().upstreams
    }

    fn told(&self) -> Told {
        self.told.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, told: Told) {
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Gives an owner or a node a name; it holds from now on.
    pub(crate) async fn give(&self, name: &GivenName, id: [u8; 32]) -> Result<(), StoreError> {
        let _turn = self.changing.lock().await;
        self.store.give(name, id).await?;
        self.names.set_book(self.store.book().await?);
        Ok(())
    }

    /// Takes a name back. Gives whether there was one.
    pub(crate) async fn take_back(&self, name: &GivenName) -> Result<bool, StoreError> {
        let _turn = self.changing.lock().await;
        let was_there = self.store.take_back(name).await?;
        self.names.set_book(self.store.book().await?);
        Ok(was_there)
    }
}

/// The names of a node, to be served.
pub(crate) struct NameService {
    handle: NamesHandle,
    listener: Option<Listener>,
    config: NamesConfig,
    /// This node as a name.
    own: KnownNode,
    seen: BTreeMap<NodeId, KnownNode>,
    note: PathBuf,
}

/// What undoes it.
enum Attached {
    /// Nothing was changed.
    Nothing,
    Resolved(Resolved, String),
    File,
}

impl NameService {
    /// Binds the server and reads what is remembered. Nothing of the machine is changed yet.
    pub(crate) async fn start(
        config: &Config,
        (node, owner): (NodeId, OwnerId),
        kv: &Arc<dyn KeyValue>,
        data_dir: &Path,
    ) -> Result<Self, NodeError> {
        let (store, names) = (Store::new(kv.clone()), Names::new(owner));
        names.set_book(store.book().await?);
        let seen = store.seen().await?;
        let own = KnownNode { node, owner: Some(owner), name: config.name.clone() };
        names.set_nodes(std::iter::once(own.clone()).chain(seen.values().cloned()).collect());
        let config = config.network.names.clone();
        let listener = match (config.mode, config.bind) {
            (Mode::Off, _) => None,
            // Where nothing was asked for, a node without a server for names is better than none.
            (Mode::Auto, Bind::Auto) => {
                let bound = Listener::bind(Bind::Auto).await;
                bound.inspect_err(|error| tracing::warn!(%error, "names are not answered for")).ok()
            }
            (_, bind) => Some(Listener::bind(bind).await?),
        };
        let server = listener.as_ref().map(Listener::address);
        let handle = NamesHandle { names, store, server, told: Arc::default(), changing: Arc::default() };
        Ok(Self { handle, listener, config, own, seen, note: note(data_dir) })
    }

    /// Something to look at it with.
    pub(crate) fn handle(&self) -> NamesHandle {
        self.handle.clone()
    }

    /// Keeps the names, answers for them, and has programs ask, until told to stop; then all is as it was.
    pub(crate) async fn run(
        mut self,
        interface: Option<String>,
        link: LinkHandle,
        peers: PeerTable,
        stop: CancellationToken,
    ) {
        let Some(listener) = self.listener.take() else {
            let note = match self.config.mode {
                Mode::Off => "network.dns is off",
                _ => "there is no server: no port could be had",
            };
            self.handle.tell(Told { note: note.into(), ..Told::default() });
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.keep(&link, &peers) => {}
            }
            return;
        };
        let attached = self.attach(&listener, interface).await;
        let Told { note, upstreams, .. } = self.handle.told();
        tracing::info!(server = %listener.address(), note, "names are answered for");
        let forward = matches!(attached, Attached::File).then(|| Forward::new(&upstreams));
        let stop_serving = CancellationToken::new();
        let serving = listener.run(self.handle.names.clone(), forward, stop_serving.clone());
        let serving = tokio::spawn(serving);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep(&link, &peers) => {}
        }
        // Programs are sent elsewhere before there is nobody to answer them.
        self.detach(attached).await;
        stop_serving.cancel();
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the server for names did not end in order");
        }
    }

    /// Has the machine's programs ask the server as far as the settings say, and tells how it went.
    async fn attach(&self, listener: &Listener, interface: Option<String>) -> Attached {
        let address = listener.address();
        let mut told = Told::default();
        let attached = match self.config.mode {
            Mode::Off | Mode::Listen => {
                told.note = format!("by programs that are told of {address} (network.dns is listen)");
                Attached::Nothing
            }
            Mode::Auto | Mode::System => match resolved(address, interface).await {
                Ok((resolved, interface)) => {
                    told.note = format!("through systemd-resolved, for atoll alone ({interface})");
                    Attached::Resolved(resolved, interface)
                }
                Err(why_not) if self.config.mode == Mode::Auto => {
                    told.note = format!(
                        "by programs that are told of {address}; network.dns = \"system\" has all of them ask through {} ({why_not})",
                        self.config.resolv_conf.display()
                    );
                    Attached::Nothing
                }
                Err(why_not) => match self.take_file(listener).await {
                    Ok(Taken { before }) => {
                        told.note =
                            format!("by all programs, through {} ({why_not})", self.config.resolv_conf.display());
                        told.file = Some(self.note.clone());
                        told.upstreams = before.upstreams(address.ip());
                        Attached::File
                    }
                    Err(problem) => {
                        tracing::error!(problem, "programs are not told of this node's names");
                        told.note = format!("by programs that are told of {address}: {problem}");
                        Attached::Nothing
                    }
                },
            },
        };
        self.handle.tell(told);
        attached
    }

    async fn take_file(&self, listener: &Listener) -> Result<Taken, String> {
        let address = listener.address();
        if !listener.is_at_dns_port() {
            return Err(format!(
                "resolv.conf cannot name {address}: programs ask at port 53, which takes root (or CAP_NET_BIND_SERVICE)"
            ));
        }
        let (path, note) = (self.config.resolv_conf.clone(), self.note.clone());
        // In a network of its own, but not with files of its own, this node would take the names from everyone outside.
        let of_first = |kind| atoll_names::is_of_first(kind).unwrap_or(true);
        if Some(path.as_os_str()) == RESOLV_CONF.default.map(AsRef::as_ref) && !of_first("net") && of_first("mnt") {
            return Err(format!(
                "{} belongs to another network namespace (setting network.resolv_conf)",
                path.display()
            ));
        }
        let folder = note.parent().unwrap_or(Path::new("?")).display();
        let who = format!("the node over {folder}, process {}", std::process::id());
        blocking(move || atoll_names::take(&path, &note, address.ip(), &who)).await
    }

    async fn detach(&self, attached: Attached) {
        match attached {
            Attached::Nothing => {}
            Attached::Resolved(resolved, interface) => {
                if let Err(error) = resolved.revert(&interface).await {
                    tracing::debug!(error, "systemd-resolved has forgotten the interface already");
                }
            }
            Attached::File => {
                let note = self.note.clone();
                match blocking(move || atoll_names::give_back(&note)).await {
                    Ok(outcome) => say(outcome),
                    Err(error) => tracing::error!(
                        error,
                        "resolv.conf is still as this node wrote it; `atoll down --clear` tries again"
                    ),
                }
            }
        }
    }

    /// Keeps the names to who is known and what they call themselves.
    async fn keep(&mut self, link: &LinkHandle, peers: &PeerTable) {
        let (mut changes, mut answers) = (link.changes(), peers.answers());
        loop {
            if let Err(error) = self.refresh(peers).await {
                tracing::warn!(%error, "what nodes are called is not remembered");
            }
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = answers.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    async fn refresh(&mut self, peers: &PeerTable) -> Result<(), StoreError> {
        let mut nodes = vec![self.own.clone()];
        let mut changed = Vec::new();
        for peer in peers.status() {
            let now = KnownNode { node: peer.node, owner: peer.owner, name: peer.name };
            let before = self.seen.get(&now.node);
            // Not asked yet since the start, or away: what it said last holds.
            let known = if now.owner.is_some() { now } else { before.cloned().unwrap_or(now) };
            if known.owner.is_some() && before != Some(&known) {
                changed.push(known.clone());
            }
            nodes.push(known);
        }
        let is_gone = |node: &&NodeId| !nodes.iter().any(|known| known.node == **node);
        let gone: Vec<NodeId> = self.seen.keys().filter(is_gone).copied().collect();
        self.handle.names.set_nodes(nodes);
        self.handle.store.remember(&changed, &gone).await?;
        self.seen.extend(changed.into_iter().map(|known| (known.node, known)));
        for node in &gone {
            self.seen.remove(node);
        }
        Ok(())
    }
}

/// Has systemd-resolved ask, if it can be had.
async fn resolved(server: SocketAddr, interface: Option<String>) -> Result<(Resolved, String), String> {
    let resolved = Resolved::find()?;
    let interface = interface.ok_or("systemd-resolved takes a planetary interface, and there is none")?;
    resolved.set(&interface, server).await?;
    Ok((resolved, interface))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_default_changes_no_file() {
        let keys: &'static [Key] = &[DNS, DNS_BIND, RESOLV_CONF];
        let read = |file: &str| {
            let settings = Settings::load(keys, &atoll_settings::Sources::new().file("atoll.toml", file));
            settings
                .map_err(|error| error.to_string())
                .and_then(|settings| NamesConfig::from_settings(&settings).map_err(|error| error.to_string()))
        };
        let config = read("").unwrap();
        assert_eq!((config.mode, config.bind), (Mode::Auto, Bind::Auto));
        assert_eq!(config.resolv_conf, Path::new("/etc/resolv.conf"));
        assert_eq!(read("[network]\ndns = \"system\"\n").unwrap().mode, Mode::System);
        let refused = read("[network]\ndns_bind = \"0.0.0.0:53\"\n").unwrap_err();
        assert!(refused.contains("network.dns_bind") && refused.contains("loopback only"), "{refused}");
    }
}
