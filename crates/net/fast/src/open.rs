//! Opening: one [`Opener`] per direction of a path, which lets each packet through once.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::Aad;

use crate::header::{HEADER_BYTES, Header, Kind};
use crate::keys::{Chain, Cipher, EpochKey};
use crate::window::Window;

/// How long a key is still good after its follower was seen: longer than packets overtake each other.
pub const OLD_EPOCH: Duration = Duration::from_secs(5);

/// Why something is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is no sealed packet, or for somebody else.
    #[error("not a sealed packet for this path")]
    Malformed,
    /// Its epoch is over, or has not come.
    #[error("sealed in an epoch that is over or has not come")]
    Stale,
    /// It came before, or is so old that nobody can tell.
    #[error("it came before")]
    Replayed,
    /// Not the peer sealed it, or somebody changed it.
    #[error("it is not genuine")]
    Forged,
    /// So much was forged that the key is not trusted any more.
    #[error("too much was forged; the path is given up")]
    WornOut,
}

struct Epoch {
    key: EpochKey,
    window: Window,
}

impl Epoch {
    fn next(chain: &mut Chain) -> Self {
        Self { key: chain.step(), window: Window::default() }
    }
}

/// Opens one direction.
pub struct Opener {
    chain: Chain,
    index: u32,
    old: Option<(Epoch, Instant)>,
    current: Epoch,
    /// Made ahead, so that a header that claims it costs no more than any other.
    next: Epoch,
    forged: u64,
    forged_max: u64,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("epoch", &self.current.key.epoch).finish_non_exhaustive()
    }
}

impl Opener {
    pub(crate) fn new(mut chain: Chain, index: u32, cipher: Cipher) -> Self {
        let (current, next) = (Epoch::next(&mut chain), Epoch::next(&mut chain));
        Self { chain, index, old: None, current, next, forged: 0, forged_max: cipher.forgeries_max() }
    }

    /// The epoch that the other end seals in, as far as we know.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.current.key.epoch
    }

    /// Opens a sealed packet where it lies, and says what it was. It is the plaintext's only way out, and the second time it is shut.
    ///
    /// # Errors
    ///
    /// [`OpenError`]. What was in `sealed` may be destroyed.
    pub fn open<'a>(&mut self, now: Instant, sealed: &'a mut [u8]) -> Result<(Kind, &'a mut [u8]), OpenError> {
        let header = Header::read(sealed).filter(|header| header.index == self.index).ok_or(OpenError::Malformed)?;
        if self.forged >= self.forged_max {
            return Err(OpenError::WornOut);
        }
        // Nothing is kept that nobody may use any more.
        self.old.take_if(|(_, until)| now >= *until);
        let is_next = header.epoch == self.next.key.epoch;
        let epoch = if header.epoch == self.current.key.epoch {
            &mut self.current
        } else if is_next {
            &mut self.next
        } else {
            let old = self.old.as_mut().filter(|(old, _)| old.key.epoch == header.epoch);
            &mut old.ok_or(OpenError::Stale)?.0
        };
        if !epoch.window.is_new(header.counter) {
            return Err(OpenError::Replayed);
        }
        let (front, text) = sealed.split_at_mut(HEADER_BYTES);
        let opened = epoch.key.key().open_in_place(epoch.key.nonce(header.counter), Aad::from(&*front), text);
        let Ok(opened) = opened else {
            self.forged += 1;
            return Err(OpenError::Forged);
        };
        epoch.window.see(header.counter);
        if is_next {
            let next = Epoch::next(&mut self.chain);
            let current = std::mem::replace(&mut self.next, next);
            let old = std::mem::replace(&mut self.current, current);
            self.old = Some((old, now + OLD_EPOCH));
        }
        Ok((header.kind, opened))
    }
}
