//! One welcomed stream: a reader that starts requests, a task for each request, a writer that sends answers.
//!
//! What bounds memory: a request holds one of [`IN_FLIGHT_MAX`] places from before its header is read until its answer
//! is written; a put holds its payload's bytes of [`PUT_BYTES_MAX`] from before the body is read until it is done; a
//! read holds one of [`READS_MAX`] places until its answer has its bytes of [`ANSWER_BYTES_MAX`], which it holds until
//! it is written. Each waits for the next without holding what the next waits for, so nothing can lock up: writing
//! never waits for reading.

use std::io;
use std::sync::Arc;

use atoll_ids::{ByteCount, OwnerId, ShardId};
use atoll_segments::{DeleteError, GetError, PutError, Segments};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::stats::ShardServerStats;
use super::{Admitted, ServeError, ShardServer};
use crate::dial::Stream;
use crate::frame::{Fault, FrameReader, FrameWriter, Progress};
use crate::home::{HomeStat, PutOutcome, ShardEntry};
use crate::limits::{
    ANSWER_BYTES_MAX, IN_FLIGHT_MAX, LIST_ENTRIES_MAX, PUT_BYTES_MAX, READS_MAX, SERVER_IDLE_LIMIT, STALL_LIMIT,
};
use crate::protocol::{Answer, Code, ENTRY_BYTES, Kind, ProtocolError, Request};

/// What the requests of a stream share.
struct Session {
    owner: OwnerId,
    segments: Segments,
    stats: Arc<ShardServerStats>,
    reads: Semaphore,
    answer_bytes: Arc<Semaphore>,
    answers: mpsc::Sender<Outgoing>,
}

/// An answer on its way out, with what it holds until it is written.
struct Outgoing {
    request: u64,
    answer: Answer,
    _place: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

/// Why no more requests are read.
enum Stop {
    Closed,
    Shutdown,
    Failed(ServeError),
    /// The writer failed; it has the reason.
    Unwritable,
}

/// Serves requests until the stream ends.
///
/// Reading and writing are one task: the halves of a stream share a lock, over which two tasks would only wait for each
/// other.
pub(super) async fn run<S: Stream>(
    server: &ShardServer,
    stream: S,
    admitted: Admitted,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let (read, write) = tokio::io::split(stream);
    // Every answer but the last word holds a place, so sending to the writer never waits.
    let (answers, outgoing) = mpsc::channel(IN_FLIGHT_MAX + 1);
    let session = Arc::new(Session {
        owner: admitted.owner,
        segments: server.segments.clone(),
        stats: server.stats(),
        reads: Semaphore::new(READS_MAX),
        answer_bytes: Arc::new(Semaphore::new(ANSWER_BYTES_MAX)),
        answers,
    });
    let unwritable = CancellationToken::new();
    let reading = async {
        let mut tasks = JoinSet::new();
        let stop = tokio::select! {
            stop = read_requests(&session, read, &mut tasks) => stop,
            () = shutdown.cancelled() => Stop::Shutdown,
            () = sleep(admitted.expires_in) => Stop::Failed(ServeError::GrantEnded),
            () = unwritable.cancelled() => Stop::Unwritable,
        };
        // The end of the session closes the channel, and so ends the writer when it has written everything.
        finish(session, tasks, stop).await
    };
    let writing = async {
        let written = write_answers(write, outgoing).await;
        unwritable.cancel();
        written
    };
    let (stop, written) = tokio::join!(reading, writing);
    let result = match stop {
        // The reason outweighs what became of the last word.
        Stop::Failed(error) => Err(error),
        Stop::Closed | Stop::Shutdown | Stop::Unwritable => written.map_err(ServeError::from),
    };
    match &result {
        Err(ServeError::Protocol(_)) => server.stats.protocol_error(),
        Err(ServeError::Stalled(_)) => server.stats.stalled(),
        _ => {}
    }
    result
}

/// Completes what was read; only then says the last word.
async fn finish(session: Arc<Session>, mut tasks: JoinSet<()>, mut stop: Stop) -> Stop {
    while let Some(done) = tasks.join_next().await {
        if done.is_err() {
            stop = Stop::Failed(ServeError::Panicked);
        }
    }
    if let Some(text) = last_word(&stop) {
        let outgoing = Outgoing { request: 0, answer: Answer::End { text }, _place: None, _bytes: None };
        // A writer that is gone has failed on its own.
        let _ = session.answers.send(outgoing).await;
    }
    stop
}

impl From<Fault> for ServeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => Self::Io(error),
            Fault::Protocol(ProtocolError::Truncated) => Self::Io(io::ErrorKind::UnexpectedEof.into()),
            Fault::Protocol(error) => Self::Protocol(error),
            Fault::Stalled(limit) => Self::Stalled(limit),
        }
    }
}

/// What the client is told at the end, if it can still be told anything.
fn last_word(stop: &Stop) -> Option<String> {
    match stop {
        Stop::Shutdown => Some("the node is shutting down".to_owned()),
        Stop::Closed | Stop::Unwritable | Stop::Failed(ServeError::Io(_)) => None,
        Stop::Failed(error) => Some(error.to_string()),
    }
}

/// Reads requests and starts a task for each, as the limits allow.
async fn read_requests<R: AsyncRead + Unpin>(session: &Arc<Session>, read: R, tasks: &mut JoinSet<()>) -> Stop {
    let progress = Progress::new();
    let mut reader = FrameReader::new(read, &progress, Some(STALL_LIMIT));
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let put_bytes = Arc::new(Semaphore::new(PUT_BYTES_MAX));
    loop {
        let place = permits(&places, 1).await;
        match timeout(SERVER_IDLE_LIMIT, reader.ready()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Stop::Closed,
            Ok(Err(error)) => return Stop::Failed(ServeError::Io(error)),
            Err(_) => return Stop::Failed(ServeError::Stalled(SERVER_IDLE_LIMIT)),
        }
        match read_request(&mut reader, &put_bytes).await {
            Ok((id, request, bytes)) => {
                tasks.spawn(perform(Arc::clone(session), id, request, place, bytes));
            }
            Err(fault) => return Stop::Failed(fault.into()),
        }
        while let Some(done) = tasks.try_join_next() {
            if done.is_err() {
                return Stop::Failed(ServeError::Panicked);
            }
        }
    }
}

/// Reads one request, the payload of a put only when there is room for it.
async fn read_request<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<'_, R>,
    put_bytes: &Arc<Semaphore>,
) -> Result<(u64, Request, Option<OwnedSemaphorePermit>), Fault> {
    let header = reader.header().await?.ok_or(ProtocolError::Truncated)?;
    if !header.kind.is_request() {
        return Err(ProtocolError::Kind(header.kind as u8).into());
    }
    let bytes = match header.kind {
        Kind::Put => Some(permits(put_bytes, header.length as usize).await),
        _ => None,
    };
    let body = reader.body(header).await?;
    Ok((header.request, Request::decode(header, body)?, bytes))
}

/// Waits for `n` permits of a semaphore that is never closed, which has at least as many.
async fn permits(semaphore: &Arc<Semaphore>, n: usize) -> OwnedSemaphorePermit {
    let n = u32::try_from(n).expect("no limit comes near 4 GiB");
    Arc::clone(semaphore).acquire_many_owned(n).await.expect("never closed")
}

/// Does what a request asks and sends the answer on its way.
async fn perform(
    session: Arc<Session>,
    id: u64,
    request: Request,
    place: OwnedSemaphorePermit,
    put_bytes: Option<OwnedSemaphorePermit>,
) {
    let _in_flight = session.stats.request(request.kind());
    let reading = match request.kind() {
        Kind::Get | Kind::Verify | Kind::List => session.reads.acquire().await.ok(),
        _ => None,
    };
    let answer = session.answer(request).await;
    drop(put_bytes);
    if matches!(answer, Answer::Failed { .. }) {
        session.stats.failed();
    }
    let bytes = match &answer {
        Answer::Shard(payload) => payload.len(),
        Answer::Listing(entries) => entries.len() * ENTRY_BYTES,
        _ => 0,
    };
    let bytes = permits(&session.answer_bytes, bytes).await;
    drop(reading);
    let outgoing = Outgoing { request: id, answer, _place: Some(place), _bytes: Some(bytes) };
    // If the writer is gone, so is the stream, and nobody waits for the answer.
    let _ = session.answers.send(outgoing).await;
}

/// Writes answers as they come; several that are ready go out together.
async fn write_answers<W: AsyncWrite + Unpin>(write: W, mut outgoing: mpsc::Receiver<Outgoing>) -> Result<(), Fault> {
    let progress = Progress::new();
    let mut writer = FrameWriter::new(write, &progress, Some(STALL_LIMIT));
    while let Some(first) = outgoing.recv().await {
        let mut next = Some(first);
        while let Some(current) = next {
            let payload = current.answer.payload();
            writer.write(|out| current.answer.head(current.request, out), &payload).await?;
            drop(current);
            next = outgoing.try_recv().ok();
        }
        writer.flush().await?;
    }
    writer.finish().await
}

impl Session {
    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Put { id, crc, payload } => self.put(id, crc, payload).await,
            Request::Get(id) => match self.segments.get(self.owner, id).await {
                Ok(data) => {
                    self.stats.read(data.len());
                    Answer::Shard(data)
                }
                Err(error) => unread(&error),
            },
            Request::Verify(id) => match self.segments.verify(self.owner, id).await {
                Ok(_) => Answer::Verified,
                Err(error) => unread(&error),
            },
            Request::Delete(id) => match self.segments.delete(self.owner, id).await {
                Ok(_) | Err(DeleteError::NotFound) => Answer::Deleted,
                Err(error) => failed(if is_full(&error) { Code::Full } else { Code::Broken }, &error),
            },
            Request::List { after, limit } => self.list(after, limit),
            Request::Stat => self.stat(),
            Request::Ping => Answer::Pong,
        }
    }

    async fn put(&self, id: ShardId, crc: u64, payload: Bytes) -> Answer {
        let bytes = payload.len();
        match self.segments.put(self.owner, id, crc, payload).await {
            Ok(atoll_segments::PutOutcome::Stored) => {
                self.stats.stored(bytes);
                Answer::Stored(PutOutcome::Stored)
            }
            Ok(atoll_segments::PutOutcome::AlreadyThere) => Answer::Stored(PutOutcome::AlreadyThere),
            Err(error) => {
                let code = match &error {
                    PutError::Full { .. } => Code::Full,
                    PutError::QuotaExceeded { .. } => Code::Quota,
                    PutError::CrcMismatch { .. } => Code::Damaged,
                    PutError::DifferentContent => Code::DifferentContent,
                    PutError::TooLong { .. } => Code::Policy,
                    PutError::Disk(disk) if disk.is_full() => Code::Full,
                    PutError::Disk(_) => Code::Broken,
                };
                failed(code, &error)
            }
        }
    }

    fn list(&self, after: Option<ShardId>, limit: u32) -> Answer {
        let limit = (limit as usize).min(LIST_ENTRIES_MAX);
        let page = self.segments.list(self.owner, after, limit);
        Answer::Listing(page.into_iter().map(|(id, len)| ShardEntry { id, len }).collect())
    }

    fn stat(&self) -> Answer {
        let mine = self.segments.stat(self.owner);
        let totals = self.segments.totals();
        Answer::Stats(HomeStat {
            shards: mine.shards,
            used: ByteCount(mine.bytes),
            quota: mine.quota.map(ByteCount),
            free: ByteCount(totals.capacity.saturating_sub(totals.used)),
        })
    }
}

fn is_full(error: &DeleteError) -> bool {
    match error {
        DeleteError::Full { .. } => true,
        DeleteError::Disk(disk) => disk.is_full(),
        DeleteError::NotFound => false,
    }
}

fn unread(error: &GetError) -> Answer {
    let code = match error {
        GetError::NotFound => Code::NotFound,
        GetError::Rotten => Code::Rotten,
        GetError::Disk(_) => Code::Broken,
    };
    failed(code, error)
}

fn failed(code: Code, error: &impl std::error::Error) -> Answer {
    Answer::Failed { code, text: error.to_string() }
}
