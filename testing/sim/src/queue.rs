//! What is going to happen, in order of time, and of scheduling where times are equal: so a run repeats exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events by time in microseconds.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    order: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// The events themselves, which are too large to be moved about in a heap.
    events: Vec<Option<E>>,
    free: Vec<u32>,
    scheduled: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), scheduled: 0 }
    }

    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            (self.events.len() - 1) as u32
        });
        self.events[slot as usize] = Some(event);
        self.order.push(Reverse((at_us, self.scheduled, slot)));
        self.scheduled += 1;
    }

    /// The next event that is not after `until_us`.
    pub(crate) fn pop(&mut self, until_us: u64) -> Option<(u64, E)> {
        let Reverse((at_us, ..)) = self.order.peek()?;
        if *at_us > until_us {
            return None;
        }
        let Reverse((at_us, _, slot)) = self.order.pop()?;
        self.free.push(slot);
        self.events[slot as usize].take().map(|event| (at_us, event))
    }

    /// How many events there were so far.
    pub(crate) fn scheduled(&self) -> u64 {
        self.scheduled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_and_then_by_order() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'a'), (3, 'b'), (5, 'c'), (3, 'd'), (9, 'e')] {
            queue.push(at, event);
        }
        let mut seen = String::new();
        while let Some((_, event)) = queue.pop(8) {
            seen.push(event);
            if event == 'b' {
                queue.push(3, 'f');
            }
        }
        assert_eq!(seen, "bdfac");
    }
}
