//! The iroh endpoint as we want it: our key, hybrid key exchange, our limits, and nobody else's servers.
//!
//! With no relay configured, iroh speaks to peers only: relay mode is disabled, no address lookup service is added, and
//! port mapping is off.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use atoll_keys::NodeKey;
use iroh::endpoint::{
    BindOpts, Connection, PortmapperConfig, QuicTransportConfig, QuicTransportConfigBuilder, VarInt, presets,
};
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey, TransportAddr};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::address::is_dialable;
use crate::error::BindError;
use crate::link::LinkConfig;
use crate::peers::{Connected, Path};
use crate::via::transport::{DirectFirst, Lookup, ViaTransport};

/// Reasons for closing a connection or aborting a stream. Sent, so values never change.
pub(crate) mod code {
    /// Everything was said.
    pub(crate) const DONE: u32 = 0;
    /// The closing side does not know the other.
    pub(crate) const UNKNOWN: u32 = 1;
    /// Too many connections.
    pub(crate) const BUSY: u32 = 2;
    /// The protocol is not served.
    pub(crate) const PROTOCOL: u32 = 3;
    /// Shutting down.
    pub(crate) const CLOSING: u32 = 4;
    /// A stream was dropped before it was complete.
    pub(crate) const ABORTED: u32 = 5;
    /// Another connection does the same.
    pub(crate) const DUPLICATE: u32 = 6;
    /// The connection's way leads nowhere; the closing side looks for another.
    pub(crate) const MOVING: u32 = 7;
}

/// Streams that a peer may have open on one connection: a few per protocol are usual; more wait.
pub(crate) const STREAMS_MAX: u32 = 256;

/// A path of a connection that is used for something is given up after this without a sign of life. Long enough for two lost probes, and the whole connection fails over or ends
/// with its last path. iroh's default of 15 s keeps a dead path that long; 1 s was seen to black out for 27 s.
const PATH_IDLE: Duration = Duration::from_secs(5);

/// How often such a path is probed when nothing else is sent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The same for connections that only show that a peer is there: iroh probes no path less often.
const QUIET_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The same at the end that was dialled. What comes sets back the timers of both ends, so with the same time both would ask at the same moment, always: with one a little
/// shorter, one asks and the other answers, in 150 bytes.
const QUIET_KEEP_ALIVE_DIALLED: Duration = Duration::from_millis(4500);

/// Two lost probes, and iroh's limit as well.
const QUIET_PATH_IDLE: Duration = Duration::from_secs(15);

/// A connection without a sign of life on any path ends after this.
const CONNECTION_IDLE: Duration = Duration::from_secs(15);

/// Bytes in flight on one stream: 168 Mbit/s over 100 ms, where the default allows 100. noq closes a connection when what it
/// holds of a stream has more than 1,024 gaps; with packets of 1,200 bytes or more, 2 MiB cannot have as many even if every
/// other packet is lost.
const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes in flight on one connection in each direction, which bounds what a stalled reader makes us keep.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes of datagrams that wait for us to read them, per connection; the oldest go when there are more. Some 800 packets: a burst of one scheduling
/// delay. It holds for all connections because it is announced before the protocol is known.
const DATAGRAM_BUFFER: usize = 1 << 20;

/// The algorithms of QUIC: as for lanes the one hybrid key exchange and no other, so neither side can be talked down. AES-128 is in the list
/// because QUIC's first packets use it with a key that is public anyway; the ciphers before it are what connections negotiate.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

/// What every connection has in common; `packets` is whether datagrams are taken in.
pub(crate) fn transport(packets: bool) -> QuicTransportConfigBuilder {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(CONNECTION_IDLE.try_into().expect("seconds fit")))
        .keep_alive_interval(KEEP_ALIVE)
        .default_path_keep_alive_interval(KEEP_ALIVE)
        .default_path_max_idle_timeout(PATH_IDLE)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(packets.then_some(DATAGRAM_BUFFER))
}

/// What our end of each connection does that a peer makes. It has to be known before the protocol is: whoever dials probes as often as the use asks for.
fn dialled_transport() -> QuicTransportConfigBuilder {
    quiet_transport().default_path_keep_alive_interval(QUIET_KEEP_ALIVE_DIALLED)
}

/// Where nothing may be said for long.
pub(crate) fn quiet_transport() -> QuicTransportConfigBuilder {
    transport(true)
        // Paths are probed; that the connection probes whichever of them as well would be one packet more.
        .keep_alive_interval(CONNECTION_IDLE)
        .default_path_keep_alive_interval(QUIET_KEEP_ALIVE)
        .default_path_max_idle_timeout(QUIET_PATH_IDLE)
}

fn relay_mode(relays: &[String]) -> Result<RelayMode, BindError> {
    if relays.is_empty() {
        return Ok(RelayMode::Disabled);
    }
    let parse = |url: &String| url.parse::<RelayUrl>().map_err(|_| BindError::Relay { url: url.clone() });
    Ok(RelayMode::custom(relays.iter().map(parse).collect::<Result<Vec<_>, _>>()?))
}

/// Starts the endpoint on the configured addresses, answering to `protocols`.
pub(crate) async fn bind(
    key: &NodeKey,
    config: &LinkConfig,
    protocols: Vec<Vec<u8>>,
    via: (Arc<ViaTransport>, Lookup),
) -> Result<Endpoint, BindError> {
    let bind = config.bind.as_slice();
    if bind.is_empty() {
        return Err(BindError::NoAddress);
    }
    let mut builder = Endpoint::builder(presets::Empty)
        .secret_key(SecretKey::from_bytes(&key.secret_bytes()))
        .crypto_provider(provider())
        // Datagrams are taken in whether or not packets are carried: relaying is done with them.
        .transport_config(dialled_transport().build())
        .relay_mode(relay_mode(&config.relays)?)
        .clear_address_lookup()
        .address_lookup(via.1)
        .add_custom_transport(via.0)
        .path_selector(Arc::new(DirectFirst))
        .portmapper_config(PortmapperConfig::Disabled)
        .alpns(protocols)
        .clear_ip_transports();
    for (at, address) in bind.iter().enumerate() {
        let options = bind_options(address, &bind[..at]);
        builder = builder
            .bind_addr_with_opts(*address, options)
            .map_err(|error| BindError::Endpoint(format!("{address}: {error}")))?;
    }
    for address in config.external.iter().filter(|address| is_dialable(address)) {
        builder = builder.external_addr(*address);
    }
    builder.bind().await.map_err(|error| blame(bind, &error))
}

/// The first address of a family is where packets go that no other is nearer to; further ones serve their own network. A machine
/// without IPv6 is no reason not to start when all interfaces were asked for.
fn bind_options(address: &SocketAddr, earlier: &[SocketAddr]) -> BindOpts {
    let first = !earlier.iter().any(|other| other.is_ipv4() == address.is_ipv4());
    let network = match (first, address.is_ipv4(), address.ip().is_loopback()) {
        (true, ..) => 0,
        (false, true, true) => 8,
        (false, true, false) => 24,
        (false, false, true) => 128,
        (false, false, false) => 64,
    };
    let optional = address.is_ipv6() && address.ip().is_unspecified();
    BindOpts::default().set_prefix_len(network).set_is_required(!optional)
}

/// Finds out which address iroh failed on: it does not say.
fn blame(addresses: &[SocketAddr], error: &iroh::endpoint::BindError) -> BindError {
    for addr in addresses {
        match UdpSocket::bind(addr) {
            Ok(_) => {}
            Err(source) => return address_error(*addr, source),
        }
    }
    // It is free by now: whoever had it went in between.
    let in_use = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|it| it.kind() == std::io::ErrorKind::AddrInUse)
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let (true, [addr, ..]) = (in_use(error), addresses) {
            return BindError::PortInUse { addr: *addr };
        }
        cause = error.source();
    }
    BindError::Endpoint(error.to_string())
}

pub(crate) fn address_error(addr: SocketAddr, source: std::io::Error) -> BindError {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::PortInUse { addr },
        _ => BindError::Address { addr, source },
    }
}

/// The path that a connection uses now.
pub(crate) fn path_of(connection: &Connection) -> Option<Connected> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next())?;
    let way = match path.remote_addr() {
        TransportAddr::Ip(address) => Path::Direct(*address),
        TransportAddr::Relay(url) => Path::Relay(url.to_string()),
        // By which one is for the choice of relays to say.
        _ => Path::Via(None),
    };
    Some(Connected { path: way, round_trip: path.rtt() })
}

/// Whether a connection goes directly to the peer now.
pub(crate) fn is_direct(connection: &Connection) -> bool {
    path_of(connection).is_some_and(|connected| matches!(connected.path, Path::Direct(_)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn only_the_hybrid_key_exchange_is_offered() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::X25519MLKEM768]);
    }

    #[test]
    fn nobodys_relay_is_used_unless_configured() {
        assert_eq!(relay_mode(&[]).unwrap(), RelayMode::Disabled);
        let url = "https://relay.example.org/".to_owned();
        let RelayMode::Custom(map) = relay_mode(std::slice::from_ref(&url)).unwrap() else { panic!("not custom") };
        assert_eq!(map.urls::<Vec<_>>(), [url.parse::<RelayUrl>().unwrap()]);
        assert!(matches!(relay_mode(&["not a url".to_owned()]), Err(BindError::Relay { .. })));
    }
}
