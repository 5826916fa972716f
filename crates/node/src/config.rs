//! The node's configuration: which settings there are, and what they come to.
//!
//! One TOML file, every key overridable by environment (`ATOLL_STORAGE_CAPACITY`) and flag. Where a value came from is kept, for
//! `atoll config show` and for errors.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use atoll_control::ConfigEntry;
use atoll_ids::{ByteCount, DomainError, NodeId, OwnerId};
use atoll_lease::{Capacity, Price};
use atoll_settings::{Key, Kind, Settings, SettingsError, Sources};
use atoll_shard::{Admission, ServePolicy};
use atoll_telemetry::{LogConfig, LogError};

use crate::data_dir::CONFIG_FILE;
use crate::healing::HealingConfig;
use crate::network::NetworkConfig;
use crate::proxy::ProxyConfig;

/// Variables that are read elsewhere and are no settings.
const OTHER_VARIABLES: &[&str] = &["ATOLL_DATA_DIR", "ATOLL_CONFIG", "ATOLL_LOG", "ATOLL_LOG_FORMAT"];

/// The longest code of a currency.
const CURRENCY_BYTES_MAX: usize = 8;

/// A configuration file is a page; more is a mistake (the wrong file).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Every setting of a node.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "node.name",
        kind: Kind::Text,
        default: None,
        doc: "a name for people; peers see it",
        flag: Some("--name"),
    },
    Key {
        name: "node.roles",
        kind: Kind::List(&Kind::Choice(&["network", "storage", "compute", "gateway"])),
        default: Some("network,storage,compute,gateway"),
        doc: "what this node does",
        flag: None,
    },
    Key {
        name: "node.site",
        kind: Kind::Text,
        default: Some(""),
        doc: "the building it stands in: a failure domain",
        flag: None,
    },
    Key {
        name: "node.country",
        kind: Kind::Text,
        default: Some(""),
        doc: "the country it stands in: a failure domain",
        flag: None,
    },
    Key {
        name: "node.metrics",
        kind: Kind::SocketAddr,
        default: Some("127.0.0.1:5772"),
        doc: "where /metrics and /healthz are served; loopback only",
        flag: None,
    },
    Key {
        name: "node.dashboard",
        kind: Kind::SocketAddr,
        default: Some("127.0.0.1:5773"),
        doc: "where the dashboard is served; loopback only",
        flag: None,
    },
    Key {
        name: "network.bind",
        kind: Kind::List(&Kind::SocketAddr),
        default: Some("0.0.0.0:5771,[::]:5771"),
        doc: "UDP addresses for connections from other nodes; port 0 chooses one and keeps it",
        flag: Some("--bind"),
    },
    Key {
        name: "network.lane",
        kind: Kind::List(&Kind::SocketAddr),
        default: Some("0.0.0.0:5771,[::]:5771"),
        doc: "TCP addresses for bulk streams from other nodes; port 0 chooses one and keeps it",
        flag: None,
    },
    Key {
        name: "network.relays",
        kind: Kind::List(&Kind::Text),
        default: Some(""),
        doc: "URLs of relays to use; none are used unless named here",
        flag: None,
    },
    crate::network::INTERFACE,
    crate::network::ALLOW,
    crate::network::GROUPS,
    crate::network::OUT,
    crate::network::CHECK,
    crate::network::PEERS,
    crate::network::LAN,
    crate::network::FIND,
    crate::names::DNS,
    crate::names::DNS_BIND,
    crate::names::RESOLV_CONF,
    crate::proxy::PROXY,
    crate::proxy::PROXY_USERS,
    crate::proxy::EXIT,
    crate::proxy::EXIT_VIA,
    crate::bus::ALLOW,
    crate::network::FAST,
    crate::network::FAST_PORT,
    crate::network::RELAY,
    crate::network::RELAY_RATE,
    crate::network::RELAY_RATE_PER_USER,
    Key {
        name: "storage.capacity",
        kind: Kind::ByteCount,
        default: None,
        doc: "how much to lend; half of what is free at the first start unless set",
        flag: Some("--capacity"),
    },
    Key {
        name: "storage.path",
        kind: Kind::Path,
        default: None,
        doc: "where shards lie; <data-dir>/shards unless set",
        flag: None,
    },
    Key {
        name: "storage.quota",
        kind: Kind::ByteCount,
        default: None,
        doc: "the most that one owner may store here; no limit but the capacity unless set",
        flag: None,
    },
    Key {
        name: "storage.heal_after",
        kind: Kind::Duration,
        default: Some("10m"),
        doc: "how long a node may be away before what it keeps for this owner is made again on others",
        flag: None,
    },
    Key {
        name: "storage.heal_rate",
        kind: Kind::ByteCount,
        default: Some("32M"),
        doc: "bytes of shards made again per second, at most, when healing by itself",
        flag: None,
    },
    Key {
        name: "lend.cpu",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        default: Some("0"),
        doc: "thousandths of a processor core that tenants may rent; storage alone is lent while it is 0",
        flag: None,
    },
    Key {
        name: "lend.memory",
        kind: Kind::ByteCount,
        default: Some("0"),
        doc: "memory that tenants may rent",
        flag: None,
    },
    Key {
        name: "lend.storage",
        kind: Kind::ByteCount,
        default: Some("0"),
        doc: "room for shards that tenants may rent",
        flag: None,
    },
    Key {
        name: "lend.pods",
        kind: Kind::Integer { min: 0, max: 10_000 },
        default: Some("110"),
        doc: "pods of tenants at once",
        flag: None,
    },
    Key {
        name: "lend.price",
        kind: Kind::Integer { min: 0, max: i64::MAX },
        default: Some("0"),
        doc: "what an hour of all of it costs, in millionths of lend.currency",
        flag: None,
    },
    Key {
        name: "lend.currency",
        kind: Kind::Text,
        default: Some(""),
        doc: "the currency's code, at most 8 bytes",
        flag: None,
    },
    Key {
        name: "rent.seconds",
        kind: Kind::Integer { min: 20, max: 366 * 24 * 3600 },
        default: Some("86400"),
        doc: "how long a lease runs that this node's owner takes; it is renewed after half of that while this node is up",
        flag: None,
    },
    Key {
        name: "gateway.domain",
        kind: Kind::Text,
        default: None,
        doc: "the domain below which this node gives names and answers for them; it is no gateway unless set",
        flag: None,
    },
    Key {
        name: "gateway.https",
        kind: Kind::List(&Kind::SocketAddr),
        default: Some("[::]:443"),
        doc: "TCP addresses for HTTPS from outside, on a gateway",
        flag: None,
    },
    Key {
        name: "gateway.http",
        kind: Kind::List(&Kind::SocketAddr),
        default: Some("[::]:80"),
        doc: "TCP addresses for plain HTTP from outside, which is sent to HTTPS; on a gateway",
        flag: None,
    },
];

/// What a node can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Knows peers and is reached by them. Every node does.
    Network,
    /// Keeps shards for others.
    Storage,
    /// Lends processor and memory to tenants.
    Compute,
    /// Takes traffic from outside.
    Gateway,
}

/// What a gateway listens on.
#[derive(Debug, Clone)]
pub(crate) struct GatewaySettings {
    pub(crate) domain: String,
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingOverride {
    key: String,
    value: String,
    flag: String,
}

impl SettingOverride {
    /// `flag` gave `key` this value.
    pub fn new(key: impl Into<String>, value: impl Into<String>, flag: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), flag: flag.into() }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting is unknown or wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Site or country is no label.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What is logged cannot be set up.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The room that each tenant rents here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rooms(Arc<RwLock<BTreeMap<OwnerId, ByteCount>>>);

impl Rooms {
    pub(crate) fn of(&self, tenant: &OwnerId) -> Option<ByteCount> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(tenant).copied()
    }

    pub(crate) fn set(&self, rooms: BTreeMap<OwnerId, ByteCount>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rooms;
    }
}

/// What holds for one node.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) name: Option<String>,
    pub(crate) site: String,
    pub(crate) country: String,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) dashboard: Option<SocketAddr>,
    pub(crate) bind: Vec<SocketAddr>,
    pub(crate) lane: Vec<SocketAddr>,
    pub(crate) relays: Vec<String>,
    pub(crate) network: NetworkConfig,
    pub(crate) proxy: ProxyConfig,
    /// Who may send messages here.
    pub(crate) bus_allow: Vec<atoll_bus::Rule>,
    pub(crate) capacity: Option<ByteCount>,
    pub(crate) shards: Option<PathBuf>,
    /// What tenants may rent.
    pub(crate) lend: Capacity,
    /// What all of it costs.
    pub(crate) price: Price,
    /// How long leases run that this node's owner takes.
    pub(crate) lease: Duration,
    pub(crate) gateway: Option<GatewaySettings>,
    pub(crate) healing: HealingConfig,
    quota: Option<ByteCount>,
    roles: Vec<Role>,
    settings: Arc<Settings>,
}

impl Config {
    /// Puts file, environment and flags together. Without `file`, `<data-dir>/atoll.toml` is read if it is there.
    ///
    /// # Errors
    /// [`ConfigError`]: which setting, where it was given, what is expected.
    pub fn load(
        data_dir: &Path,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        overrides: Vec<SettingOverride>,
    ) -> Result<Self, ConfigError> {
        let mut sources = Sources::new().environment(environment).ignore_variables(OTHER_VARIABLES);
        if let Some((path, text)) = read_file(data_dir, file)? {
            sources = sources.file(path, text);
        }
        for given in overrides {
            sources = sources.flag(given.key, given.value, given.flag);
        }
        let settings = Settings::load(KEYS, &sources)?;
        Self::from_settings(data_dir, settings)
    }

    fn from_settings(data_dir: &Path, settings: Settings) -> Result<Self, ConfigError> {
        let metrics: Option<SocketAddr> = settings.get_optional("node.metrics");
        if metrics.is_some_and(|address| !address.ip().is_loopback()) {
            return Err(settings.refuse("node.metrics", "metrics are served on loopback only").into());
        }
        let dashboard: Option<SocketAddr> = settings.get_optional("node.dashboard");
        if dashboard.is_some_and(|address| !address.ip().is_loopback()) {
            return Err(settings.refuse("node.dashboard", "the dashboard is served on loopback only").into());
        }
        let bind: Vec<SocketAddr> = settings.get("network.bind");
        if bind.is_empty() {
            return Err(settings.refuse("network.bind", "a node listens on at least one address").into());
        }
        let network = NetworkConfig::from_settings(&settings, &bind)?;
        let proxy = ProxyConfig::from_settings(&settings)?;
        let bus_allow = crate::network::list(&settings, "bus.allow")?;
        let mut roles = vec![Role::Network];
        let named: Vec<String> = settings.get("node.roles");
        for (name, role) in [("storage", Role::Storage), ("compute", Role::Compute), ("gateway", Role::Gateway)] {
            if named.iter().any(|given| given == name) {
                roles.push(role);
            }
        }
        let (lend, price) = lent(&settings, roles.contains(&Role::Compute), roles.contains(&Role::Storage))?;
        let lease = Duration::from_secs(u64::try_from(settings.get::<i64>("rent.seconds")).unwrap_or_default());
        let gateway = gateway(&settings)?.filter(|_| roles.contains(&Role::Gateway));
        let healing =
            HealingConfig { after: settings.get("storage.heal_after"), rate: settings.get("storage.heal_rate") };
        if healing.rate.0 == 0 {
            return Err(settings.refuse("storage.heal_rate", "nothing is healed at that rate").into());
        }
        Ok(Self {
            data_dir: data_dir.to_path_buf(),
            name: settings.get_optional("node.name"),
            site: settings.get("node.site"),
            country: settings.get("node.country"),
            metrics,
            dashboard,
            bind,
            lane: settings.get("network.lane"),
            relays: settings.get("network.relays"),
            network,
            proxy,
            bus_allow,
            capacity: settings.get_optional("storage.capacity"),
            shards: settings.get_optional("storage.path"),
            quota: settings.get_optional("storage.quota"),
            lend,
            price,
            lease,
            gateway,
            healing,
            roles,
            settings: Arc::new(settings),
        })
    }

    /// Whether the node has a role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Every setting with its value and origin.
    #[must_use]
    pub fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |entry: atoll_settings::Entry<'_>| ConfigEntry {
            key: entry.key.name.to_owned(),
            value: entry.text.unwrap_or_default(),
            origin: entry.origin.to_string(),
            doc: entry.key.doc.to_owned(),
        };
        self.settings.iter().map(entry).collect()
    }

    /// Starts logging as the environment says (`ATOLL_LOG`, `ATOLL_LOG_FORMAT`).
    ///
    /// # Errors
    /// [`ConfigError::Log`].
    pub fn telemetry(&self) -> Result<(), ConfigError> {
        Ok(LogConfig::default().or_environment()?.init()?)
    }

    /// Who may store here: the peers this node knows, each owner up to the room that it rents, and who rents nothing up to the quota. Strangers do
    /// not get as far as a stream.
    pub(crate) fn admission(&self, rooms: &Rooms) -> Arc<dyn ServePolicy> {
        let (quota, rooms) = (self.quota, rooms.clone());
        Arc::new(move |owner: OwnerId, _: NodeId| Admission::Admit { quota: rooms.of(&owner).or(quota) })
    }
}

/// What tenants may rent, and at what price.
fn lent(settings: &Settings, compute: bool, stores: bool) -> Result<(Capacity, Price), ConfigError> {
    let whole = |name: &str| u64::try_from(settings.get::<i64>(name)).unwrap_or_default();
    let small = |name: &str| u32::try_from(whole(name)).unwrap_or(u32::MAX);
    let currency: String = settings.get("lend.currency");
    if currency.len() > CURRENCY_BYTES_MAX {
        return Err(settings.refuse("lend.currency", "a currency's code has at most 8 bytes").into());
    }
    let price = Price { currency, micro_per_hour: whole("lend.price") };
    let total = Capacity {
        cpu_milli: small("lend.cpu"),
        memory: settings.get("lend.memory"),
        storage: settings.get("lend.storage"),
        pods: small("lend.pods"),
    };
    let runs = compute && total.cpu_milli > 0 && total.memory.0 > 0;
    let stores = Capacity { storage: if stores { total.storage } else { ByteCount(0) }, ..Capacity::default() };
    Ok((if runs { Capacity { storage: stores.storage, ..total } } else { stores }, price))
}

fn gateway(settings: &Settings) -> Result<Option<GatewaySettings>, ConfigError> {
    let Some(domain) = settings.get_optional::<String>("gateway.domain") else { return Ok(None) };
    let domain = domain.to_ascii_lowercase();
    if !atoll_gateway::is_host(&domain) {
        return Err(settings.refuse("gateway.domain", "that is no domain name").into());
    }
    let https: Vec<SocketAddr> = settings.get("gateway.https");
    if https.is_empty() {
        return Err(settings.refuse("gateway.https", "a gateway listens on at least one address").into());
    }
    Ok(Some(GatewaySettings { domain, https, http: settings.get("gateway.http") }))
}

fn read_file(data_dir: &Path, named: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = named.map_or_else(|| data_dir.join(CONFIG_FILE), Path::to_path_buf);
    let read = std::fs::metadata(&path).and_then(|metadata| {
        if metadata.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::other("it is larger than 1 MiB; is it the right file?"));
        }
        std::fs::read_to_string(&path)
    });
    match read {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], overrides: Vec<SettingOverride>) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), file).unwrap();
        let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::load(folder.path(), None, environment, overrides)
    }

    #[test]
    fn the_defaults_are_valid_and_every_setting_is_shown() {
        let config = load("", &[], Vec::new()).unwrap();
        assert!(config.has(Role::Storage));
        assert_eq!(config.entries().len(), KEYS.len());
        assert!(config.entries().iter().all(|entry| entry.origin == "default"), "{:?}", config.entries());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "[storage]\ncapacity = \"1G\"\nquota = \"2G\"\n[node]\nname = \"attic\"\n";
        let environment = [("ATOLL_STORAGE_CAPACITY", "3G"), ("ATOLL_STORAGE_QUOTA", "4G"), ("ATOLL_DATA_DIR", "/x")];
        let overrides = vec![SettingOverride::new("storage.capacity", "5G", "--capacity")];
        let config = load(file, &environment, overrides).unwrap();
        assert_eq!(config.capacity, Some(ByteCount(5 << 30)));
        assert_eq!(config.quota, Some(ByteCount(4 << 30)));
        assert_eq!(config.name.as_deref(), Some("attic"));
    }

    #[test]
    fn what_is_wrong_is_refused_and_the_nearest_right_name_is_told() {
        let check = |file: &str, expected: &[&str]| {
            let error = load(file, &[], Vec::new()).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        };
        check("[storage]\ncapcity = \"1G\"\n", &["storage.capacity", "2"]);
        check("[node]\nmetrics = \"0.0.0.0:1\"\n", &["node.metrics", "loopback"]);
        check("[node]\nroles = [\"network\", \"computer\"]\n", &["node.roles", "storage"]);
        check("[network]\nbind = []\n", &["network.bind"]);
        check("[gateway]\ndomain = \"no domain\"\n", &["gateway.domain"]);
        check("[gateway]\ndomain = \"a.example\"\nhttps = []\n", &["gateway.https"]);
        check("[lend]\ncurrency = \"far too long\"\n", &["lend.currency", "8 bytes"]);
        check("[network]\nallow = [\"peers icmp\", \"all tcp/22\"]\n", &["network.allow", "all tcp/22", "nobody"]);
        check("[network]\nproxy = \"0.0.0.0:1080\"\n", &["network.proxy", "loopback"]);
        check("[network]\nproxy = \"on\"\n", &["network.proxy", "neither an address"]);
        check("[network]\nproxy_users = [\"me\"]\n", &["network.proxy_users", "number"]);
        check("[network]\nexit = [\"peers everywhere\"]\n", &["network.exit", "everywhere", "internet"]);
        check("[network]\nexit_via = [\"somebody\"]\n", &["network.exit_via", "somebody"]);
        check("[bus]\nallow = [\"own\", \"all a\"]\n", &["bus.allow", "all a", "nobody"]);
        check("[network]\npeers = [\"192.0.2.1:5771\"]\n", &["network.peers", "NODEID@ADDRESS:PORT"]);
        check("[relay]\nrate = \"0\"\n", &["relay.rate", "relay.offer"]);
    }
}
