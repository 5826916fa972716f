//! What all controllers read from objects: keys, owners, readiness, hashes. Pure.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use kube::Resource;

/// Who writes, in `managedFields`, events and `DeleteOptions`.
pub(crate) const MANAGER: &str = "atoll-controllers";

/// Which object: its namespace (empty where there is none) and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The owner that controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The key of the owner that controls the object, if it is of this kind.
pub(crate) fn owner_key(meta: &ObjectMeta, kind: &str) -> Option<Key> {
    let owner = controller_of(meta).filter(|owner| owner.kind == kind)?;
    Some(Key::new(namespace(meta), &owner.name))
}

/// Whether the object is controlled by the one with this uid.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_of(meta).map(|owner| &owner.uid) == owner.uid.as_ref()
}

/// A reference that makes `owner` the controller.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> Vec<OwnerReference> {
    vec![OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: name(owner.meta()).to_owned(),
        uid: uid(owner.meta()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]
}

/// A text that is the same for the same template, in the alphabet that Kubernetes takes for such names: no vowels, so no words.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = serde_json::to_string(&serde_json::json!(template)).unwrap_or_default();
    if collisions > 0 {
        let _ = write!(text, "{collisions}");
    }
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// A count that may be a share of the whole, as in `maxSurge`.
pub(crate) fn scaled(count: Option<&IntOrString>, default: &str, whole: i32, round_up: bool) -> i32 {
    let text = match count {
        Some(IntOrString::Int(count)) => return (*count).max(0),
        Some(IntOrString::String(text)) => text,
        None => default,
    };
    let share: i64 = text.strip_suffix('%').and_then(|share| share.parse().ok()).unwrap_or(0);
    let hundredths = share.max(0) * i64::from(whole);
    i32::try_from(if round_up { (hundredths + 99) / 100 } else { hundredths / 100 }).unwrap_or(i32::MAX)
}

pub(crate) fn pod_phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(pod_phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_leaving(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether the pod runs or will.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_leaving(&pod.metadata) && !has_ended(pod)
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

/// Since when the pod is ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Whether the pod has been ready for long enough; if it only will be, in how long.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Result<bool, SignedDuration> {
    let Some(since) = ready_since(pod) else { return Ok(false) };
    let left = SignedDuration::from_secs(i64::from(min_ready_seconds)) - now.duration_since(since);
    if min_ready_seconds <= 0 || !left.is_positive() { Ok(true) } else { Err(left) }
}

/// The status of the node's condition, such as `True`.
pub(crate) fn node_condition<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str())
}

/// Now, in whole seconds, as most fields have it.
pub(crate) fn now() -> Time {
    Time(whole_seconds(Timestamp::now()))
}

pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let check = |count: IntOrString, whole: i32, up: i32, down: i32| {
            assert_eq!(
                (scaled(Some(&count), "", whole, true), scaled(Some(&count), "", whole, false)),
                (up, down),
                "{count:?}"
            );
        };
        check(IntOrString::Int(3), 10, 3, 3);
        check(IntOrString::Int(-3), 10, 0, 0);
        check(IntOrString::String("25%".to_owned()), 10, 3, 2);
        check(IntOrString::String("0%".to_owned()), 10, 0, 0);
        check(IntOrString::String("100%".to_owned()), 7, 7, 7);
        check(IntOrString::String("some".to_owned()), 7, 0, 0);
        assert_eq!(scaled(None, "25%", 4, true), 1);
    }

    #[test]
    fn hashes_are_names_and_differ() {
        let template = PodTemplateSpec::default();
        let (one, other) = (template_hash(&template, 0), template_hash(&template, 1));
        assert_ne!(one, other);
        assert!(one.len() <= 10 && one.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{one}");
    }
}
