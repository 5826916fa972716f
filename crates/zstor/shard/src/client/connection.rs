//! The task behind a slot: connects, greets, sends, receives, and notices silence.
//!
//! Sending, receiving and the watch run as one task, so that they end together: whichever returns first decides why.
//! The task ends when there is nothing left to do, when connecting failed (back-off), or when the client is dropped;
//! the next request starts a new one.

use std::sync::Arc;

use atoll_wire::{decode, encode, read_frame, write_frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::slot::{Pending, Slot};
use crate::dial::BoxStream;
use crate::frame::{Fault, FrameReader, FrameWriter, Progress};
use crate::home::{HomeError, Refusal};
use crate::limits::{CLIENT_IDLE_LIMIT, DIAL_LIMIT, GOODBYE_LIMIT, HELLO_BYTES_MAX, IN_FLIGHT_MAX, STALL_LIMIT};
use crate::protocol::{Answer, Code, Greeting, Hello, Kind, ProtocolError, ServerLimits, fitting};

/// How a connection ended.
enum End {
    /// Nothing was pending: closed for idleness, or by the server.
    Rest,
    /// Requests were pending, or none could be sent.
    Lost(HomeError),
}

/// Serves slot `index` until there is nothing to do; `attempt` connections failed just before.
pub(super) async fn run(shared: Arc<Shared>, index: usize, mut attempt: u32) {
    let slot = &shared.slots[index];
    loop {
        let mut answers = 0;
        let (error, quiet) = match connection(&shared, slot, &mut answers).await {
            End::Rest => (shared.unreachable("it closed the connection without an answer"), slot.is_empty()),
            End::Lost(error) => (error, false),
        };
        slot.disconnected(&error);
        // A connection that gave answers is worth another at once. One that gave none although some were wanted is like
        // no connection.
        if shared.closed.is_cancelled() || (answers == 0 && !quiet) {
            attempt = attempt.saturating_add(1);
            // Without randomness clients are merely not spread.
            let random = getrandom::u32().unwrap_or(u32::MAX);
            slot.back_off(attempt, error, random);
            return;
        }
        attempt = 0;
        if slot.rest() {
            return;
        }
    }
}

/// One connection from its opening to its end. Counts answers as they come.
async fn connection(shared: &Shared, slot: &Slot, answers: &mut u64) -> End {
    let opened = tokio::select! {
        () = shared.closed.cancelled() => return End::Rest,
        opened = open(shared) => opened,
    };
    let (stream, limits) = match opened {
        Ok(opened) => opened,
        Err(error) => return End::Lost(error),
    };
    let progress = Arc::new(Progress::new());
    slot.connected(Arc::clone(&progress));
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader::new(read, &progress, None);
    let mut writer = FrameWriter::new(write, &progress, None);
    let end = tokio::select! {
        fault = send(shared, slot, &mut writer, limits) => Err(fault),
        end = receive(shared, slot, reader, answers) => end,
        end = watch(shared, slot, &progress) => Ok(end),
        () = shared.closed.cancelled() => Ok(End::Rest),
    };
    match end {
        Ok(End::Rest) => {
            // So that the server can tell a goodbye from a broken connection. If it cannot be said, it will think of the latter.
            let _ = timeout(GOODBYE_LIMIT, writer.finish()).await;
            End::Rest
        }
        Ok(lost) => lost,
        Err(fault) => End::Lost(match fault {
            Fault::Io(error) => shared.unreachable(format_args!("the connection broke: {error}")),
            Fault::Protocol(ProtocolError::Truncated) => shared.unreachable("the connection broke inside an answer"),
            Fault::Protocol(error) => shared.broken_protocol(error),
            Fault::Stalled(after) => HomeError::TimedOut { node: shared.node, after },
        }),
    }
}

/// Opens a stream and is welcomed on it, each within its time.
async fn open(shared: &Shared) -> Result<(BoxStream, ServerLimits), HomeError> {
    let late = |_| HomeError::TimedOut { node: shared.node, after: DIAL_LIMIT };
    let dialled = timeout(DIAL_LIMIT, shared.dial.open(shared.node)).await.map_err(late)?;
    let stream = dialled.map_err(|error| shared.unreachable(error))?;
    timeout(DIAL_LIMIT, greet(shared, stream)).await.map_err(late)?
}

/// Shows the grant and waits to be welcomed.
async fn greet(shared: &Shared, mut stream: BoxStream) -> Result<(BoxStream, ServerLimits), HomeError> {
    let broken = |error| shared.unreachable(format_args!("the connection broke: {error}"));
    let hello = encode(&Hello { grant: shared.grant() });
    write_frame(&mut stream, &hello, HELLO_BYTES_MAX).await.map_err(|error| broken(error.to_string()))?;
    stream.flush().await.map_err(|error| broken(error.to_string()))?;
    let frame = match read_frame(&mut stream, HELLO_BYTES_MAX).await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(broken("it ended before the greeting".to_owned())),
        Err(error @ atoll_wire::FrameError::TooLarge { .. }) => return Err(shared.broken_protocol(error)),
        Err(error) => return Err(broken(error.to_string())),
    };
    match decode::<Greeting>(&frame).map_err(|error| shared.broken_protocol(error))? {
        Greeting::Welcome(welcome) => Ok((stream, welcome.limits)),
        Greeting::Refused(refused) => {
            Err(HomeError::Refused { node: shared.node, why: refused.why, text: printable(&refused.text) })
        }
    }
}

/// Sends what is queued, as far as the server's window allows. Returns only on a fault.
async fn send<W: AsyncWrite + Unpin>(
    shared: &Shared,
    slot: &Slot,
    writer: &mut FrameWriter<'_, W>,
    limits: ServerLimits,
) -> Fault {
    let in_flight_max = (limits.in_flight_max as usize).clamp(1, IN_FLIGHT_MAX);
    let shard_bytes_max = limits.shard_bytes_max as usize;
    loop {
        let Some(outgoing) = slot.next(in_flight_max) else {
            if let Err(fault) = writer.flush().await {
                return fault;
            }
            slot.wake.notified().await;
            continue;
        };
        let payload = outgoing.request.payload();
        if payload.len() > shard_bytes_max {
            let (node, len) = (shared.node, payload.len());
            if let Some(pending) = slot.answered(outgoing.id) {
                let too_large = HomeError::TooLarge { node, len, max_bytes: shard_bytes_max };
                let _ = pending.answer.send(Err(too_large));
            }
            continue;
        }
        let head = |out: &mut bytes::BytesMut| outgoing.request.head(outgoing.id, out);
        if let Err(fault) = writer.write(head, &payload).await {
            return fault;
        }
        drop(outgoing.room);
    }
}

/// Hands out answers until the server closes the connection.
async fn receive<R: AsyncRead + Unpin>(
    shared: &Shared,
    slot: &Slot,
    mut reader: FrameReader<'_, R>,
    answers: &mut u64,
) -> Result<End, Fault> {
    loop {
        let Some(header) = reader.header().await? else {
            let closed = || End::Lost(shared.unreachable("it closed the connection"));
            return Ok(if slot.is_waiting() { closed() } else { End::Rest });
        };
        if header.kind == Kind::End {
            let body = reader.body(header).await?;
            let Answer::End { text } = Answer::decode(header, body)? else { continue };
            let text = format!("it ended the connection: {}", printable(&text));
            return Ok(End::Lost(shared.unreachable(text)));
        }
        // Before the body is read: nothing is received that was not asked for.
        let asked = slot.asked(header.request).ok_or(ProtocolError::NotAsked(header.request))?;
        if header.kind != asked.answer() && header.kind != Kind::Failed {
            return Err(ProtocolError::Mismatch { asked, got: header.kind }.into());
        }
        let body = reader.body(header).await?;
        let answer = Answer::decode(header, body)?;
        let Some(pending) = slot.answered(header.request) else { continue };
        if let Err(error) = check_page(&pending, &answer) {
            // It is no longer among the pending, which the end of the connection fails.
            let _ = pending.answer.send(Err(shared.broken_protocol(&error)));
            return Err(error.into());
        }
        *answers += 1;
        let result = match answer {
            Answer::Failed { code, text } => Err(failure(shared, &pending, code, &text)),
            answer => Ok(answer),
        };
        // The caller may have lost interest; then the answer is discarded.
        let _ = pending.answer.send(result);
    }
}

/// Whoever pages through a listing must come to an end, whatever the server does; within a page the decoder has seen to it.
fn check_page(pending: &Pending, answer: &Answer) -> Result<(), ProtocolError> {
    let Answer::Listing(page) = answer else { return Ok(()) };
    let wrong = |what| Err(ProtocolError::Content { kind: Kind::Listing, what });
    match page.first() {
        Some(first) if Some(first.id) <= pending.shard => wrong("it does not go forward"),
        _ if page.len() > pending.limit as usize => wrong("longer than asked for"),
        _ => Ok(()),
    }
}

/// Returns when the connection has been silent for too long with requests pending, or without requests for long enough
/// to close it.
async fn watch(shared: &Shared, slot: &Slot, progress: &Progress) -> End {
    loop {
        let (now, last) = (Instant::now(), progress.last());
        let stalled = last + STALL_LIMIT;
        if slot.is_waiting() {
            if now >= stalled {
                return End::Lost(HomeError::TimedOut { node: shared.node, after: STALL_LIMIT });
            }
            sleep_until(stalled).await;
        } else {
            if now >= last + CLIENT_IDLE_LIMIT {
                return End::Rest;
            }
            // A request that is sent meanwhile resets the clock, so looking again this often misses no stall.
            sleep_until((now + STALL_LIMIT).min(last + CLIENT_IDLE_LIMIT)).await;
        }
    }
}

/// What an error answer means to the caller.
fn failure(shared: &Shared, pending: &Pending, code: Code, text: &str) -> HomeError {
    let (node, text) = (shared.node, printable(text));
    let refused = |why| HomeError::Refused { node, why, text: text.clone() };
    let shard = pending.shard.filter(|_| pending.request != Kind::List);
    match (code, shard) {
        (Code::NotFound, Some(id)) => HomeError::NotFound { node, id },
        (Code::Rotten, Some(id)) => HomeError::Rotten { node, id },
        (Code::DifferentContent, Some(id)) => HomeError::DifferentContent { node, id },
        (Code::Damaged, Some(id)) => HomeError::Damaged { node, id },
        (Code::Grant, _) => refused(Refusal::Grant),
        (Code::Quota, _) => refused(Refusal::Quota),
        (Code::Full, _) => refused(Refusal::Full),
        (Code::Policy, _) => refused(Refusal::Policy),
        (Code::Broken, _) => HomeError::Failed { node, text },
        (code, None) => shared.broken_protocol(format_args!("{code:?} in answer to a request about no shard")),
    }
}

/// A peer's words, short and without what could play tricks on a terminal or a log.
fn printable(text: &str) -> String {
    fitting(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
