//! The protocol `atoll/evdc/1`: the tenant's node and the members of an eVDC among themselves. One request frame, one answer frame.

use std::time::Duration;

use atoll_ids::EvdcId;
use atoll_keys::Signed;
use atoll_lease::{LeaseEnd, Membership};
use atoll_link::AddressRecord;
use atoll_wire::exchange::{self, ExchangeError, Terms};
use atoll_wire::{DecodeError, Versioned, decode};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::assignment::Assignment;

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/evdc/1";

/// Room for a membership of 512 members with their address records; time for the start of an API server, which taking an assignment can
/// mean.
const TERMS: Terms = Terms { frame_bytes_max: 1 << 20, within: Duration::from_secs(30) };

/// What is asked of a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Do this. From the tenant's node.
    Assign(Box<Assignment>),
    /// Stop what you do for the eVDC of this lease, and end the lease. From the tenant's node.
    Release(Signed<LeaseEnd>),
    /// These are the members who will dial in; take their streams. From the tenant's node, to the gateway.
    Admit(Box<Admission>),
    /// Credentials for the eVDC's API. From members, for their agents, and from the tenant's node, for its administrator.
    Credentials(EvdcId),
}

impl Versioned for Request {
    const VERSION: u16 = 1;
    const NAME: &'static str = "eVDC request";
}

/// Whom a gateway is to let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admission {
    /// Who belongs to the eVDC, and that this is its gateway.
    pub membership: Signed<Membership>,
    /// Where the members are.
    pub records: Vec<Signed<AddressRecord>>,
}

/// What it takes to be known to a Kubernetes API server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The authority that signed the server's certificate: PEM.
    pub authority: String,
    /// The client's certificate: PEM.
    pub certificate: String,
    /// The client's key: PEM. Never shown in debug output.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// A kubeconfig file (YAML, of which JSON is a part) for these credentials and the URL at which the API is reached.
#[must_use]
pub fn kubeconfig(name: &str, server: &str, credentials: &Credentials) -> String {
    let base64 = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let context = format!("atoll-{name}");
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{
            "name": context,
            "cluster": {"server": server, "certificate-authority-data": base64(&credentials.authority)},
        }],
        "users": [{
            "name": context,
            "user": {
                "client-certificate-data": base64(&credentials.certificate),
                "client-key-data": base64(&credentials.key),
            },
        }],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
    });
    format!("{config:#}\n")
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// It is on disk and under way, or it is stopped.
    Done,
    /// These.
    Credentials(Credentials),
    /// No, and why.
    Refused(String),
}

impl Versioned for Answer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "eVDC answer";
}

/// Asks the member at the other end.
///
/// # Errors
/// [`ExchangeError`]; a refusal is an answer.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, request: &Request) -> Result<Answer, ExchangeError> {
    exchange::ask(stream, request, TERMS).await
}

/// Hears one request and answers with what `respond` makes of it.
///
/// # Errors
/// [`ExchangeError`]
pub async fn hear<S, R, F>(stream: S, respond: R) -> Result<(), ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: FnOnce(Request) -> F,
    F: Future<Output = Answer>,
{
    exchange::hear(stream, TERMS, respond).await
}

/// Decodes a request, for fuzzing: whether it is one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_request(bytes: &[u8]) -> Result<(), DecodeError> {
    decode::<Request>(bytes).map(|_| ())
}
