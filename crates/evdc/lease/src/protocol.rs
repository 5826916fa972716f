//! The protocol `atoll/lease/1`: one request frame, one answer frame, on a stream that proves who each side is.

use std::time::Duration;

use atoll_keys::Signed;
use atoll_wire::{DecodeError, FrameError, Versioned, decode, encode, read_frame, write_frame};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::keeper::Keeper;
use crate::statements::{Lease, LeaseEnd, LeaseTerms, Offer};

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/lease/1";

/// A lease is two statements of a few hundred bytes each.
pub const FRAME_BYTES_MAX: u32 = 16 << 10;

/// Granting is one write to the disk; a side that takes longer than this is not there.
const WITHIN: Duration = Duration::from_secs(10);

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

/// Why no answer came.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// The stream broke, or a frame was too large.
    #[error("the stream broke: {0}")]
    Frame(#[from] FrameError),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Io(#[from] std::io::Error),
    /// What came is not of this protocol.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The other side closed without a word.
    #[error("the other side closed the stream without an answer")]
    Closed,
    /// Nothing came in time.
    #[error("no answer within {} s", WITHIN.as_secs())]
    Late,
}

/// Asks the provider at the other end.
///
/// # Errors
/// [`ProtocolError`]; a refusal is an answer.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &Request) -> Result<Answer, ProtocolError> {
    let exchange = async {
        write_frame(&mut stream, &encode(request), FRAME_BYTES_MAX).await?;
        stream.flush().await?;
        let frame = read_frame(&mut stream, FRAME_BYTES_MAX).await?.ok_or(ProtocolError::Closed)?;
        let answer = decode(&frame)?;
        // The answer is here; how the stream ends no longer matters.
        let _: Result<(), _> = stream.shutdown().await;
        Ok(answer)
    };
    timeout(WITHIN, exchange).await.map_err(|_| ProtocolError::Late)?
}

/// Answers one request at `now` (seconds since 1970 UTC).
///
/// # Errors
/// [`ProtocolError`]
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    keeper: &Keeper,
    now: u64,
) -> Result<(), ProtocolError> {
    let exchange = async {
        let frame = read_frame(&mut stream, FRAME_BYTES_MAX).await?.ok_or(ProtocolError::Closed)?;
        let answer = match decode(&frame)? {
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
        write_frame(&mut stream, &encode(&answer), FRAME_BYTES_MAX).await?;
        stream.shutdown().await?;
        Ok(())
    };
    timeout(WITHIN, exchange).await.map_err(|_| ProtocolError::Late)?
}
