//! zstd, at its fastest level, into and out of buffers whose size is the limit. Contexts are kept per thread.
//!
//! Compression is always tried: zstd notices data that does not compress and passes over it at many GB/s. It cannot fail,
//! it can only not help.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// Level 1 already halves text and is bounded by a core at 0.6 GB/s; higher levels cost a multiple for a few percent.
const LEVEL: i32 = 1;
/// A stripe must shrink by this fraction (1/16) to be worth decompressing at every read.
const GAIN: usize = 16;
/// Below this a zstd frame's own header eats what little there is to gain.
const TRY_FROM_BYTES: usize = 64;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `plain` to the start of `out`, which must be as long as `plain`. Gives the compressed length, or nothing unless at least
/// 1/16 is saved; `out` then holds anything.
pub(crate) fn compress(plain: &[u8], out: &mut [u8]) -> Option<usize> {
    if plain.len() < TRY_FROM_BYTES {
        return None;
    }
    let limit = plain.len() - plain.len().div_ceil(GAIN);
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(LEVEL).ok();
        }
        slot.as_mut()?.compress_to_buffer(plain, &mut out[..limit]).ok()
    })
}

/// Decompresses `sealed` to exactly the whole of `out`. False if it is not a zstd frame of exactly that length.
pub(crate) fn decompress(sealed: &[u8], out: &mut [u8]) -> bool {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        let Some(decompressor) = slot.as_mut() else { return false };
        decompressor.decompress_to_buffer(sealed, out).is_ok_and(|written| written == out.len())
    })
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
