//! Label and field selectors, as query parameters and as they stand in objects.

use serde_json::Value;

use crate::{
    error::ApiError,
    object::{at, list, text},
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<(String, Need)>);

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),!h,i`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let refuse =
            |part: &str| ApiError::bad_request(format!("unable to parse requirement: \"{part}\" in \"{text}\""));
        let parts = split(text);
        let needs = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
        needs.map(|part| parse_need(part).ok_or_else(|| refuse(part))).collect::<Result<_, _>>().map(Self)
    }

    /// The selector of an object: `matchLabels` and `matchExpressions`.
    pub(crate) fn of(selector: &Value) -> Self {
        let mut needs: Vec<_> =
            labels(selector.get("matchLabels")).map(|(key, value)| (key, Need::In(vec![value]))).collect();
        for expression in list(selector, &["matchExpressions"]) {
            let values = || list(expression, &["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let need = match text(expression, &["operator"]) {
                "In" => Need::In(values()),
                "NotIn" => Need::NotIn(values()),
                "Exists" => Need::Exists,
                _ => Need::Absent,
            };
            needs.push((text(expression, &["key"]).to_owned(), need));
        }
        Self(needs)
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = at(object, &["metadata", "labels"]);
        self.0.iter().all(|(key, need)| {
            let found = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
            let number = || found.and_then(|found| found.parse::<i64>().ok());
            match need {
                Need::In(values) => found.is_some_and(|found| values.iter().any(|value| value == found)),
                Need::NotIn(values) => found.is_none_or(|found| values.iter().all(|value| value != found)),
                Need::Exists => found.is_some(),
                Need::Absent => found.is_none(),
                Need::Above(limit) => number().is_some_and(|number| number > *limit),
                Need::Below(limit) => number().is_some_and(|number| number < *limit),
            }
        })
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (key, need)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match need {
                Need::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Need::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Need::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Need::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Need::Exists => f.write_str(key)?,
                Need::Absent => write!(f, "!{key}")?,
                Need::Above(limit) => write!(f, "{key}>{limit}")?,
                Need::Below(limit) => write!(f, "{key}<{limit}")?,
            }
        }
        Ok(())
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_need(part: &str) -> Option<(String, Need)> {
    let key = |key: &str| {
        let key = key.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        (!key.is_empty() && key.chars().all(fits)).then(|| key.to_owned())
    };
    let value = |text: &str| {
        let text = text.trim();
        text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)).then(|| text.to_owned())
    };
    if let Some((name, rest)) = part.split_once(" in ").or_else(|| part.split_once(" notin ")) {
        let values = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        let values = values.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let is_in = part[name.len()..].starts_with(" in ");
        return Some((key(name)?, if is_in { Need::In(values) } else { Need::NotIn(values) }));
    }
    if let Some((name, text)) = part.split_once("!=") {
        return Some((key(name)?, Need::NotIn(vec![value(text)?])));
    }
    if let Some((name, text)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some((key(name)?, Need::In(vec![value(text)?])));
    }
    if let Some((name, text)) = part.split_once('>') {
        return Some((key(name)?, Need::Above(text.trim().parse().ok()?)));
    }
    if let Some((name, text)) = part.split_once('<') {
        return Some((key(name)?, Need::Below(text.trim().parse().ok()?)));
    }
    match part.strip_prefix('!') {
        Some(name) => Some((key(name)?, Need::Absent)),
        None => Some((key(part)?, Need::Exists)),
    }
}

fn labels(map: Option<&Value>) -> impl Iterator<Item = (String, String)> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
}

/// A field selector: paths that must, or must not, have a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(Vec<String>, bool, String)>);

/// Fields that may be selected by, besides the name and the namespace.
const SELECTABLE: &[(&str, &[&str])] = &[
    (
        "Pod",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    (
        "Event",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
        ],
    ),
    ("Node", &["spec.unschedulable"]),
    ("Namespace", &["status.phase"]),
    ("Secret", &["type"]),
    ("ReplicaSet", &["status.replicas"]),
    ("Service", &["spec.clusterIP", "spec.type"]),
];

impl FieldSelector {
    /// Reads `metadata.name=x,spec.nodeName!=y` for a kind.
    pub(crate) fn parse(kind: &str, text: &str) -> Result<Self, ApiError> {
        let selectable = SELECTABLE.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, fields)| fields);
        let mut needs = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, wanted, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                let message = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(ApiError::bad_request(message));
            };
            let known = ["metadata.name", "metadata.namespace"].contains(&field) || selectable.contains(&field);
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            needs.push((field.split('.').map(str::to_owned).collect(), wanted, value.to_owned()));
        }
        Ok(Self(needs))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, value)| {
            let found = path.iter().try_fold(object, |at, name| at.get(name));
            let equal = match found {
                None | Some(Value::Null) => value.is_empty() || value == "false",
                Some(Value::String(found)) => found == value,
                Some(Value::Bool(found)) => value.parse() == Ok(*found),
                Some(Value::Number(found)) => found.to_string() == *value,
                Some(_) => false,
            };
            equal == *wanted
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_selected() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5"}}});
        let check = |text: &str, matches: bool| {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&object), matches, "{text}");
            assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector, "{text}");
        };
        check("", true);
        check("app=web", true);
        check("app==web,tier=front", true);
        check("app!=web", false);
        check("other!=web", true);
        check("app in (api,web)", true);
        check("app notin (api,web),tier", false);
        check("!other", true);
        check("!app", false);
        check("app", true);
        check("n>4", true);
        check("n<5", false);
        for bad in ["a b", "a in b", "=x", "a=(", "a>x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_selected() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        let check = |text: &str, matches: bool| {
            assert_eq!(FieldSelector::parse("Pod", text).unwrap().matches(&pod), matches, "{text}");
        };
        check("metadata.name=a,spec.nodeName=n1", true);
        check("spec.nodeName!=n1", false);
        check("status.phase!=Running", true);
        check("spec.hostNetwork=false", true);
        assert!(FieldSelector::parse("Pod", "spec.foo=1").is_err());
        assert!(FieldSelector::parse("ConfigMap", "spec.nodeName=1").is_err());
    }
}
