//! Events: what people see of the controllers' work with `kubectl describe`. Writing one never fails a controller.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tracing::debug;

use crate::objects::{MANAGER, name, namespace, now, uid};

/// Most events that are remembered to be counted rather than written again; more means that all are written anew.
const REMEMBERED_MAX: usize = 4096;

pub(crate) struct Events {
    client: Client,
    counts: Mutex<HashMap<String, i32>>,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, counts: Mutex::default() }
    }

    pub(crate) async fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: String) {
        self.write(about, "Normal", reason, message).await;
    }

    pub(crate) async fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: String) {
        self.write(about, "Warning", reason, message).await;
    }

    /// One event per object, reason and message; repeated ones are counted.
    async fn write<K: Resource<DynamicType = ()>>(&self, about: &K, type_: &str, reason: &str, message: String) {
        let meta = about.meta();
        let text = format!("{}{reason}{message}", uid(meta));
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let event = format!("{}.{hash:016x}", name(meta));
        let space = if namespace(meta).is_empty() { "default" } else { namespace(meta) };
        let count = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.len() >= REMEMBERED_MAX {
                counts.clear();
            }
            let count = counts.entry(format!("{space}/{event}")).or_default();
            *count = count.saturating_add(1);
            *count
        };
        let api = Api::<Event>::namespaced(self.client.clone(), space);
        let again = json!({"count": count, "lastTimestamp": now()});
        if count > 1 && api.patch(&event, &PatchParams::default(), &Patch::Merge(again)).await.is_ok() {
            return;
        }
        let object = Event {
            metadata: ObjectMeta { name: Some(event), namespace: Some(space.to_owned()), ..ObjectMeta::default() },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                ..ObjectReference::default()
            },
            type_: Some(type_.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(count),
            first_timestamp: Some(now()),
            last_timestamp: Some(now()),
            source: Some(EventSource { component: Some(MANAGER.to_owned()), host: None }),
            reporting_component: Some(MANAGER.to_owned()),
            ..Event::default()
        };
        if let Err(error) = api.create(&PostParams::default(), &object).await {
            debug!(%error, reason, "an event was not written");
        }
    }
}
