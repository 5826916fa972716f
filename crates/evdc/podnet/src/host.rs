//! What is done to this host for the network as a whole and for one pod: namespaces, veth pairs, addresses, routes, the forwarding switch.
//! Each step may be repeated. No rule of the firewall is made here.

use std::ffi::OsStr;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use rustix::mount::UnmountFlags;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::address::link_addresses;
use crate::command::{CommandError, Tool, batch, ip_batch, run};
use crate::config::{Config, MTU_DEFAULT};
use crate::records::{PodRecord, absent_is_fine};

/// Magic number of the file system on which namespaces are files (linux/magic.h): tells a namespace from the empty file it is mounted on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Any link-local address does: no neighbour is asked for it, its link address is entered by hand.
const NEXT_HOP: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Ports from 1 and pings without capabilities, as container engines allow since these concern only the pod's own namespace; then `ip`.
const IN_NAMESPACE: &str = "echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range
exec ip -6 -batch -";

/// `ip`'s arguments that show which addresses are this network namespace's own.
const LOCAL_ROUTES: [&str; 6] = ["-6", "-j", "route", "show", "table", "local"];

/// Between two looks at whether an interface passes packets; most do at the first.
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// How long the kernel may take for that. Its workers wait for the lock of all network configuration, which the end of other namespaces holds for
/// seconds on a busy machine.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct LinkView {
    mtu: u32,
    operstate: String,
}

#[derive(Deserialize)]
struct RouteView {
    dst: String,
}

/// The planetary interface's MTU, or `None` when there is no such interface.
pub(crate) async fn mtu_of(interface: &str) -> Result<Option<u32>, CommandError> {
    let purpose = "look at an interface";
    match run(Tool::Ip, purpose, &["-j", "link", "show", "dev", interface], "").await {
        Ok(output) => {
            let links: Vec<LinkView> = serde_json::from_slice(&output).unwrap_or_default();
            Ok(links.first().map(|link| link.mtu))
        }
        Err(CommandError::Refused { answer, .. }) if answer.contains("does not exist") => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) async fn mtu(config: &Config) -> Result<u32, CommandError> {
    match (config.mtu, &config.planetary) {
        (Some(mtu), _) => Ok(mtu),
        (None, Some(planetary)) => Ok(mtu_of(planetary).await?.unwrap_or(MTU_DEFAULT)),
        (None, None) => Ok(MTU_DEFAULT),
    }
}

/// The node's address, the way to other nodes, the way of this node's own connections to Services.
pub(crate) async fn raise(config: &Config) -> Result<(), CommandError> {
    let source = config.node_address();
    let mut lines = vec![
        "link set dev lo up".to_owned(),
        format!("address replace {source}/128 dev lo nodad"),
        // Never travelled: Services are translated or refused before. It lets a connection choose its source. `local`, because the kernel makes any
        // other route over the loopback interface one that refuses.
        format!("route replace local {} dev lo src {source}", config.services),
    ];
    if let Some(planetary) = &config.planetary {
        lines.push(format!("route replace {} dev {planetary} src {source}", config.evdc));
    }
    ip_batch("route the eVDC's network", &lines).await?;
    settled(Tool::Ip, &LOCAL_ROUTES.map(OsStr::new), |route: &RouteView| route.dst == source.to_string()).await
}

/// Takes away what [`raise`] made; what is gone already is fine.
pub(crate) async fn lower(config: &Config) -> Result<(), CommandError> {
    let mut steps = vec![format!("route del local {} dev lo", config.services)];
    if let Some(planetary) = &config.planetary {
        steps.push(format!("route del {} dev {planetary}", config.evdc));
    }
    steps.push(format!("address del {}/128 dev lo", config.node_address()));
    for step in steps {
        gone_is_fine(ip_batch("remove the eVDC's routes", &[step]).await)?;
    }
    Ok(())
}

fn gone_is_fine(result: Result<(), CommandError>) -> Result<(), CommandError> {
    const GONE: [&str; 4] =
        ["No such process", "Cannot find device", "Cannot assign requested address", "does not exist"];
    match result {
        Err(CommandError::Refused { answer, .. }) if GONE.iter().any(|gone| answer.contains(gone)) => Ok(()),
        other => other,
    }
}

/// Switches forwarding on in this process's network namespace. A forwarding host ignores router advertisements unless told otherwise, which
/// would cost a machine that has its address by them the network: those interfaces are told otherwise first.
pub(crate) fn forward() -> io::Result<()> {
    let root = Path::new("/proc/sys/net/ipv6/conf");
    if std::fs::read_to_string(root.join("all/forwarding"))?.trim() == "1" {
        return Ok(());
    }
    for entry in std::fs::read_dir(root)? {
        let file = entry?.path().join("accept_ra");
        if std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == "1") {
            std::fs::write(&file, "2")?;
        }
    }
    std::fs::write(root.join("all/forwarding"), "1")
}

/// Whether a namespace is mounted there.
pub(crate) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

/// A new network namespace, kept by a mount on `path` until [`remove_namespace`].
pub(crate) async fn make_namespace(path: &Path) -> Result<(), CommandError> {
    let purpose = "make a network namespace";
    let io = |source| CommandError::Io { tool: Tool::Unshare, purpose, source };
    std::fs::File::create(path).map_err(io)?;
    let mut argument = std::ffi::OsString::from("--net=");
    argument.push(path);
    run(Tool::Unshare, purpose, &[argument.as_os_str(), "true".as_ref()], "").await.map(drop)
}

/// Lets the namespace go; it ends with the last process in it.
pub(crate) fn remove_namespace(path: &Path) -> io::Result<()> {
    while is_namespace(path) {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    absent_is_fine(std::fs::remove_file(path))
}

/// The pair of interfaces: the host's end routed to, the pod's end inside, both knowing each other's link address.
pub(crate) async fn connect(pod: &PodRecord, source: Ipv6Addr, mtu: u32, namespace: &Path) -> Result<(), CommandError> {
    let PodRecord { interface, address, .. } = pod;
    let (host_end, pod_end) = link_addresses(interface);
    let path = namespace.display();
    let outside = [
        format!(
            "link add name {interface} mtu {mtu} address {host_end} type veth peer name eth0 mtu {mtu} address {pod_end} netns {path}"
        ),
        format!("link set dev {interface} addrgenmode none up"),
        format!("neigh replace {address} lladdr {pod_end} nud permanent dev {interface}"),
        format!("route replace {address}/128 dev {interface} src {source}"),
    ];
    let inside = [
        "link set dev lo up".to_owned(),
        "link set dev eth0 addrgenmode none up".to_owned(),
        format!("address replace {address}/128 dev eth0 nodad"),
        format!("neigh replace {NEXT_HOP} lladdr {host_end} nud permanent dev eth0"),
        format!("route replace default via {NEXT_HOP} dev eth0 src {address}"),
    ];
    ip_batch("connect a pod", &outside).await?;
    let mut net = std::ffi::OsString::from("--net=");
    net.push(namespace);
    let arguments = [net.as_os_str(), "sh".as_ref(), "-c".as_ref(), IN_NAMESPACE.as_ref()];
    run(Tool::Nsenter, "set up a pod's interface", &arguments, &batch(&inside)).await?;
    let in_pod = [net.as_os_str(), "ip".as_ref()];
    let is_up = |link: &LinkView| link.operstate == "UP";
    settled(Tool::Ip, &["-j", "link", "show", "dev", interface].map(OsStr::new), is_up).await?;
    let inner = ["-j", "link", "show", "dev", "eth0"].map(OsStr::new);
    settled(Tool::Nsenter, &[&in_pod[..], &inner].concat(), is_up).await?;
    let is_local = |route: &RouteView| route.dst == address.to_string();
    settled(Tool::Nsenter, &[&in_pod[..], &LOCAL_ROUTES.map(OsStr::new)].concat(), is_local).await
}

/// Waits until one of what this shows is as it has to be. The kernel acknowledges an interface and an address before packets pass: what is sent
/// through the interface is dropped until a worker has connected it, and what comes to the address until another has entered the address's route. A pod's
/// first connection would wait a second for its packet to be sent again, and a first datagram be lost.
async fn settled<V: DeserializeOwned>(
    tool: Tool,
    show: &[&OsStr],
    is_it: impl Fn(&V) -> bool,
) -> Result<(), CommandError> {
    let purpose = "see a pod's interface take up its work";
    let wait = async {
        loop {
            let output = run(tool, purpose, show, "").await?;
            let shown: Vec<V> = serde_json::from_slice(&output).unwrap_or_default();
            if shown.iter().any(&is_it) {
                return Ok(());
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    };
    tokio::time::timeout(SETTLE_TIMEOUT, wait).await.map_err(|_| CommandError::Hung { tool, purpose })?
}

/// Removes the pair, if it is there.
pub(crate) async fn disconnect(interface: &str) -> Result<(), CommandError> {
    gone_is_fine(ip_batch("remove a pod's interface", &[format!("link del dev {interface}")]).await)
}

/// Whether a route to all of this pod's parts stands: its interface exists and is up.
pub(crate) async fn is_connected(interface: &str) -> Result<bool, CommandError> {
    Ok(mtu_of(interface).await?.is_some())
}

/// Whether `path` can stand in a line for `ip -batch`, which splits at white space and knows quotes and comments.
pub(crate) fn is_plain(path: &Path) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:,=".contains(&byte);
    path.is_absolute() && path.to_str().is_some_and(|path| path.bytes().all(plain))
}
