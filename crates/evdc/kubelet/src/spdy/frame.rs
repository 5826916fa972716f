//! Frames: what bytes mean and how they are written. Pure.

use super::headers::Inflater;

/// Bytes before every frame's content.
pub(crate) const HEAD_BYTES: usize = 8;

/// Largest control frame: a stream's headers are some hundred bytes.
pub const CONTROL_BYTES_MAX: u32 = 32 << 10;

/// The version in control frames.
const VERSION: u16 = 3;

/// The flag of a stream's last frame in its direction.
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const HEADERS: u16 = 8;

/// The status of a reset that refuses a stream.
const REFUSED_STREAM: u32 = 3;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Content of a stream.
    Data {
        /// Which.
        stream: u32,
        /// Nothing comes after it.
        fin: bool,
        /// How many bytes.
        bytes: u32,
    },
    /// A control frame, to be given to [`Decoder::control`].
    Control {
        /// Its type.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// How many bytes, at most [`CONTROL_BYTES_MAX`].
        bytes: u32,
    },
}

/// What bytes are no frame of SPDY/3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Another version.
    #[error("a frame of SPDY version {0}, not 3")]
    Version(u16),
    /// Too large.
    #[error("a control frame of {0} bytes; {CONTROL_BYTES_MAX} are taken")]
    Large(u32),
}

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// A frame's content is shorter than it must be.
    #[error("a frame is too short")]
    Short,
    /// Compressed headers are none.
    #[error("headers are not compressed as SPDY/3.1 says")]
    Compression,
    /// Headers are too many or too large.
    #[error("headers are larger than is taken")]
    Large,
    /// Headers are not laid out as they must be.
    #[error("headers are malformed")]
    Headers,
}

/// Reads what stands before a frame.
///
/// # Errors
/// [`HeadError`]
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<Head, HeadError> {
    let [first @ .., flags, a, b, c] = bytes;
    let (first, length) = (u32::from_be_bytes(first), u32::from_be_bytes([0, a, b, c]));
    if first >> 31 == 0 {
        return Ok(Head::Data { stream: first, fin: flags & FIN != 0, bytes: length });
    }
    let [high, low, kind @ ..] = first.to_be_bytes();
    let version = u16::from_be_bytes([high & 0x7f, low]);
    if version != VERSION {
        return Err(HeadError::Version(version));
    }
    if length > CONTROL_BYTES_MAX {
        return Err(HeadError::Large(length));
    }
    Ok(Head::Control { kind: u16::from_be_bytes(kind), flags, bytes: length })
}

/// A control frame that is acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A stream is opened.
    Open {
        /// Its number.
        stream: u32,
        /// The client sends nothing on it.
        fin: bool,
        /// Names (in lower case) and values.
        headers: Vec<(String, String)>,
    },
    /// A stream ends at once.
    Reset(u32),
    /// A sign of life is asked for.
    Ping(u32),
    /// Everything else: settings, windows, replies to streams that were never opened, the client's goodbye (its end of the connection says the same).
    Other,
}

/// Reads control frames, which share the state of their headers' compression.
#[derive(Default)]
pub struct Decoder {
    inflater: Inflater,
}

impl Decoder {
    /// Reads the content of a control frame of this type.
    ///
    /// # Errors
    /// [`SpdyError`]: the session is over.
    pub fn control(&mut self, kind: u16, flags: u8, content: &[u8]) -> Result<Control, SpdyError> {
        let number = |at: usize| -> Result<u32, SpdyError> {
            let bytes = content.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(SpdyError::Short)
        };
        let block = |from: usize| content.get(from..).ok_or(SpdyError::Short);
        Ok(match kind {
            SYN_STREAM => {
                // Number, associated stream, priority and slot.
                let headers = self.inflater.headers(block(10)?)?;
                Control::Open { stream: number(0)? & 0x7fff_ffff, fin: flags & FIN != 0, headers }
            }
            // Of no use, but the compression of the next headers goes on from these.
            SYN_REPLY | HEADERS => {
                self.inflater.headers(block(4)?)?;
                Control::Other
            }
            RST_STREAM => Control::Reset(number(0)? & 0x7fff_ffff),
            PING => Control::Ping(number(0)?),
            _ => Control::Other,
        })
    }
}

/// Bytes of a data frame's head.
pub(crate) fn data(stream: u32, fin: bool, bytes: usize) -> [u8; HEAD_BYTES] {
    debug_assert!(bytes < 1 << 24, "a data frame's length has 24 bits");
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, x, y, z] = (bytes as u32).to_be_bytes();
    [a, b, c, d, u8::from(fin) * FIN, x, y, z]
}

fn control(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(content.len() as u32).to_be_bytes());
    frame.extend_from_slice(content);
    frame
}

/// The answer to a stream that is taken, with this block of headers.
pub(crate) fn reply(stream: u32, headers: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&stream.to_be_bytes(), headers].concat())
}

/// The answer to a stream that is not taken.
pub(crate) fn refuse(stream: u32) -> Vec<u8> {
    control(RST_STREAM, &[stream.to_be_bytes(), REFUSED_STREAM.to_be_bytes()].concat())
}

/// The answer to a ping.
pub(crate) fn pong(number: u32) -> Vec<u8> {
    control(PING, &number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn heads_are_read() {
        assert_eq!(head(data(5, true, 9)).unwrap(), Head::Data { stream: 5, fin: true, bytes: 9 });
        let ping = pong(7);
        let read = head(ping[..8].try_into().unwrap()).unwrap();
        assert_eq!(read, Head::Control { kind: PING, flags: 0, bytes: 4 });
        assert_eq!(Decoder::default().control(PING, 0, &ping[8..]), Ok(Control::Ping(7)));
        assert_eq!(head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(HeadError::Version(2)));
        assert_eq!(head([0x80, 3, 0, 1, 0, 1, 0, 0]), Err(HeadError::Large(1 << 16)));
    }

    #[test]
    fn short_frames_are_refused() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            assert_eq!(Decoder::default().control(kind, 0, &[0; 3]), Err(SpdyError::Short), "type {kind}");
        }
        assert_eq!(Decoder::default().control(4, 0, &[0; 3]), Ok(Control::Other));
    }
}
