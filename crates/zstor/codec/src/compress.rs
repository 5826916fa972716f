//! zstd, at its fastest level, into and out of buffers whose size is the limit. Contexts, a megabyte and more each, go round: a runtime has
//! many threads that block now and then, and few that compress at the same time.
//!
//! Compression is always tried, but on random data zstd itself passes over a stripe at 10 GB/s, which would be the most expensive
//! step of sealing. So a few pieces of a long stripe are compressed first, and the whole only if one of them shrinks. Every
//! compressible stretch longer than the distance of two pieces is seen that way. What is not seen is a stripe of noise that
//! repeats itself over more than a piece. Compression cannot fail, it can only not help.

use std::sync::{Mutex, PoisonError};

use zstd::bulk::{Compressor, Decompressor};

/// Level 1 already halves text and is bounded by a core at 0.6 GB/s; higher levels cost a multiple for a few percent.
const LEVEL: i32 = 1;
/// A stripe must shrink by this fraction (1/16) to be worth decompressing at every read.
const GAIN: usize = 16;
/// Pieces that are tried, evenly spaced from the first byte on. In a full stripe they are 128 KiB apart: a stretch of that
/// size would have to shrink by half for the stripe to gain its sixteenth, so no more than that goes unseen.
const PIECES: usize = 8;
/// Large enough for the statistics of text, pixels and machine code to show; all pieces cost 10 µs when nothing does.
const PIECE_BYTES: usize = 4096;
/// A piece must shrink by this fraction (1/32) to justify trying the whole, which compresses better than its pieces.
const PIECE_GAIN: usize = 32;
/// Shorter stripes are not probed: trying them as a whole costs about as much.
const PROBE_FROM_BYTES: usize = 4 * PIECES * PIECE_BYTES;
/// Below this a zstd frame's own header eats what little there is to gain.
const TRY_FROM_BYTES: usize = 64;

/// Idle contexts of a kind that are kept: as many as stripes are worked on at the same moment on a machine of some size.
const IDLE_CONTEXTS_MAX: usize = 8;

static COMPRESSORS: Idle<Compressor<'static>> = Idle(Mutex::new(Vec::new()));
static DECOMPRESSORS: Idle<Decompressor<'static>> = Idle(Mutex::new(Vec::new()));

/// Contexts that nobody uses at the moment.
struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    /// Calls `with` on an idle context or a new one; `None` if none can be made.
    fn with<R>(&self, make: impl FnOnce() -> std::io::Result<T>, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        let idle = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle().pop();
        let mut context = found.or_else(|| make().ok())?;
        let done = with(&mut context);
        let mut idle = idle();
        if idle.len() < IDLE_CONTEXTS_MAX {
            idle.push(context);
        }
        Some(done)
    }
}

/// Compresses `plain` to the start of `out`, which must be as long as `plain`. Gives the compressed length, or nothing unless at least
/// 1/16 is saved; `out` then holds anything.
pub(crate) fn compress(plain: &[u8], out: &mut [u8]) -> Option<usize> {
    if plain.len() < TRY_FROM_BYTES {
        return None;
    }
    let limit = plain.len() - plain.len().div_ceil(GAIN);
    let work = |compressor: &mut Compressor<'static>| {
        if plain.len() >= PROBE_FROM_BYTES && !any_piece_shrinks(compressor, plain, out) {
            return None;
        }
        compressor.compress_to_buffer(plain, &mut out[..limit]).ok()
    };
    COMPRESSORS.with(|| Compressor::new(LEVEL), work).flatten()
}

/// Whether one of the pieces of `plain` compresses, with `out` as scratch space.
fn any_piece_shrinks(compressor: &mut Compressor<'_>, plain: &[u8], out: &mut [u8]) -> bool {
    let limit = PIECE_BYTES - PIECE_BYTES / PIECE_GAIN;
    let pieces = plain.chunks(plain.len().div_ceil(PIECES)).filter_map(|stretch| stretch.get(..PIECE_BYTES));
    pieces.into_iter().any(|piece| compressor.compress_to_buffer(piece, &mut out[..limit]).is_ok())
}

/// Decompresses `sealed` to exactly the whole of `out`. False if it is not a zstd frame of exactly that length.
pub(crate) fn decompress(sealed: &[u8], out: &mut [u8]) -> bool {
    let work = |decompressor: &mut Decompressor<'static>| {
        decompressor.decompress_to_buffer(sealed, out).is_ok_and(|written| written == out.len())
    };
    DECOMPRESSORS.with(Decompressor::new, work).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_helps_is_kept() {
        let mut out = vec![0; 4096];
        let text: Vec<u8> = b"all work and no play ".iter().copied().cycle().take(4096).collect();
        let len = compress(&text, &mut out).expect("text compresses");
        assert!(len < 200);
        let mut back = vec![0; 4096];
        assert!(decompress(&out[..len], &mut back));
        assert_eq!(back, text);

        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(compress(&noise, &mut out), None);
        assert!(compress(&text, &mut out).is_some(), "the context survives a refusal");
        assert_eq!(compress(&[0; 63], &mut out), None);
    }

    #[test]
    fn a_stretch_of_text_in_noise_is_found_wherever_it_is() {
        const LEN: usize = 1 << 20;
        const STRETCH: usize = LEN / PIECES + PIECE_BYTES;
        let mut noise = vec![0; LEN];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut out = vec![0; LEN];
        for at in (0..=LEN - STRETCH).step_by(50_000) {
            let mut mixed = noise.clone();
            mixed[at..at + STRETCH].iter_mut().enumerate().for_each(|(i, byte)| *byte = b"word by word, "[i % 14]);
            let len = compress(&mixed, &mut out).expect("an eighth of the stripe compresses to nearly nothing");
            let mut back = vec![0; LEN];
            assert!(decompress(&out[..len], &mut back));
            assert!(back == mixed, "{at}");
        }
        assert_eq!(compress(&noise, &mut out), None);
    }

    #[test]
    fn the_length_is_exact_or_it_is_refused() {
        let mut out = vec![0; 1 << 20];
        let bomb = vec![0; 1 << 20];
        let len = compress(&bomb, &mut out).expect("zeros compress");
        let frame = &out[..len];
        for wrong in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
            assert!(!decompress(frame, &mut vec![0; wrong]), "{wrong}");
        }
        assert!(decompress(frame, &mut vec![1; 1 << 20]), "the context survives refusals");
        assert!(!decompress(&frame[..len - 1], &mut vec![1; 1 << 20]));
        assert!(!decompress(b"not zstd", &mut [0; 10]));
        assert!(!decompress(b"", &mut [0; 10]));
    }
}
