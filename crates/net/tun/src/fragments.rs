//! Packets that come in pieces: the first piece is judged, the others follow it. Kept for each peer apart, so nobody takes the room of another.
//!
//! What a piece may not do: come before the first, lie over it (the ports that were judged would be replaced by others, RFC 5722), or make the whole larger than a packet
//! can be.

use std::time::{Duration, Instant};

use crate::packet::Fragment;

/// Packets in pieces that are on their way from one peer at once. They are rare: whoever can, sends what fits.
const PACKETS_MAX: usize = 64;

/// How long the pieces of one packet may take (RFC 8200 gives a minute; ours come from one sender over one path).
pub(crate) const WITHIN: Duration = Duration::from_secs(15);

/// What all pieces of one packet may have together, with room for some that are sent twice.
const BYTES_MAX: u32 = 2 * 65_536;

#[derive(Debug, Clone, Copy)]
struct Begun {
    id: u32,
    until: Instant,
    /// Where the first piece ended.
    covered: u32,
    left: u32,
}

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Of a packet whose first piece passed.
    Follows,
    /// Of one that did not begin, or too long ago.
    Overtakes,
    /// Over the first, or more than there may be.
    Overlaps,
}

/// The packets in pieces of one peer, in one direction.
#[derive(Debug, Default)]
pub(crate) struct Fragments(Vec<Begun>);

impl Fragments {
    /// A first piece passed. If there are too many, the pieces that follow it are lost.
    pub(crate) fn begin(&mut self, now: Instant, fragment: Fragment) {
        self.sweep(now);
        self.0.retain(|begun| begun.id != fragment.id);
        if self.0.len() < PACKETS_MAX {
            let left = BYTES_MAX.saturating_sub(fragment.end);
            self.0.push(Begun { id: fragment.id, until: now + WITHIN, covered: fragment.end, left });
        }
    }

    pub(crate) fn judge(&self, now: Instant, fragment: Fragment) -> Piece {
        let Some(begun) = self.0.iter().find(|begun| begun.id == fragment.id && now < begun.until) else {
            return Piece::Overtakes;
        };
        let bytes = fragment.end - fragment.start;
        if fragment.start < begun.covered || bytes > begun.left { Piece::Overlaps } else { Piece::Follows }
    }

    /// A piece that followed passed.
    pub(crate) fn goes_on(&mut self, fragment: Fragment) {
        if let Some(begun) = self.0.iter_mut().find(|begun| begun.id == fragment.id) {
            begun.left = begun.left.saturating_sub(fragment.end - fragment.start);
        }
    }

    pub(crate) fn sweep(&mut self, now: Instant) {
        self.0.retain(|begun| now < begun.until);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u32, start: u32, end: u32) -> Fragment {
        Fragment { id, first: start == 0, start, end }
    }

    #[test]
    fn pieces_follow_the_first_and_lie_behind_it() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        assert_eq!(fragments.judge(now, piece(1, 64, 128)), Piece::Overtakes);
        fragments.begin(now, piece(1, 0, 64));
        assert_eq!(fragments.judge(now, piece(1, 64, 128)), Piece::Follows);
        assert_eq!(fragments.judge(now, piece(1, 8, 128)), Piece::Overlaps);
        assert_eq!(fragments.judge(now, piece(1, 56, 64)), Piece::Overlaps);
        assert_eq!(fragments.judge(now, piece(2, 64, 128)), Piece::Overtakes);
        assert_eq!(fragments.judge(now + WITHIN, piece(1, 64, 128)), Piece::Overtakes);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut fragments, now) = (Fragments::default(), Instant::now());
        (0..1000).for_each(|id| fragments.begin(now, piece(id, 0, 64)));
        assert_eq!(fragments.0.len(), PACKETS_MAX);
        let mut passed = 0;
        while fragments.judge(now, piece(1, 64, 1264)) == Piece::Follows {
            fragments.goes_on(piece(1, 64, 1264));
            passed += 1200;
        }
        assert!(passed <= BYTES_MAX, "{passed} bytes for one packet");
        fragments.sweep(now + WITHIN);
        assert_eq!(fragments.0.capacity(), 0);
    }
}
