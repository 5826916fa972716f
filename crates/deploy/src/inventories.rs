//! The inventories of stacks, in the tenant's key-value store: `stack/<name>`, JSON with a version of its own.

use atoll_kv::{KeyValue, KvError, Mutation, Scan};
use bytes::Bytes;
use serde_json::Value as Json;

const PREFIX: &str = "stack/";

/// Stacks of one tenant.
const STACKS_MAX: usize = 1000;

fn key(stack: &str) -> Bytes {
    Bytes::from(format!("{PREFIX}{stack}"))
}

pub(crate) async fn load(kv: &dyn KeyValue, stack: &str) -> Result<Option<Json>, KvError> {
    let found = kv.get(&key(stack)).await?;
    // What is damaged is for the plan engine to say.
    Ok(found.map(|entry| serde_json::from_slice(&entry.value).unwrap_or(Json::Null)))
}

pub(crate) async fn store(kv: &dyn KeyValue, stack: &str, inventory: Option<&Json>) -> Result<(), KvError> {
    let mutation = match inventory {
        Some(inventory) => Mutation::Put { key: key(stack), value: Bytes::from(inventory.to_string()) },
        None => Mutation::Delete { key: key(stack) },
    };
    kv.commit(Vec::new(), vec![mutation]).await.map(drop)
}

/// The names of all stacks that have made something.
pub(crate) async fn names(kv: &dyn KeyValue) -> Result<Vec<String>, KvError> {
    let entries = kv.scan(Scan::new(PREFIX, STACKS_MAX)).await?;
    let name = |key: &[u8]| Some(std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.to_owned());
    Ok(entries.iter().filter_map(|entry| name(&entry.key)).collect())
}
