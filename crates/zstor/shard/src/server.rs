//! Answers the shard protocol from the segments of this node.
//!
//! [`ShardServer::serve`] runs one stream: it checks the grant and the node's own policy, then reads requests, lets a
//! bounded number of them run at once, and writes answers as they complete, in any order. The owner in the grant is the
//! namespace of everything on the stream; no request can name another.
//!
//! Limits per stream, whatever the client does: [`IN_FLIGHT_MAX`](crate::limits::IN_FLIGHT_MAX) requests,
//! [`PUT_BYTES_MAX`](crate::limits::PUT_BYTES_MAX) of unfinished puts, [`READS_MAX`](crate::limits::READS_MAX) reads at
//! once, [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX) of answers for a slow reader. At a limit the server
//! stops reading.
//!
//! A stream ends when the client closes it, is silent for too long, breaks the protocol, or its grant runs out; and on
//! shutdown. Requests that were read are completed and answered before the end, except when the stream is broken, where
//! they are completed and not answered.

mod session;
mod stats;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_ids::{ByteCount, NodeId, OwnerId};
use atoll_segments::Segments;
use atoll_wire::{DecodeError, FrameError, decode, encode, read_frame, write_frame};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use stats::{RequestCounts, ShardServerStats, StatsSnapshot};

use crate::dial::Stream;
use crate::grant::{self, GrantError, StorageGrant};
use crate::home::Refusal;
use crate::limits::{CLOCK_SKEW_SECONDS, DIAL_LIMIT, HELLO_BYTES_MAX, SHARD_BYTES_MAX};
use crate::protocol::{Greeting, Hello, ProtocolError, RefusedHello, ServerLimits, Welcome, fitting};

/// The node's own decision about who may store here.
pub trait ServePolicy: Send + Sync {
    /// Whether shards of `owner` are kept here, on the word of `peer`, which has shown a valid grant. Called once per
    /// stream.
    fn admit(&self, owner: OwnerId, peer: NodeId) -> Admission;
}

impl<F: Fn(OwnerId, NodeId) -> Admission + Send + Sync> ServePolicy for F {
    fn admit(&self, owner: OwnerId, peer: NodeId) -> Admission {
        self(owner, peer)
    }
}

/// What a [`ServePolicy`] decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The owner may store here.
    Admit {
        /// The most it may store; `None` is the store's default, which usually is no limit but the node's capacity.
        quota: Option<ByteCount>,
    },
    /// The owner may not store here.
    Refuse {
        /// Why, for the person at the other end.
        text: String,
    },
}

/// Why a stream ended other than by the client closing it, or by shutdown.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The client did not say hello in time.
    #[error("no hello within {} s", .0.as_secs())]
    NoHello(Duration),
    /// The first frame was no hello. The client was told.
    #[error("the first frame is no hello: {0}")]
    Hello(DecodeError),
    /// The grant does not entitle the peer. The client was told.
    #[error("refused: {0}")]
    Grant(GrantError),
    /// The policy refused the owner. The client was told.
    #[error("refused owner {}: {text}", .owner.short())]
    Policy {
        /// The owner.
        owner: OwnerId,
        /// The policy's words.
        text: String,
    },
    /// The grant ran out while the stream was open. The client was told.
    #[error("the grant ran out")]
    GrantEnded,
    /// The client does not keep to the protocol. The client was told, if it reads.
    #[error("protocol error: {0}")]
    Protocol(ProtocolError),
    /// A request, or the reading of its answer, stood still, or no request came for long.
    #[error("nothing moved for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Io(io::Error),
    /// A request could not be completed because of a mistake in this program; the stream was ended so that the client
    /// learns of it.
    #[error("a request failed by a panic")]
    Panicked,
}

/// Serves the shards of one store to any number of streams. Cheap to clone.
#[derive(Clone)]
pub struct ShardServer {
    segments: Segments,
    policy: Arc<dyn ServePolicy>,
    stats: Arc<ShardServerStats>,
}

/// Who a stream acts for, and until when.
struct Admitted {
    owner: OwnerId,
    expires_in: Duration,
}

impl ShardServer {
    /// A server of `segments` for whoever `policy` admits.
    #[must_use]
    pub fn new(segments: Segments, policy: Arc<dyn ServePolicy>) -> Self {
        Self { segments, policy, stats: Arc::default() }
    }

    /// What it has done so far; shared by all clones.
    #[must_use]
    pub fn stats(&self) -> Arc<ShardServerStats> {
        Arc::clone(&self.stats)
    }

    /// Serves one stream from `peer`, which the transport has authenticated, until it ends. After `shutdown` is
    /// cancelled it reads no further requests, completes and answers those it has read, and returns; the caller sets
    /// the deadline by dropping the future.
    ///
    /// # Errors
    /// [`ServeError`], for the log; the client was told what it can be told.
    pub async fn serve<S: Stream>(
        &self,
        mut stream: S,
        peer: NodeId,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let _open = self.stats.open();
        let greeted = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            greeted = timeout(DIAL_LIMIT, self.greet(&mut stream, peer)) => greeted,
        };
        let admitted = match greeted {
            Ok(Ok(Some(admitted))) => admitted,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => {
                self.stats.refused();
                // The greeting was flushed; a peer that is gone does not mind.
                let _ = timeout(DIAL_LIMIT, stream.shutdown()).await;
                return Err(error);
            }
            Err(_) => return Err(ServeError::NoHello(DIAL_LIMIT)),
        };
        session::run(self, stream, admitted, shutdown).await
    }

    /// Reads the hello and answers it. `None` if the client closed the stream before saying anything.
    async fn greet<S: Stream>(&self, stream: &mut S, peer: NodeId) -> Result<Option<Admitted>, ServeError> {
        let Some(frame) = read_frame(stream, HELLO_BYTES_MAX).await.map_err(unreadable)? else { return Ok(None) };
        let hello = match decode::<Hello>(&frame) {
            Ok(hello) => hello,
            Err(error) => {
                refuse(stream, Refusal::Policy, &error.to_string()).await?;
                return Err(ServeError::Hello(error));
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grant = match grant::check(&hello.grant, peer, now) {
            Ok(grant) => grant,
            Err(error) => {
                refuse(stream, Refusal::Grant, &error.to_string()).await?;
                return Err(ServeError::Grant(error));
            }
        };
        let quota = match self.policy.admit(grant.owner, peer) {
            Admission::Admit { quota } => quota,
            Admission::Refuse { text } => {
                refuse(stream, Refusal::Policy, &text).await?;
                return Err(ServeError::Policy { owner: grant.owner, text });
            }
        };
        self.segments.set_quota(grant.owner, quota.map(|quota| quota.0));
        let stat = self.segments.stat(grant.owner);
        let (quota, used) = (stat.quota.map(ByteCount), ByteCount(stat.bytes));
        send(stream, &Greeting::Welcome(Welcome { limits: limits(), quota, used })).await?;
        Ok(Some(Admitted { owner: grant.owner, expires_in: remaining(&grant, now) }))
    }
}

/// What is announced to clients: the protocol's limits, or the store's where they are narrower.
fn limits() -> ServerLimits {
    let shard_bytes_max = SHARD_BYTES_MAX.min(atoll_segments::SHARD_BYTES_MAX);
    ServerLimits { shard_bytes_max: u32::try_from(shard_bytes_max).expect("at most 4 MiB"), ..ServerLimits::default() }
}

/// How long a valid grant still entitles.
fn remaining(grant: &StorageGrant, now: u64) -> Duration {
    Duration::from_secs(grant.not_after.saturating_add(CLOCK_SKEW_SECONDS).saturating_sub(now))
}

fn unreadable(error: FrameError) -> ServeError {
    match error {
        FrameError::Io(error) => ServeError::Io(error),
        error => ServeError::Io(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
    }
}

async fn refuse<S: Stream>(stream: &mut S, why: Refusal, text: &str) -> Result<(), ServeError> {
    let text = fitting(text).to_owned();
    send(stream, &Greeting::Refused(RefusedHello { why, text })).await
}

async fn send<S: Stream>(stream: &mut S, greeting: &Greeting) -> Result<(), ServeError> {
    write_frame(stream, &encode(greeting), HELLO_BYTES_MAX).await.map_err(unreadable)?;
    stream.flush().await.map_err(ServeError::Io)
}
