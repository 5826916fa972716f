//! One connection: frames to streams and back.

use std::collections::HashMap;
use std::io;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frame::{Control, Decoder, HEAD_BYTES, Head, data, head, pong, refuse, reply};
use super::headers::{EMPTY, FIRST_EMPTY};
use crate::command::CHANNEL_BYTES;

/// Streams of one session at once: a forwarded port takes two for each of its connections, and browsers open six.
const STREAMS_MAX: usize = 256;

/// Streams that were opened and nobody has looked at yet.
const OPENED_WAITING_MAX: usize = 16;

/// Frames that wait to be sent; their writers wait then.
const FRAMES_WAITING_MAX: usize = 16;

/// Read at a time, and so the largest data frame sent.
const PIECE_BYTES: usize = 16 << 10;

/// A stream that the client opened. Dropping it ends it.
pub(crate) struct Stream {
    headers: Vec<(String, String)>,
    /// Both directions.
    pub(crate) io: DuplexStream,
}

impl Stream {
    /// A header's value; empty if it has none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// Streams of a session on `io` as they are opened, and what carries them: ends with the connection.
pub(crate) fn session<S>(io: S) -> (mpsc::Receiver<Stream>, impl Future<Output = ()> + use<S>)
where
    S: AsyncRead + AsyncWrite,
{
    let (opened, streams) = mpsc::channel(OPENED_WAITING_MAX);
    let carrier = async move {
        let (reader, writer) = tokio::io::split(io);
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut session =
            Session { opened, frames, streams: HashMap::new(), pumps: JoinSet::new(), last: 0, replied: false };
        let ended = tokio::select! {
            ended = session.hear(BufReader::new(reader)) => ended,
            ended = tell(writer, waiting) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a SPDY session ended");
        }
    };
    (streams, carrier)
}

struct Session {
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Vec<u8>>,
    /// Where what comes in goes, for streams whose client may still send.
    streams: HashMap<u32, WriteHalf<DuplexStream>>,
    /// Carry what goes out, one for each stream that may still send.
    pumps: JoinSet<()>,
    last: u32,
    replied: bool,
}

impl Session {
    async fn hear(&mut self, mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut decoder = Decoder::default();
        loop {
            let mut bytes = [0; HEAD_BYTES];
            match reader.read_exact(&mut bytes).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            match head(bytes).map_err(io::Error::other)? {
                Head::Data { stream, fin, bytes } => self.data(&mut reader, stream, fin, bytes).await?,
                Head::Control { kind, flags, bytes } => {
                    let mut content = vec![0; bytes as usize];
                    reader.read_exact(&mut content).await?;
                    let control = decoder.control(kind, flags, &content).map_err(io::Error::other)?;
                    self.control(control).await?;
                }
            }
        }
    }

    /// Hands content on, a piece at a time. What is for nobody is read over: its stream may just have ended.
    async fn data(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        stream: u32,
        fin: bool,
        bytes: u32,
    ) -> io::Result<()> {
        let mut left = bytes as usize;
        let mut piece = vec![0; left.min(PIECE_BYTES)];
        while left > 0 {
            let size = left.min(PIECE_BYTES);
            reader.read_exact(&mut piece[..size]).await?;
            left -= size;
            if let Some(writer) = self.streams.get_mut(&stream)
                && writer.write_all(&piece[..size]).await.is_err()
            {
                self.streams.remove(&stream);
            }
        }
        if fin {
            self.finish(stream).await;
        }
        Ok(())
    }

    async fn finish(&mut self, stream: u32) {
        if let Some(mut writer) = self.streams.remove(&stream) {
            // It fails only if nobody reads any more.
            let _ = writer.shutdown().await;
        }
    }

    async fn control(&mut self, control: Control) -> io::Result<()> {
        match control {
            Control::Open { stream, fin, headers } => self.open(stream, fin, headers).await,
            Control::Reset(stream) => {
                self.finish(stream).await;
                Ok(())
            }
            // Odd ones are the client's; even ones would answer pings that are never sent.
            Control::Ping(number) if number % 2 == 1 => self.send(pong(number)).await,
            Control::Ping(_) | Control::Other => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Vec<(String, String)>) -> io::Result<()> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(io::Error::other(format!("a client cannot open stream {stream} after {}", self.last)));
        }
        self.last = stream;
        while self.pumps.try_join_next().is_some() {}
        if self.pumps.len() >= STREAMS_MAX || self.streams.len() >= STREAMS_MAX {
            return self.send(refuse(stream)).await;
        }
        let (ours, theirs) = duplex(CHANNEL_BYTES);
        let (from_us, to_us) = tokio::io::split(theirs);
        let first = !std::mem::replace(&mut self.replied, true);
        self.send(reply(stream, if first { &FIRST_EMPTY } else { EMPTY })).await?;
        self.streams.insert(stream, to_us);
        if fin {
            self.finish(stream).await;
        }
        self.pumps.spawn(pump(stream, from_us, self.frames.clone()));
        // Nobody there to take it: it is dropped, and so ended.
        let _ = self.opened.send(Stream { headers, io: ours }).await;
        Ok(())
    }

    async fn send(&self, frame: Vec<u8>) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Carries what is written on a stream, and its end.
async fn pump(stream: u32, mut from: ReadHalf<DuplexStream>, frames: mpsc::Sender<Vec<u8>>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await.unwrap_or(0);
        let mut frame = data(stream, read == 0, read).to_vec();
        frame.extend_from_slice(&piece[..read]);
        if frames.send(frame).await.is_err() || read == 0 {
            return;
        }
    }
}

async fn tell(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        writer.write_all(&frame).await?;
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}
