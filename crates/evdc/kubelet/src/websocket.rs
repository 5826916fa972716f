//! WebSocket as carrier: a command's channels in messages that begin with a channel's number, or a byte stream in messages.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::command::{CHANNEL_BYTES, Channels};
use crate::pods::Command;

/// Largest message taken: clients send what they read at once, some KiB.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Read at a time, and so the largest message sent.
const PIECE_BYTES: usize = 16 << 10;

/// How long a client that was told of the end is waited for.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The channels' numbers (`v4.channel.k8s.io`), and from version 5 on the message that closes one.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The server's side of a WebSocket, the handshake being done.
pub(crate) async fn accepted<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// A command's channels on a WebSocket, and what carries them.
pub(crate) fn channels<S>(
    socket: WebSocketStream<S>,
    command: &Command,
) -> (Channels, impl Future<Output = ()> + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pair = |wanted: bool| wanted.then(|| duplex(CHANNEL_BYTES)).unzip();
    let (stdin, stdin_end) = pair(command.stdin);
    let (stdout, stdout_end) = pair(command.stdout);
    let (stderr, stderr_end) = pair(command.stderr);
    let (sizes, sizes_end) = pair(command.terminal);
    let (error, error_end) = duplex(CHANNEL_BYTES);
    let first = if command.stdout {
        STDOUT
    } else if command.stderr {
        STDERR
    } else {
        ERROR
    };
    let carrier = async move {
        let (sink, source) = socket.split();
        let hearing = hear(source, stdin_end, sizes_end);
        let telling = tell(sink, first, stdout_end, stderr_end, error_end);
        let mut hearing = std::pin::pin!(hearing);
        tokio::select! {
            () = &mut hearing => {}
            // Told all: the client's own goodbye is a courtesy.
            () = telling => { let _ = tokio::time::timeout(CLOSE_WITHIN, hearing).await; }
        }
    };
    (Channels { stdin, stdout, stderr, error: Some(error), sizes }, carrier)
}

/// Takes in what the client sends, until it is gone.
async fn hear<S>(
    mut source: SplitStream<WebSocketStream<S>>,
    mut stdin: Option<DuplexStream>,
    mut sizes: Option<DuplexStream>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            // Pings are answered below this; text is of no channel.
            _ => continue,
        };
        let channel = match bytes.first() {
            Some(&STDIN) => &mut stdin,
            Some(&RESIZE) => &mut sizes,
            Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => {
                stdin = None;
                continue;
            }
            _ => continue,
        };
        // A command that does not read any more is no reason to stop.
        if let Some(open) = channel
            && open.write_all(&bytes[1..]).await.is_err()
        {
            *channel = None;
        }
    }
}

/// Sends what the command writes, then how it ended.
async fn tell<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    first: u8,
    mut stdout: Option<DuplexStream>,
    mut stderr: Option<DuplexStream>,
    mut error: DuplexStream,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Kubernetes' servers begin with an empty message, and some clients wait for it.
    if sink.send(message(first, &[])).await.is_err() {
        return;
    }
    let (mut out, mut err) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    while stdout.is_some() || stderr.is_some() {
        let (channel, piece, from) = tokio::select! {
            read = read(&mut stdout, &mut out) => (STDOUT, read.map(|read| &out[..read]), &mut stdout),
            read = read(&mut stderr, &mut err) => (STDERR, read.map(|read| &err[..read]), &mut stderr),
        };
        match piece {
            Some(piece) => {
                if sink.send(message(channel, piece)).await.is_err() {
                    return;
                }
            }
            None => *from = None,
        }
    }
    let mut status = Vec::new();
    if error.read_to_end(&mut status).await.is_ok() && !status.is_empty() {
        let _ = sink.send(message(ERROR, &status)).await;
    }
    let _ = sink.send(goodbye()).await;
}

/// What there is; `None` at the end. Pending for ever without a channel.
async fn read(channel: &mut Option<DuplexStream>, piece: &mut [u8]) -> Option<usize> {
    match channel {
        Some(channel) => channel.read(piece).await.ok().filter(|&read| read > 0),
        None => std::future::pending().await,
    }
}

/// With a code: without one clients take it for a failure.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

/// A byte stream in binary messages, and what carries it.
pub(crate) fn bytes<S>(socket: WebSocketStream<S>) -> (DuplexStream, impl Future<Output = ()> + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (ours, theirs) = duplex(CHANNEL_BYTES);
    let carrier = async move {
        let (mut sink, mut source) = socket.split();
        let (mut from_us, mut to_us) = tokio::io::split(theirs);
        let hearing = async {
            while let Some(Ok(message)) = source.next().await {
                let written = match message {
                    Message::Binary(bytes) => to_us.write_all(&bytes).await,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if written.is_err() {
                    break;
                }
            }
            let _ = to_us.shutdown().await;
        };
        let telling = async {
            let mut piece = vec![0; PIECE_BYTES];
            while let Ok(read @ 1..) = from_us.read(&mut piece).await {
                if sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..read]))).await.is_err() {
                    return;
                }
            }
            let _ = sink.send(goodbye()).await;
        };
        tokio::select! { () = hearing => {}, () = telling => {} }
    };
    (ours, carrier)
}
