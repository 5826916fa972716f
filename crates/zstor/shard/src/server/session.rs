//! One welcomed stream: a reader that takes requests, those under way, a writer that sends answers, all in one task.
//!
//! One task because what it does between waits is short (a checksum at most), and a task per request would wake another thread for
//! each. It also makes batches: the reader takes in what has arrived before any of it is begun, so puts that came together
//! reach the log together and share its next commit.
//!
//! What bounds memory: a request holds one of [`IN_FLIGHT_MAX`] places from before its header is read until its answer
//! is written; a put holds its payload's bytes of [`PUT_BYTES_MAX`] from before the body is read until it is done; a
//! read holds one of [`READS_MAX`] places until its answer has its bytes of [`ANSWER_BYTES_MAX`], which it holds until
//! it is written. Each waits for the next without holding what the next waits for, so nothing can lock up: writing
//! never waits for reading.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use atoll_ids::{ByteCount, OwnerId, ShardId};
use atoll_segments::{DeleteError, GetError, PutError, Segments};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::stats::ShardServerStats;
use super::{Admitted, ServeError, ShardServer};
use crate::dial::Stream;
use crate::frame::{Fault, FrameReader, FrameWriter, Progress};
use crate::home::{HomeStat, PutOutcome, ShardEntry};
use crate::limits::{
    ANSWER_BYTES_MAX, IN_FLIGHT_MAX, LIST_ENTRIES_MAX, PUT_BYTES_MAX, READS_MAX, SERVER_IDLE_LIMIT, STALL_LIMIT,
    TAKE_IN_BYTES,
};
use crate::protocol::{Answer, Code, ENTRY_BYTES, Kind, ProtocolError, Request};

/// Gets that are read with one another, at most: with 256 KiB shards, a mebibyte. It has to be less than [`READS_MAX`], of which each takes its share.
const GETS_TOGETHER: usize = READS_MAX / 2;

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
    /// Writing or performing failed; they have the reason.
    Broken,
}

/// A request that was read, with what it holds.
struct Incoming {
    id: u64,
    request: Request,
    place: OwnedSemaphorePermit,
    put_bytes: Option<OwnedSemaphorePermit>,
}

/// A request failed by a panic.
struct Panicked;

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
    // Every answer but the last word holds a place, so sending to the writer never waits. Neither does handing on a request.
    let (answers, outgoing) = mpsc::channel(IN_FLIGHT_MAX + 1);
    let (requests, incoming) = mpsc::channel(IN_FLIGHT_MAX);
    let session = Session {
        owner: admitted.owner,
        segments: server.segments.clone(),
        stats: server.stats(),
        reads: Semaphore::new(READS_MAX),
        answer_bytes: Arc::new(Semaphore::new(ANSWER_BYTES_MAX)),
        answers,
    };
    let broken = CancellationToken::new();
    let reading = async {
        tokio::select! {
            stop = read_requests(requests, read) => stop,
            () = shutdown.cancelled() => Stop::Shutdown,
            () = sleep(admitted.expires_in) => Stop::Failed(ServeError::GrantEnded),
            () = broken.cancelled() => Stop::Broken,
        }
    };
    let serving = async {
        let (stop, performed) = tokio::join!(reading, async {
            let performed = perform_all(&session, incoming).await;
            if performed.is_err() {
                broken.cancel();
            }
            performed
        });
        let stop = if performed.is_err() { Stop::Failed(ServeError::Panicked) } else { stop };
        say_last_word(&session, &stop).await;
        // The end of the session closes the channel, and so ends the writer when it has written everything.
        drop(session);
        stop
    };
    let writing = async {
        let written = write_answers(write, outgoing).await;
        broken.cancel();
        written
    };
    let (stop, written) = tokio::join!(serving, writing);
    let result = match stop {
        // The reason outweighs what became of the last word.
        Stop::Failed(error) => Err(error),
        Stop::Closed | Stop::Shutdown | Stop::Broken => written.map_err(ServeError::from),
    };
    match &result {
        Err(ServeError::Protocol(_)) => server.stats.protocol_error(),
        Err(ServeError::Stalled(_)) => server.stats.stalled(),
        _ => {}
    }
    result
}

async fn say_last_word(session: &Session, stop: &Stop) {
    if let Some(text) = last_word(stop) {
        let outgoing = Outgoing { request: 0, answer: Answer::End { text }, _place: None, _bytes: None };
        // A writer that is gone has failed on its own.
        let _ = session.answers.send(outgoing).await;
    }
}

/// Performs requests until no more come and all are done, or one panics.
async fn perform_all(session: &Session, mut incoming: mpsc::Receiver<Incoming>) -> Result<(), Panicked> {
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            biased;
            mut next = incoming.recv(), if open => {
                open = next.is_some();
                while let Some(first) = next.take() {
                    let mut together = vec![first];
                    next = take_gets(&mut together, &mut incoming);
                    under_way.push(AssertUnwindSafe(perform_together(session, together)).catch_unwind());
                }
            }
            Some(done) = under_way.next(), if !under_way.is_empty() => match done {
                Ok(()) => {}
                Err(_) => return Err(Panicked),
            },
        }
    }
    Ok(())
}

/// If the first request is a get, adds those that follow it, up to [`GETS_TOGETHER`]. Gives back the first that does not belong to them.
fn take_gets(together: &mut Vec<Incoming>, incoming: &mut mpsc::Receiver<Incoming>) -> Option<Incoming> {
    let is_get = |incoming: &Incoming| incoming.request.kind() == Kind::Get;
    while together.iter().all(is_get) && together.len() < GETS_TOGETHER {
        let next = incoming.try_recv().ok()?;
        if !is_get(&next) {
            return Some(next);
        }
        together.push(next);
    }
    None
}

async fn perform_together(session: &Session, mut together: Vec<Incoming>) {
    match together.pop() {
        Some(one) if together.is_empty() => perform(session, one).await,
        Some(last) => {
            together.push(last);
            perform_gets(session, together).await;
        }
        None => {}
    }
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
        Stop::Closed | Stop::Broken | Stop::Failed(ServeError::Io(_)) => None,
        Stop::Failed(error) => Some(error.to_string()),
    }
}

/// Reads requests and hands them on, as the limits allow.
async fn read_requests<R: AsyncRead + Unpin>(requests: mpsc::Sender<Incoming>, read: R) -> Stop {
    let progress = Progress::new();
    let mut reader = FrameReader::new(read, &progress, Some(STALL_LIMIT));
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let put_bytes = Arc::new(Semaphore::new(PUT_BYTES_MAX));
    let mut taken_in = 0;
    loop {
        let place = permits(&places, 1).await;
        match timeout(SERVER_IDLE_LIMIT, reader.ready()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Stop::Closed,
            Ok(Err(error)) => return Stop::Failed(ServeError::Io(error)),
            Err(_) => return Stop::Failed(ServeError::Stalled(SERVER_IDLE_LIMIT)),
        }
        match read_request(&mut reader, &put_bytes).await {
            Ok((id, request, put_bytes)) => {
                taken_in += request.payload().len();
                let incoming = Incoming { id, request, place, put_bytes };
                if requests.send(incoming).await.is_err() {
                    return Stop::Broken;
                }
            }
            Err(fault) => return Stop::Failed(fault.into()),
        }
        if taken_in >= TAKE_IN_BYTES {
            taken_in = 0;
            tokio::task::yield_now().await;
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
async fn perform(session: &Session, incoming: Incoming) {
    let Incoming { id, request, place, put_bytes } = incoming;
    let _in_flight = session.stats.request(request.kind());
    let reading = match request.kind() {
        Kind::Get | Kind::Verify | Kind::List => session.reads.acquire().await.ok(),
        _ => None,
    };
    let answer = session.answer(request).await;
    drop(put_bytes);
    session.send(id, answer, place).await;
    drop(reading);
}

/// Answers several gets, which are read together. They were taken from the stream together, so they have waited for each other anyway.
async fn perform_gets(session: &Session, gets: Vec<Incoming>) {
    let _in_flight: Vec<_> = gets.iter().map(|get| session.stats.request(get.request.kind())).collect();
    let reading = session.reads.acquire_many(GETS_TOGETHER as u32).await.ok();
    let shards: Vec<ShardId> = gets.iter().filter_map(|get| get.request.shard()).collect();
    let read = session.segments.get_all(session.owner, &shards).await;
    for (get, read) in gets.into_iter().zip(read) {
        session.send(get.id, session.read(read), get.place).await;
    }
    drop(reading);
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
    /// Sends an answer on its way once there is room for its bytes.
    async fn send(&self, request: u64, answer: Answer, place: OwnedSemaphorePermit) {
        if matches!(answer, Answer::Failed { .. }) {
            self.stats.failed();
        }
        let bytes = match &answer {
            Answer::Shard(payload) => payload.len(),
            Answer::Listing(entries) => entries.len() * ENTRY_BYTES,
            _ => 0,
        };
        let bytes = permits(&self.answer_bytes, bytes).await;
        let outgoing = Outgoing { request, answer, _place: Some(place), _bytes: Some(bytes) };
        // If the writer is gone, so is the stream, and nobody waits for the answer.
        let _ = self.answers.send(outgoing).await;
    }

    /// The answer to a get.
    fn read(&self, read: Result<Bytes, GetError>) -> Answer {
        match read {
            Ok(data) => {
                self.stats.read(data.len());
                Answer::Shard(data)
            }
            Err(error) => unread(&error),
        }
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Put { id, crc, payload } => self.put(id, crc, payload).await,
            Request::Get(id) => self.read(self.segments.get(self.owner, id).await),
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
