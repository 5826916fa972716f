//! Blocks of headers: a zlib stream that goes on from block to block, with a dictionary. Reading is miniz_oxide's; what is written is stored, not
//! compressed, which every zlib reader takes.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::dictionary::{DICTIONARY, DICTIONARY_ID};
use super::frame::SpdyError;

/// How far back a reference may go, and so what is kept (RFC 1951).
const WINDOW_BYTES: usize = 32 << 10;

/// Largest block after inflating. A stream's headers are some hundred bytes; names and numbers of requests.
const BLOCK_BYTES_MAX: usize = 16 << 10;

/// Most headers of a stream: clients send four at most.
const HEADERS_MAX: usize = 32;

/// The empty block of headers that opens a zlib stream: its two bytes, then as [`EMPTY`].
pub(super) const FIRST_EMPTY: [u8; 16] = [0x78, 1, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// The same later: four bytes stored (the number of headers, none), then an empty stored part, at which readers hand on what they have.
pub(super) const EMPTY: &[u8] = FIRST_EMPTY.split_at(2).1;

/// Inflates one block after the other.
pub(super) struct Inflater {
    state: Box<DecompressorOxide>,
    window: Box<[u8]>,
    at: usize,
    begun: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Box::default(), window: vec![0; WINDOW_BYTES].into(), at: 0, begun: false }
    }
}

impl Inflater {
    /// The headers in the next block.
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut rest = if self.begun { block } else { self.begin(block)? };
        let mut inflated = Vec::new();
        loop {
            let at = self.at;
            let (status, read, written) =
                decompress(&mut self.state, rest, &mut self.window, at, TINFL_FLAG_HAS_MORE_INPUT);
            rest = &rest[read..];
            inflated.extend_from_slice(&self.window[at..at + written]);
            self.at = (at + written) % WINDOW_BYTES;
            if inflated.len() > BLOCK_BYTES_MAX {
                return Err(SpdyError::Large);
            }
            match status {
                TINFLStatus::NeedsMoreInput if rest.is_empty() => return Ok(inflated),
                TINFLStatus::HasMoreOutput => {}
                // Broken, or at its end, which a stream of headers has none of.
                _ => return Err(SpdyError::Compression),
            }
        }
    }

    /// Reads what opens a zlib stream (RFC 1950), and lays out the dictionary if it asks for that.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let [method, flags, rest @ ..] = block else { return Err(SpdyError::Compression) };
        let sum = u16::from_be_bytes([*method, *flags]);
        if method & 0x0f != 8 || method >> 4 > 7 || sum % 31 != 0 {
            return Err(SpdyError::Compression);
        }
        self.begun = true;
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        let Some((id, rest)) = rest.split_first_chunk() else { return Err(SpdyError::Compression) };
        if u32::from_be_bytes(*id) != DICTIONARY_ID {
            return Err(SpdyError::Compression);
        }
        // As if it had been inflated just before.
        self.window[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
        self.at = DICTIONARY.len();
        Ok(rest)
    }
}

/// Number of headers, then name and value of each after their lengths.
fn parse(mut bytes: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
    let bytes = &mut bytes;
    let count = number(bytes)?;
    if count > HEADERS_MAX {
        return Err(SpdyError::Large);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((text(bytes)?.to_ascii_lowercase(), text(bytes)?));
    }
    if bytes.is_empty() { Ok(headers) } else { Err(SpdyError::Headers) }
}

fn number(bytes: &mut &[u8]) -> Result<usize, SpdyError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(SpdyError::Headers)?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| SpdyError::Headers)
}

fn text(bytes: &mut &[u8]) -> Result<String, SpdyError> {
    let length = number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(SpdyError::Headers)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let (mut low, mut high) = (1_u32, 0_u32);
        for &byte in DICTIONARY {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!((high << 16) | low, DICTIONARY_ID, "Adler-32 (RFC 1950)");
    }

    #[test]
    fn blocks_of_a_client_are_read_one_after_the_other() {
        // As zlib writes them with the dictionary at its best, with a flush after each.
        let blocks: [&[u8]; 2] = [
            b"\x78\xf9\xe3\xc6\xa7\xc2\x02\x25\x3a\x70\x3a\x2b\x29\x4a\x4d\xcc\x85\x16\x25\xac\xa9\xa0\x80\x86\x14\xcb\x45\
              \xe0\x1c\x60\x61\x60\x61\x00\xa4\x39\x8b\x20\xd1\x98\x09\x4a\xde\x8c\x06\0\0\0\0\xff\xff",
            b"\xc2\xaa\x19\x54\x0e\x25\x12\xd6\x0b\0\0\0\xff\xff",
        ];
        let mut inflater = Inflater::default();
        for (block, kind) in blocks.into_iter().zip(["error", "data"]) {
            let headers = inflater.headers(block).unwrap();
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(headers, [("streamtype", kind), ("port", "8080"), ("requestid", "0")]);
        }
        assert_eq!(
            Inflater::default().headers(blocks[1]),
            Err(SpdyError::Compression),
            "the second goes on from the first"
        );
    }

    #[test]
    fn empty_blocks_are_empty() {
        let mut inflater = Inflater::default();
        assert_eq!(inflater.headers(&FIRST_EMPTY), Ok(Vec::new()));
        for _ in 0..3 {
            assert_eq!(inflater.headers(EMPTY), Ok(Vec::new()));
        }
    }

    #[test]
    fn what_is_too_large_or_broken_is_refused() {
        // A stored part of 32 KiB: larger than a block may be.
        let mut large = vec![0x78, 1, 0, 0, 0x80, 0xff, 0x7f];
        large.resize(large.len() + 0x8000, 0);
        assert_eq!(Inflater::default().headers(&large), Err(SpdyError::Large));
        assert_eq!(Inflater::default().headers(&[0x78, 2]), Err(SpdyError::Compression));
        assert_eq!(Inflater::default().headers(&[0x78]), Err(SpdyError::Compression));
        // The last part of a stream.
        assert_eq!(Inflater::default().headers(&[0x78, 1, 1, 0, 0, 0xff, 0xff]), Err(SpdyError::Compression));
        assert_eq!(parse(&[0, 0, 1, 0]), Err(SpdyError::Large));
        assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'a']), Err(SpdyError::Headers));
        assert_eq!(parse(&[0, 0, 0, 0, 0]), Err(SpdyError::Headers));
    }
}
