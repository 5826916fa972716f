//! One question and one answer on a stream: the whole of a protocol that needs no more, such as those of leases and memberships.
//!
//! Not here: who is asked and whether they may; that is the stream's and the protocol's affair.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{DecodeError, FrameError, Versioned, decode, encode, read_frame, write_frame};

/// What a protocol of this kind allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Most bytes of a question, and of an answer.
    pub frame_bytes_max: u32,
    /// How long the answer may take to arrive, and a question once the stream is open.
    pub within: Duration,
}

/// Why there was no answer, or no question.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The stream broke, or a frame was too large.
    #[error("the stream broke: {0}")]
    Frame(#[from] FrameError),
    /// What came is not of this protocol.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The other side closed without a word.
    #[error("the other side closed the stream without a word")]
    Closed,
    /// Nothing came in time.
    #[error("nothing came within {} s", .0.as_secs())]
    Late(Duration),
}

/// Asks the other end; the stream is closed after its answer.
///
/// # Errors
/// [`ExchangeError`]; a refusal is an answer.
pub async fn ask<S, Q, A>(mut stream: S, question: &Q, terms: Terms) -> Result<A, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Q: Versioned + Serialize,
    A: Versioned + DeserializeOwned,
{
    let exchange = async {
        write_frame(&mut stream, &encode(question), terms.frame_bytes_max).await?;
        stream.flush().await.map_err(FrameError::from)?;
        let frame = read_frame(&mut stream, terms.frame_bytes_max).await?.ok_or(ExchangeError::Closed)?;
        let answer = decode(&frame)?;
        // The answer is here; how the stream ends no longer matters.
        let _: Result<(), _> = stream.shutdown().await;
        Ok(answer)
    };
    timeout(terms.within, exchange).await.map_err(|_| ExchangeError::Late(terms.within))?
}

/// Hears one question and answers with what `respond` makes of it. What that takes is not limited; the other side goes when it has waited
/// enough.
///
/// # Errors
/// [`ExchangeError`]
pub async fn hear<S, Q, A, R, F>(mut stream: S, terms: Terms, respond: R) -> Result<(), ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Q: Versioned + DeserializeOwned,
    A: Versioned + Serialize,
    R: FnOnce(Q) -> F,
    F: Future<Output = A>,
{
    let late = |_| ExchangeError::Late(terms.within);
    let frame = timeout(terms.within, read_frame(&mut stream, terms.frame_bytes_max)).await.map_err(late)??;
    let question = decode(&frame.ok_or(ExchangeError::Closed)?)?;
    let answer = encode(&respond(question).await);
    let said = async {
        write_frame(&mut stream, &answer, terms.frame_bytes_max).await?;
        stream.shutdown().await.map_err(FrameError::from)
    };
    Ok(timeout(terms.within, said).await.map_err(late)??)
}

#[cfg(test)]
mod tests;
