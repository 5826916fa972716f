//! Objects of the API server as last seen, for what follows all of a kind.

use std::collections::BTreeMap;

use futures_util::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};

/// By namespace and name.
pub(crate) type Objects<T> = BTreeMap<(String, String), T>;

/// One kind's objects, each kept as what is needed of it.
pub(crate) struct Mirror<T> {
    pub(crate) objects: Objects<T>,
    fresh: Objects<T>,
    /// Whether all of them are there.
    pub(crate) complete: bool,
}

impl<T: PartialEq> Mirror<T> {
    pub(crate) fn new() -> Self {
        Self { objects: Objects::new(), fresh: Objects::new(), complete: false }
    }

    /// Whether anything may be different now.
    pub(crate) fn take<K: ResourceExt>(
        &mut self,
        event: Result<Event<K>, watcher::Error>,
        keep: impl Fn(K) -> T,
    ) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Ok(Event::Init) => self.fresh.clear(),
            Ok(Event::InitApply(object)) => {
                self.fresh.insert(key(&object), keep(object));
            }
            Ok(Event::InitDone) => {
                self.objects = std::mem::take(&mut self.fresh);
                self.complete = true;
                return true;
            }
            Ok(Event::Apply(object)) => {
                let (key, fresh) = (key(&object), keep(object));
                if self.objects.get(&key) != Some(&fresh) {
                    self.objects.insert(key, fresh);
                    return true;
                }
            }
            Ok(Event::Delete(object)) => return self.objects.remove(&key(&object)).is_some(),
            Err(error) => tracing::debug!(%error, "watching objects; trying again"),
        }
        false
    }
}

/// All objects of a kind and what becomes of them, for ever.
pub(crate) fn follow<K>(api: Api<K>) -> impl Stream<Item = Result<Event<K>, watcher::Error>>
where
    K: kube::Resource + Clone + std::fmt::Debug + for<'a> serde::Deserialize<'a> + Send + 'static,
{
    watcher(api, watcher::Config::default()).default_backoff().boxed()
}

/// At this moment; never, if there is none.
pub(crate) async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
