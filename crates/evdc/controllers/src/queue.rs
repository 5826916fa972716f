//! Which objects a controller has to look at: each at most once in the queue, now or later, later and later after failures.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::objects::Key;

/// First wait after a failure: a conflict with another writer is over by then.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait after failures, so that what was mended is seen within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Work to do, by object. It holds no more than there are objects.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    is_ready: HashSet<Key>,
    later: BTreeSet<(Instant, Key)>,
    /// When each of `later` is due; one that is put off twice is due at the earlier time.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, key: Key) {
        self.lock().push(key);
        self.wake.notify_one();
    }

    pub(crate) fn push_after(&self, key: Key, wait: Duration) {
        self.lock().put_off(key, Instant::now() + wait);
        self.wake.notify_one();
    }

    /// Puts the object back after a failure.
    pub(crate) fn failed(&self, key: Key) {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let wait = BACKOFF_MIN.saturating_mul(1 << failures.min(12)).min(BACKOFF_MAX);
        self.push_after(key, wait);
    }

    pub(crate) fn succeeded(&self, key: &Key) {
        self.lock().failures.remove(key);
    }

    /// The next object, when there is one.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let due = {
                let mut state = self.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.is_ready.remove(&key);
                    return key;
                }
                state.later.first().map(|(due, _)| *due)
            };
            match due {
                Some(due) => tokio::select! { () = sleep_until(due) => {}, () = self.wake.notified() => {} },
                None => self.wake.notified().await,
            }
        }
    }
}

impl State {
    fn push(&mut self, key: Key) {
        if self.is_ready.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn put_off(&mut self, key: Key, until: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= until {
                return;
            }
            self.later.remove(&(earlier, key.clone()));
        }
        self.due.insert(key.clone(), until);
        self.later.insert((until, key));
    }

    fn move_due(&mut self, now: Instant) {
        while let Some((due, _)) = self.later.first()
            && *due <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.due.remove(&key);
            self.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn once_each_and_later_in_order() {
        let queue = Queue::default();
        let key = |name: &str| Key::new("n", name);
        queue.push_after(key("later"), Duration::from_millis(1));
        queue.push(key("a"));
        queue.push(key("b"));
        queue.push(key("a"));
        assert_eq!([queue.next().await, queue.next().await, queue.next().await], [key("a"), key("b"), key("later")]);
        queue.failed(key("a"));
        assert_eq!(queue.next().await, key("a"));
    }
}
