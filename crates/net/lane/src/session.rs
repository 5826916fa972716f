//! The TLS side of a lane without any I/O: bytes of the wire in, plaintext out, and back.
//!
//! A [`Session`] owns the rustls connection and the two queues of wire bytes; [`stream`](crate::stream) moves those
//! queues from and to the socket. It is rustls' unbuffered interface with one rule added, that what arrives and what is sent never wait for each
//! other: sending decrypts what lies in the incoming queue and sets it aside. That is bounded, because the queue is only refilled by
//! reading.
//!
//! After the first error nothing more is decrypted: the same error comes again.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error};
use tokio::io::ReadBuf;

use crate::buffers::{CHUNK_BYTES, CONTROL_BYTES, Pool, RECORD_BYTES_MAX, RECORD_OVERHEAD, Window};

/// Either end of a connection: rustls types them apart, their traffic is the same.
pub(crate) enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Connection {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }
}

/// What is wanted of the next turn of the state machine.
enum Wish<'a, 'b> {
    /// Complete the handshake.
    Shake,
    /// Decrypt into this.
    Receive(&'a mut ReadBuf<'b>),
    /// Encrypt this.
    Send(&'a [u8]),
    /// Say that nothing more will be sent.
    Close,
    /// Replace the keys we send with.
    Rekey,
}

/// What a turn of the state machine came to.
enum Turn {
    /// Something moved; ask again.
    Again,
    /// Nothing more happens before more bytes arrive.
    Starved,
    /// The other end will send no more.
    PeerClosed,
    /// The wish is fulfilled; so many bytes were taken.
    Done(usize),
}

/// Plaintext that nobody had room for yet.
#[derive(Default)]
struct Leftover {
    bytes: Vec<u8>,
    taken: usize,
}

impl Leftover {
    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn move_into(&mut self, sink: &mut ReadBuf<'_>) {
        let waiting = &self.bytes[self.taken..];
        let count = waiting.len().min(sink.remaining());
        sink.put_slice(&waiting[..count]);
        self.taken += count;
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
        }
    }
}

/// The two queues that a turn of the state machine writes to.
struct Outlets {
    outgoing: Window,
    leftover: Leftover,
    /// Whether rustls itself queued something (alert, key update) since this was last asked.
    control: bool,
}

/// One TLS connection, without its socket.
pub(crate) struct Session {
    connection: Connection,
    incoming: Window,
    outlets: Outlets,
    peer_closed: bool,
    failed: Option<Error>,
}

impl Session {
    pub(crate) fn new(connection: Connection, pool: &Pool) -> Self {
        Self {
            connection,
            incoming: Window::new(pool.clone()),
            outlets: Outlets { outgoing: Window::new(pool.clone()), leftover: Leftover::default(), control: false },
            peer_closed: false,
            failed: None,
        }
    }

    /// What was negotiated.
    pub(crate) fn common(&self) -> &CommonState {
        self.connection.common()
    }

    /// Wire bytes to be sent, in order.
    pub(crate) fn outgoing(&mut self) -> &mut Window {
        &mut self.outlets.outgoing
    }

    /// Whether the other end said that it will send no more, and everything it sent was taken.
    pub(crate) fn is_finished(&self) -> bool {
        self.peer_closed && self.outlets.leftover.is_empty()
    }

    /// Whether an alert or key update was queued since the last call.
    pub(crate) fn take_control(&mut self) -> bool {
        std::mem::take(&mut self.outlets.control)
    }

    /// Where to put bytes that arrive; never empty. Tell how many came with [`arrived`](Self::arrived).
    ///
    /// # Errors
    ///
    /// When the buffer is full of something that is no record and no handshake message.
    pub(crate) fn spare(&mut self) -> Result<&mut [u8], Error> {
        let spare = self.incoming.spare();
        if spare.is_empty() {
            return Err(Error::General("a message larger than the receive buffer".to_owned()));
        }
        Ok(spare)
    }

    pub(crate) fn arrived(&mut self, count: usize) {
        self.incoming.fill(count);
    }

    /// Goes as far in the handshake as the bytes that arrived allow. True when it is complete.
    pub(crate) fn shake(&mut self) -> Result<bool, Error> {
        loop {
            match self.turn(&mut Wish::Shake)? {
                Turn::Again => {}
                Turn::Starved => return Ok(false),
                Turn::Done(_) => return Ok(true),
                Turn::PeerClosed => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    /// Decrypts into `sink` until that is full or more bytes have to arrive. On an error, what is already in `sink` is
    /// authentic.
    pub(crate) fn receive(&mut self, sink: &mut ReadBuf<'_>) -> Result<(), Error> {
        self.outlets.leftover.move_into(sink);
        while sink.remaining() > 0 && !self.peer_closed {
            match self.turn(&mut Wish::Receive(sink))? {
                Turn::Again | Turn::Done(_) => {}
                Turn::Starved => break,
                Turn::PeerClosed => self.peer_closed = true,
            }
        }
        Ok(())
    }

    /// Encrypts as much of `plain` as the outgoing queue has room for; says how much that was.
    pub(crate) fn send(&mut self, plain: &[u8]) -> Result<usize, Error> {
        let room = self.outlets.outgoing.spare().len();
        let count = plain.len().min(plaintext_fitting(room.saturating_sub(CONTROL_BYTES)));
        if count == 0 { Ok(0) } else { self.accomplish(&mut Wish::Send(&plain[..count])) }
    }

    /// Queues `close_notify`: nothing can be sent afterwards, receiving goes on.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.accomplish(&mut Wish::Close).map(drop)
    }

    /// Queues an update of the keys we send with, and asks the other end to update its own. rustls does this by itself before a key has protected 2²⁴ records.
    pub(crate) fn rekey(&mut self) -> Result<(), Error> {
        self.accomplish(&mut Wish::Rekey).map(drop)
    }

    fn accomplish(&mut self, wish: &mut Wish<'_, '_>) -> Result<usize, Error> {
        loop {
            match self.turn(wish)? {
                Turn::Again => {}
                Turn::PeerClosed => self.peer_closed = true,
                Turn::Starved => return Err(Error::HandshakeNotComplete),
                Turn::Done(count) => return Ok(count),
            }
        }
    }

    /// Gives back what memory is not needed while nothing moves.
    pub(crate) fn rest(&mut self) {
        self.incoming.release_if_empty();
        self.outlets.outgoing.release_if_empty();
        if self.outlets.leftover.is_empty() {
            self.outlets.leftover = Leftover::default();
        }
    }

    /// Memory held in buffers, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.incoming.held_bytes() + self.outlets.outgoing.held_bytes() + self.outlets.leftover.bytes.capacity()
    }

    fn turn(&mut self, wish: &mut Wish<'_, '_>) -> Result<Turn, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step(wish);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            // What is queued, last of it the alert that tells the other end why, comes before rustls looks at input again.
            while self.common().wants_write() && self.step(&mut Wish::Shake).is_ok() {}
        }
        result
    }

    fn step(&mut self, wish: &mut Wish<'_, '_>) -> Result<Turn, Error> {
        let input = self.incoming.filled();
        let (used, result) = match &mut self.connection {
            Connection::Client(client) => settle(client.process_tls_records(input), &mut self.outlets, wish),
            Connection::Server(server) => settle(server.process_tls_records(input), &mut self.outlets, wish),
        };
        self.incoming.consume(used);
        result
    }
}

/// The most plaintext whose records fit into `room` bytes.
fn plaintext_fitting(room: usize) -> usize {
    let full = room / (RECORD_BYTES_MAX + RECORD_OVERHEAD);
    let rest = (room % (RECORD_BYTES_MAX + RECORD_OVERHEAD)).saturating_sub(RECORD_OVERHEAD);
    (full * RECORD_BYTES_MAX + rest).min(CHUNK_BYTES)
}

/// Acts on one state of rustls' machine. Returns how many incoming bytes are done with, and what came of it.
fn settle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outlets: &mut Outlets,
    wish: &mut Wish<'_, '_>,
) -> (usize, Result<Turn, Error>) {
    let mut used = status.discard;
    let result = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    used += record.discard;
                    deliver(record.payload, &mut outlets.leftover, wish);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Turn::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            outlets.control = true;
            match data.encode(outlets.outgoing.spare()) {
                Ok(count) => {
                    outlets.outgoing.fill(count);
                    Ok(Turn::Again)
                }
                Err(EncodeError::InsufficientSize(_) | EncodeError::AlreadyEncoded) => {
                    Err(Error::General("the other end asks for answers faster than it takes them".to_owned()))
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // Sent as far as rustls is concerned: the outgoing queue keeps the order.
            data.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Turn::PeerClosed),
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::Starved),
        Ok(ConnectionState::WriteTraffic(traffic)) => fulfil(traffic, &mut outlets.outgoing, wish),
        Ok(ConnectionState::Closed) => match wish {
            Wish::Close => Ok(Turn::Done(0)),
            _ => Ok(Turn::Starved),
        },
        // Early data is disabled, and this enum may grow.
        Ok(other) => Err(Error::General(format!("unexpected state {other:?}"))),
    };
    (used, result)
}

fn deliver(payload: &[u8], leftover: &mut Leftover, wish: &mut Wish<'_, '_>) {
    let fits = match wish {
        Wish::Receive(sink) if leftover.is_empty() => {
            let fits = payload.len().min(sink.remaining());
            sink.put_slice(&payload[..fits]);
            fits
        }
        _ => 0,
    };
    if fits < payload.len() {
        leftover.push(&payload[fits..]);
    }
}

fn fulfil<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    outgoing: &mut Window,
    wish: &mut Wish<'_, '_>,
) -> Result<Turn, Error> {
    let written = match wish {
        Wish::Receive(_) => return Ok(Turn::Starved),
        Wish::Shake => return Ok(Turn::Done(0)),
        Wish::Rekey => return traffic.refresh_traffic_keys().map(|()| Turn::Done(0)),
        Wish::Send(plain) => traffic.encrypt(plain, outgoing.spare()),
        Wish::Close => traffic.queue_close_notify(outgoing.spare()),
    };
    match written {
        Ok(count) => {
            outgoing.fill(count);
            Ok(Turn::Done(if let Wish::Send(plain) = wish { plain.len() } else { 0 }))
        }
        Err(EncryptError::InsufficientSize(_)) => {
            Err(Error::General("control messages take more room than is kept for them".to_owned()))
        }
        Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::BUFFER_BYTES;

    #[test]
    fn a_full_chunk_fits_into_an_empty_buffer() {
        assert_eq!(plaintext_fitting(BUFFER_BYTES - CONTROL_BYTES), CHUNK_BYTES);
    }

    #[test]
    fn what_is_said_to_fit_fits_with_its_overhead() {
        for room in (0..3 * RECORD_BYTES_MAX).chain([BUFFER_BYTES - CONTROL_BYTES - 1]) {
            let plain = plaintext_fitting(room);
            let records = plain.div_ceil(RECORD_BYTES_MAX);
            assert!(plain + records * RECORD_OVERHEAD <= room, "{plain} of plaintext in {room}");
        }
    }
}
