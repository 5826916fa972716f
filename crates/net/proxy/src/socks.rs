//! SOCKS version 5 as a server sees it (RFC 1928): bytes in, messages out. Pure; the sockets are `front`'s.
//!
//! Written here because it is three messages. Of the crates at hand `fast-socks5` (MIT) wants to own the socket, the look-up and the connecting, and
//! `socks5-proto` and `socks5-impl` are GPL.
//!
//! Decoders take what has arrived so far and answer `None` while there is more to come; what a message can be at most is in its own length bytes (one each).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::target::Target;

/// The version in front of everything.
pub(crate) const VERSION: u8 = 5;

/// The method without authentication (RFC 1928, section 3).
const NO_AUTHENTICATION: u8 = 0;

/// The answer when no method offered will do.
const NO_METHOD: u8 = 0xff;

/// Connect, the only command that is carried out (RFC 1928, section 4).
const CONNECT: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The first message: which methods the program can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Whether it can do without authentication.
    pub without_authentication: bool,
}

/// What a program asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub target: Target,
    /// Which port.
    pub port: u16,
}

/// Why bytes are no message. Each has a code of RFC 1928, section 6.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Not version 5.
    #[error("this is not SOCKS version 5 (it begins with {0})")]
    Version(u8),
    /// Not to connect.
    #[error("SOCKS command {0} is not carried out here: only to connect (1) is")]
    Command(u8),
    /// A kind of address that there is not.
    #[error("SOCKS address type {0} is unknown")]
    AddressType(u8),
    /// The name is none.
    #[error("the name in the SOCKS request is no host's")]
    Name,
}

/// How a request ended (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Connected.
    Succeeded = 0,
    /// Something else.
    Failure = 1,
    /// A rule forbids it.
    NotAllowed = 2,
    /// The network is not reached.
    NetworkUnreachable = 3,
    /// The host is not reached.
    HostUnreachable = 4,
    /// The host refuses.
    Refused = 5,
    /// It took too long (the field's own name is "TTL expired").
    Expired = 6,
    /// Not a command that is carried out.
    CommandNotSupported = 7,
    /// Not a kind of address that is understood.
    AddressNotSupported = 8,
}

impl SocksError {
    /// The code to answer with.
    #[must_use]
    pub fn reply(&self) -> Reply {
        match self {
            Self::Version(_) => Reply::Failure,
            Self::Command(_) => Reply::CommandNotSupported,
            Self::AddressType(_) | Self::Name => Reply::AddressNotSupported,
        }
    }
}

/// Takes bytes off the front of what has arrived.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at + length)?;
        self.at += length;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn version(&mut self) -> Result<Option<()>, SocksError> {
        match self.byte() {
            Some(VERSION) => Ok(Some(())),
            Some(other) => Err(SocksError::Version(other)),
            None => Ok(None),
        }
    }
}

/// Reads the first message; with it comes how many bytes it took. `None` while it is not all there.
///
/// # Errors
/// [`SocksError::Version`].
pub fn decode_greeting(bytes: &[u8]) -> Result<Option<(Greeting, usize)>, SocksError> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.version()?.is_none() {
        return Ok(None);
    }
    let Some(count) = reader.byte() else { return Ok(None) };
    let Some(methods) = reader.take(count.into()) else { return Ok(None) };
    Ok(Some((Greeting { without_authentication: methods.contains(&NO_AUTHENTICATION) }, reader.at)))
}

/// The answer to the first message.
#[must_use]
pub(crate) fn encode_method(accepted: bool) -> [u8; 2] {
    [VERSION, if accepted { NO_AUTHENTICATION } else { NO_METHOD }]
}

/// Reads a request; with it comes how many bytes it took. `None` while it is not all there.
///
/// # Errors
/// [`SocksError`].
pub fn decode_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, SocksError> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.version()?.is_none() {
        return Ok(None);
    }
    // The third byte is reserved; what is in it does not matter.
    let Some([command, _, kind]) = reader.array() else { return Ok(None) };
    if command != CONNECT {
        return Err(SocksError::Command(command));
    }
    let target = match kind {
        IPV4 => reader.array::<4>().map(|octets| Ok(Target::of_ip(Ipv4Addr::from(octets).into()))),
        IPV6 => reader.array::<16>().map(|octets| Ok(Target::of_ip(Ipv6Addr::from(octets).into()))),
        NAME => reader.byte().and_then(|length| reader.take(length.into())).map(name),
        other => return Err(SocksError::AddressType(other)),
    };
    let Some(target) = target.transpose()? else { return Ok(None) };
    let Some(port) = reader.array().map(u16::from_be_bytes) else { return Ok(None) };
    Ok(Some((Request { target, port }, reader.at)))
}

fn name(bytes: &[u8]) -> Result<Target, SocksError> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(SocksError::Name)
}

/// The answer to a request. The address in it is where the connection comes from at the far end, which nobody here knows: none, as most proxies say.
#[must_use]
pub fn encode_reply(reply: Reply, bound: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![VERSION, reply as u8, 0];
    match bound.ip() {
        IpAddr::V4(ip) => {
            bytes.push(IPV4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(IPV6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(bound.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
