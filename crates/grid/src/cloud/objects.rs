//! What of Kubernetes' objects matters to the story, as `kubectl get -o json` gives them.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::Value;

use crate::GridError;

/// The type of the Secrets that volumes are kept in.
const VOLUME: &str = "atoll.cloud/volume";

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct Secret {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}

fn read<T: for<'a> Deserialize<'a>>(json: &str) -> Result<List<T>, GridError> {
    serde_json::from_str(json)
        .map_err(|error| GridError::Wrong(format!("what kubectl said is not understood: {error}")))
}

/// The nodes that pods are on, as far as these are not on their way out.
pub(super) fn nodes_of_pods(json: &str) -> Result<Vec<String>, GridError> {
    let staying = read::<Pod>(json)?.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(staying.filter_map(|pod| pod.spec.node_name).collect())
}

/// How the volumes among some Secrets are dispersed, such as 4+2.
pub(super) fn policies_of_volumes(json: &str) -> Result<Vec<String>, GridError> {
    let volumes = read::<Secret>(json)?.items.into_iter().filter(|secret| secret.kind == VOLUME);
    let policy = |secret: Secret| {
        let config = BASE64.decode(secret.data.get("config")?.as_bytes()).ok()?;
        Some(serde_json::from_slice::<Value>(&config).ok()?.get("policy")?.as_str()?.to_owned())
    };
    let found: Option<Vec<String>> = volumes.map(policy).collect();
    found.ok_or_else(|| GridError::Wrong("a volume's Secret does not say how it is dispersed".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn pods_on_their_way_out_do_not_count() {
        let json = r#"{"items": [
            {"metadata": {"name": "a"}, "spec": {"nodeName": "node-1"}},
            {"metadata": {"name": "b", "deletionTimestamp": "2026-11-30T00:00:00Z"}, "spec": {"nodeName": "node-2"}},
            {"metadata": {"name": "c"}, "spec": {}}]}"#;
        assert_eq!(nodes_of_pods(json).unwrap(), ["node-1"]);
        assert!(nodes_of_pods("no json").is_err());
    }

    #[test]
    fn volumes_say_how_they_are_dispersed() {
        let config = BASE64.encode(br#"{"name": "v", "policy": "4+2"}"#);
        let list = |config: &str| {
            format!(r#"{{"items": [{{"type": "Opaque"}}, {{"type": "{VOLUME}", "data": {{"config": "{config}"}}}}]}}"#)
        };
        assert_eq!(policies_of_volumes(&list(&config)).unwrap(), ["4+2"]);
        assert!(policies_of_volumes(&list("AAAA")).is_err());
    }
}
