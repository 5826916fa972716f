//! Whether labels and taints match what asks for them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether a label selector matches; an empty one matches everything. An operator that does not exist matches nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            meets(labels.get(&requirement.key).map(String::as_str), &requirement.operator, values)
        })
}

fn meets(value: Option<&str>, operator: &str, values: &[String]) -> bool {
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first().map(String::as_str));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether one of the terms of a node selector matches the node.
#[must_use]
pub fn node_selected(selector: &NodeSelector, name: &str, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| node_matches(term, name, labels))
}

/// Whether a term matches the node; an empty one matches none.
pub(crate) fn node_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let holds = |requirement: &NodeSelectorRequirement, value: Option<&str>| {
        meets(value, &requirement.operator, requirement.values.as_deref().unwrap_or_default())
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|it| holds(it, labels.get(&it.key).map(String::as_str)))
        && fields.iter().all(|it| it.key == "metadata.name" && holds(it, Some(name)))
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Equal" | "" => !key.is_empty() && value == taint.value.as_deref().unwrap_or_default(),
            _ => false,
        }
}

/// The first taint of one of these effects that no toleration covers.
#[must_use]
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn labels(labels: Value) -> Labels {
        serde_json::from_value(labels).unwrap()
    }

    #[test]
    fn label_selectors() {
        let check = |selector: Value, object: Value, expect: bool| {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(selects(&parsed, &labels(object.clone())), expect, "{selector} on {object}");
        };
        let expression =
            |operator: &str| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": ["1"]}]});
        check(json!({}), json!({}), true);
        check(json!({"matchLabels": {"a": "1"}}), json!({"a": "1", "b": "2"}), true);
        check(json!({"matchLabels": {"a": "1"}}), json!({"a": "2"}), false);
        check(expression("In"), json!({"a": "1"}), true);
        check(expression("In"), json!({}), false);
        check(expression("NotIn"), json!({}), true);
        check(expression("NotIn"), json!({"a": "1"}), false);
        check(expression("Exists"), json!({"a": "x"}), true);
        check(expression("DoesNotExist"), json!({"a": "x"}), false);
        check(expression("Like"), json!({"a": "1"}), false);
    }

    #[test]
    fn node_terms() {
        let check = |term: Value, expect: bool| {
            let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(node_matches(&parsed, "n1", &labels(json!({"cpus": "8"}))), expect, "{term}");
        };
        check(json!({}), false);
        check(json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]}), true);
        check(json!({"matchExpressions": [{"key": "cpus", "operator": "Lt", "values": ["8"]}]}), false);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true);
        check(json!({"matchFields": [{"key": "metadata.uid", "operator": "Exists"}]}), false);
    }

    #[test]
    fn tolerations() {
        let check = |toleration: Value, expect: bool| {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            let taint: Taint =
                serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoExecute"})).unwrap();
            assert_eq!(tolerates(&parsed, &taint), expect, "{toleration}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false);
        check(json!({"key": "k", "value": "v"}), true);
        check(json!({"key": "k", "operator": "Equal", "value": "w"}), false);
        check(json!({"value": "v"}), false);
    }
}
