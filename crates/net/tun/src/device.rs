//! The TUN device and its routes, as the kernel has them.
//!
//! The device is not persistent: it goes with the process, and the kernel removes its address and routes with it. Everything is done in the network
//! namespace that the process is in.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;

use atoll_fast::PACKET_BYTES_MAX;
use atoll_ids::PlanetaryAddress;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use tokio::task::JoinHandle;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::guard::Guard;
use crate::routes::Prefix;

/// The interface's MTU: what passes Ethernet sealed. Where less does, senders are told, and what they sent goes in parts.
pub const INTERFACE_MTU: u16 = PACKET_BYTES_MAX as u16;

/// Where planetary addresses are.
const PLANETARY: (Ipv6Addr, u8) = (Ipv6Addr::new(0x0600, 0, 0, 0, 0, 0, 0, 0), 8);

/// The longest name of an interface (IFNAMSIZ without its end).
const NAME_BYTES_MAX: usize = 15;

/// What the interface is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// Its name, like `atoll0`.
    pub name: String,
    /// Its address.
    pub address: PlanetaryAddress,
}

/// Why there is no interface. The node goes on without.
#[derive(Debug, thiserror::Error)]
pub enum RaiseError {
    /// Not a name that an interface can have.
    #[error(
        "{name:?} cannot be the name of an interface: 1 to 15 letters, digits, dots, dashes or underscores (network.interface)"
    )]
    Name {
        /// What was configured.
        name: String,
    },
    /// The kernel has no TUN here.
    #[error("there is no /dev/net/tun here: load the kernel module (modprobe tun) or hand the device to the container")]
    NoTun,
    /// Not root.
    #[error("an interface takes CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the program")]
    NotAllowed,
    /// Somebody else has one of this name.
    #[error(
        "the interface {name} is there already, of another program or node: choose another name (network.interface)"
    )]
    Taken {
        /// The name.
        name: String,
    },
    /// The system refuses for another reason.
    #[error("the interface {name} cannot be raised: {what}: {reason}")]
    Refused {
        /// The name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        reason: String,
    },
}

/// A device that is up.
pub(crate) struct Device {
    pub(crate) tun: AsyncDevice,
    pub(crate) kernel: KernelRoutes,
    /// Or why there is none.
    pub(crate) guard: Result<Guard, String>,
}

impl Device {
    pub(crate) async fn raise(config: &TunConfig) -> Result<Self, RaiseError> {
        let name = config.name.as_str();
        let is_fine = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.chars().all(is_fine) {
            return Err(RaiseError::Name { name: name.to_owned() });
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err(RaiseError::NoTun);
        }
        let built = DeviceBuilder::new()
            .name(name)
            .mtu(INTERFACE_MTU)
            .with(|options| {
                options.offload(true);
            })
            .enable(false)
            .build_async();
        let tun = built.map_err(|error| blame(name, &error))?;
        let refused = |what| move |reason: String| RaiseError::Refused { name: name.to_owned(), what, reason };
        let index = tun.if_index().map_err(|error| refused("finding its index")(error.to_string()))?;
        prepare(name);
        let kernel = KernelRoutes::new(index, config.address.ip())
            .map_err(|error| refused("speaking to the kernel")(error.to_string()))?;
        kernel.configure().await.map_err(|(what, error)| refused(what)(error.to_string()))?;
        let guard = Guard::set(name, config.address.ip()).await;
        if let Err(reason) = &guard {
            tracing::warn!(reason, "machines on the local network can send to the planetary address past the filter");
        }
        Ok(Self { tun, kernel, guard })
    }
}

fn blame(name: &str, error: &io::Error) -> RaiseError {
    match error.kind() {
        io::ErrorKind::NotFound => RaiseError::NoTun,
        io::ErrorKind::PermissionDenied => RaiseError::NotAllowed,
        io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists => RaiseError::Taken { name: name.to_owned() },
        // EINVAL is what the kernel says when there is an interface of this name that is no TUN.
        io::ErrorKind::InvalidInput => RaiseError::Taken { name: name.to_owned() },
        _ => RaiseError::Refused { name: name.to_owned(), what: "opening it", reason: error.to_string() },
    }
}

/// Has the kernel give the interface no link-local address: there is no link behind it. Where /proc is not writable there is one, without harm: the filter
/// drops what it sends.
fn prepare(name: &str) {
    let settings = format!("/proc/sys/net/ipv6/conf/{name}");
    for (setting, value) in
        [("disable_ipv6", "0"), ("addr_gen_mode", "1"), ("accept_ra", "0"), ("accept_redirects", "0")]
    {
        if let Err(error) = std::fs::write(format!("{settings}/{setting}"), value) {
            tracing::debug!(setting, %error, "a setting of the interface stays as it is");
        }
    }
}

/// The kernel's routes into the interface.
pub(crate) struct KernelRoutes {
    handle: Handle,
    connection: JoinHandle<()>,
    index: u32,
    address: Ipv6Addr,
    networks: BTreeSet<Prefix>,
}

impl KernelRoutes {
    fn new(index: u32, address: Ipv6Addr) -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection, index, address, networks: BTreeSet::new() })
    }

    /// Address, then up, then the route: each needs the one before.
    async fn configure(&self) -> Result<(), (&'static str, rtnetlink::Error)> {
        let mut add = self.handle.address().add(self.index, self.address.into(), 128);
        let mut lifetime = CacheInfo::default();
        // Deprecated from the start, valid for ever: it is used where a route names it and nowhere else.
        (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        add.message_mut().attributes.extend([AddressAttribute::CacheInfo(lifetime), AddressAttribute::Flags(flags)]);
        add.execute().await.map_err(|error| ("giving it its address", error))?;
        let up = LinkUnspec::new_with_index(self.index).up().build();
        self.handle.link().set(up).execute().await.map_err(|error| ("switching it on", error))?;
        let planetary = self.route(PLANETARY.0, PLANETARY.1, true);
        self.handle.route().add(planetary).execute().await.map_err(|error| ("adding its route", error))
    }

    fn route(&self, to: Ipv6Addr, length: u8, from_us: bool) -> RouteMessage {
        let mut route =
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, length).output_interface(self.index);
        if from_us {
            route = route.pref_source(self.address);
        }
        route.build()
    }

    /// Makes the routes to pod networks what they should be. What fails is tried again at the next change.
    pub(crate) async fn set_networks(&mut self, wanted: &BTreeSet<Prefix>) {
        let gone: Vec<Prefix> = self.networks.difference(wanted).copied().collect();
        for network in gone {
            let route = self.route(network.address(), network.length(), false);
            if let Err(error) = self.handle.route().del(route).execute().await {
                tracing::debug!(%network, %error, "the route was gone already");
            }
            self.networks.remove(&network);
        }
        let new: Vec<Prefix> = wanted.difference(&self.networks).copied().collect();
        for network in new {
            let route = self.route(network.address(), network.length(), false);
            match self.handle.route().add(route).execute().await {
                Ok(()) => drop(self.networks.insert(network)),
                Err(error) => tracing::warn!(%network, %error, "no route to a pod network"),
            }
        }
    }
}

impl Drop for KernelRoutes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
