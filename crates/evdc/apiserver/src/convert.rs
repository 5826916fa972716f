//! One stored object, shown as the version that was asked for.
//!
//! Only events have two shapes here (core and events.k8s.io); all other kinds have one, and custom resources convert by their name alone
//! (strategy `None`).

use serde_json::Value;

use crate::{kinds::Resource, object::fields};

/// Fields of a core event and what events.k8s.io calls them.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Names that differ only between the two shapes.
const REPORTING: [(&str, &str); 1] = [("reportingComponent", "reportingController")];

/// Makes a stored object one of this resource.
pub(crate) fn show(resource: &Resource, object: &mut Value) {
    if resource.is("events.k8s.io", "Event") {
        rename(object, |(core, new)| (core, new));
    }
    name_kind(resource, object);
}

/// Makes an object of this resource one to store.
pub(crate) fn store(resource: &Resource, object: &mut Value) {
    if resource.is("events.k8s.io", "Event") {
        rename(object, |(core, new)| (new, core));
        fields(object).insert("apiVersion".to_owned(), "v1".into());
    }
}

/// Writes `apiVersion` and `kind`.
pub(crate) fn name_kind(resource: &Resource, object: &mut Value) {
    let fields = fields(object);
    fields.insert("apiVersion".to_owned(), resource.api_version().into());
    fields.insert("kind".to_owned(), resource.kind.clone().into());
}

fn rename(object: &mut Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let fields = fields(object);
    for pair in EVENT_FIELDS.into_iter().chain(REPORTING) {
        let (from, to) = direction(pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}
