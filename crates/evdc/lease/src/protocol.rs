//! The protocol `atoll/lease/1`: one request frame, one answer frame, on a stream that proves who each side is.

use std::time::Duration;

use atoll_keys::Signed;
use atoll_wire::Versioned;
use atoll_wire::exchange::{self, ExchangeError, Terms};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::keeper::Keeper;
use crate::statements::{Lease, LeaseEnd, LeaseTerms, Offer};

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/lease/1";

/// A lease is two statements of a few hundred bytes each. Granting is one write to the disk; a side that takes longer than this is not
/// there.
const TERMS: Terms = Terms { frame_bytes_max: 16 << 10, within: Duration::from_secs(10) };

/// What a tenant asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// What do you lend?
    Offer,
    /// Lend me this.
    Propose(Signed<LeaseTerms>),
    /// I give this back.
    End(Signed<LeaseEnd>),
}

impl Versioned for Request {
    const VERSION: u16 = 1;
    const NAME: &'static str = "lease request";
}

/// What the provider answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// This.
    Offer(Signed<Offer>),
    /// Granted, and on disk.
    Granted(Box<Lease>),
    /// Ended, or there was none.
    Ended,
    /// No, and why.
    Refused(String),
}

impl Versioned for Answer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "lease answer";
}

/// Asks the provider at the other end.
///
/// # Errors
/// [`ExchangeError`]; a refusal is an answer.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, request: &Request) -> Result<Answer, ExchangeError> {
    exchange::ask(stream, request, TERMS).await
}

/// Answers one request at `now` (seconds since 1970 UTC).
///
/// # Errors
/// [`ExchangeError`]
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    keeper: &Keeper,
    now: u64,
) -> Result<(), ExchangeError> {
    let respond = async |request| match request {
        Request::Offer => Answer::Offer(keeper.offer(now)),
        Request::Propose(proposal) => match keeper.propose(proposal, now).await {
            Ok(lease) => Answer::Granted(Box::new(lease)),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Request::End(end) => match keeper.end(&end).await {
            Ok(_) => Answer::Ended,
            Err(error) => Answer::Refused(error.to_string()),
        },
    };
    exchange::hear(stream, TERMS, respond).await
}
