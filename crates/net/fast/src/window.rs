//! Which counters were seen: a sliding window of bits, moved by whole words (RFC 6479).

/// Words of 64 bits. A burst that overtakes another is one or two reads of the interface, some hundred packets; 8,128 is several milliseconds of 10 Gbit/s.
const WORDS: usize = 128;

/// Counters that are told apart. One word is always being filled.
pub const WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// The counters of one epoch that were seen.
#[derive(Debug, Clone)]
pub struct Window {
    /// One more than the highest counter that was seen.
    next: u64,
    words: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }
}

impl Window {
    /// Whether a counter may still come: it was not seen, and is not too old to tell.
    #[must_use]
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        self.next - counter <= WINDOW && self.words[word(counter)] & bit(counter) == 0
    }

    /// Notes that a counter was seen. Only for one that [is new](Self::is_new), and only once its packet proved genuine.
    pub fn see(&mut self, counter: u64) {
        debug_assert!(self.is_new(counter));
        if counter >= self.next {
            // Words between the highest so far and the new one belong to counters that nobody has seen yet.
            let (first, last) = (self.next.div_ceil(64), counter / 64);
            let cleared = (last + 1).saturating_sub(first).min(WORDS as u64);
            for ahead in 0..cleared {
                self.words[word((last - ahead) * 64)] = 0;
            }
            self.next = counter + 1;
        }
        self.words[word(counter)] |= bit(counter);
    }
}

fn word(counter: u64) -> usize {
    (counter / 64) as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn offer(window: &mut Window, counter: u64) -> bool {
        let new = window.is_new(counter);
        if new {
            window.see(counter);
        }
        new
    }

    #[test]
    fn each_counter_passes_once() {
        let mut window = Window::default();
        for (counter, expect) in [
            (0, true),
            (0, false),
            (5, true),
            (1, true),
            (1, false),
            (63, true),
            (64, true),
            (64, false),
            (WINDOW + 5, true),
            (5, false),
            (6, true),
            (4, false),
            (u64::MAX - 1, true),
            (u64::MAX - 1, false),
            (u64::MAX - WINDOW, true),
            (u64::MAX - 1 - WINDOW, false),
            (u64::MAX, false),
        ] {
            assert_eq!(offer(&mut window, counter), expect, "{counter}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set_that_forgets_by_refusing(steps in prop::collection::vec((0u64..2, 0u64..20_000), 1..400)) {
            let (mut window, mut seen, mut top) = (Window::default(), HashSet::new(), 0u64);
            for (jump, at) in steps {
                let counter = if jump == 0 { (top + 10_000).saturating_sub(at) } else { top + at % 7 };
                let passed = offer(&mut window, counter);
                let recent = top < counter + WINDOW;
                if passed {
                    prop_assert!(seen.insert(counter), "{counter} passed twice");
                } else {
                    prop_assert!(seen.contains(&counter) || !recent, "{counter} of {top} is new and recent");
                }
                top = top.max(counter);
            }
        }

        #[test]
        fn reordering_within_the_window_loses_nothing(mut order in Just((0..WINDOW).collect::<Vec<_>>()).prop_shuffle(), base in 0u64..1 << 40) {
            let mut window = Window::default();
            prop_assert!(order.iter().all(|at| offer(&mut window, base + at)));
            order.reverse();
            prop_assert!(!order.iter().any(|at| offer(&mut window, base + at)));
        }
    }
}
