//! What a controller knows of the objects of one kind: a copy kept by a watch, and at once by the controller's own writes.
//!
//! **Invariants.** An object never goes back to an older version: a watch that is behind does not undo what a write answered. So a controller
//! that has made an object sees it in its next pass and does not make it twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::Resource;

use crate::objects::Key;

/// Objects of one kind.
pub(crate) struct Cache<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: RwLock::default() }
    }
}

/// The version as a number; 0 where the server's versions are none, which then never count as older.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl<K: Resource> Cache<K> {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.read().keys().cloned().collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Key::new(namespace, "");
        self.read()
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, it)| Arc::clone(it))
            .collect()
    }

    /// Takes a version of an object; answers whether it was news.
    pub(crate) fn put(&self, object: &Arc<K>) -> bool {
        let mut objects = self.write();
        let key = Key::of(object.meta());
        let is_older = objects.get(&key).is_some_and(|old| version(&**old) > version(&**object));
        if !is_older {
            objects.insert(key, Arc::clone(object));
        }
        !is_older
    }

    /// Forgets an object that is gone, unless another has taken its name.
    pub(crate) fn remove(&self, object: &K) {
        let mut objects = self.write();
        let key = Key::of(object.meta());
        if objects.get(&key).is_some_and(|old| old.meta().uid == object.meta().uid) {
            objects.remove(&key);
        }
    }

    /// Takes a whole list; answers what is gone. What is newer than the list stays.
    pub(crate) fn replace(&self, list: &[Arc<K>]) -> Vec<Arc<K>> {
        let newest = list.iter().map(|object| version(&**object)).max().unwrap_or(0);
        let listed: BTreeMap<Key, &Arc<K>> = list.iter().map(|object| (Key::of(object.meta()), object)).collect();
        let mut gone = Vec::new();
        self.write().retain(|key, old| {
            let stays = listed.contains_key(key) || (newest > 0 && version(&**old) > newest);
            if !stays {
                gone.push(Arc::clone(old));
            }
            stays
        });
        for object in list {
            self.put(object);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn object(name: &str, version: u64, uid: &str) -> Arc<ConfigMap> {
        let text = |text: &str| Some(text.to_owned());
        let (name, uid, namespace) = (text(name), text(uid), text("n"));
        let metadata =
            ObjectMeta { name, uid, namespace, resource_version: text(&version.to_string()), ..Default::default() };
        Arc::new(ConfigMap { metadata, ..ConfigMap::default() })
    }

    #[test]
    fn what_is_older_is_no_news() {
        let cache = Cache::default();
        assert!(cache.put(&object("a", 5, "u")));
        assert!(!cache.put(&object("a", 4, "u")));
        assert!(cache.put(&object("a", 6, "u")));
        cache.remove(&object("a", 4, "older"));
        assert_eq!(cache.in_namespace("n").len(), 1);
        assert!(cache.in_namespace("m").is_empty());
        cache.remove(&object("a", 7, "u"));
        assert!(cache.all().is_empty());
    }

    #[test]
    fn a_list_replaces_what_it_knows_of() {
        let cache = Cache::default();
        cache.put(&object("old", 3, "o"));
        cache.put(&object("written", 9, "w"));
        let gone = cache.replace(&[object("listed", 7, "l")]);
        assert_eq!(gone.len(), 1);
        assert_eq!(cache.keys().iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["listed", "written"]);
    }
}
