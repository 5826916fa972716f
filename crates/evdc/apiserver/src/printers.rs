//! The columns that `kubectl get` shows: for each kind its definitions and the cells of an object.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kinds::{CustomColumn, Resource},
    object::{at, list, name, number, text},
};

mod cells;

/// A column: name, type, priority (above 0 only with `-o wide`), and the cell of an object.
type Column = (&'static str, &'static str, u8, fn(&Value) -> Value);

/// The columns of a built-in kind, between the name and the age.
fn builtin(resource: &Resource) -> &'static [Column] {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => cells::NAMESPACE,
        ("", "Node") => cells::NODE,
        ("", "Pod") => cells::POD,
        ("", "Service") => cells::SERVICE,
        ("", "Endpoints") => cells::ENDPOINTS,
        ("", "ConfigMap") => cells::CONFIG_MAP,
        ("", "Secret") => cells::SECRET,
        ("", "PersistentVolume") => cells::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => cells::CLAIM,
        ("", "ServiceAccount") => cells::SERVICE_ACCOUNT,
        ("apps", "Deployment") => cells::DEPLOYMENT,
        ("apps", "ReplicaSet") => cells::REPLICA_SET,
        ("apps", "StatefulSet") => cells::STATEFUL_SET,
        ("apps", "ControllerRevision") => cells::REVISION,
        ("coordination.k8s.io", "Lease") => cells::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => cells::ENDPOINT_SLICE,
        ("networking.k8s.io", "Ingress") => cells::INGRESS,
        ("networking.k8s.io", "IngressClass") => cells::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => cells::NETWORK_POLICY,
        ("networking.atoll.cloud", "PodEndpoint") => cells::POD_ENDPOINT,
        ("storage.k8s.io", "StorageClass") => cells::STORAGE_CLASS,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => cells::BINDING,
        _ => &[],
    }
}

fn is_event(resource: &Resource) -> bool {
    resource.custom.is_none() && resource.kind == "Event"
}

/// `columnDefinitions` of a table.
pub(crate) fn columns(resource: &Resource) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority});
    let name_column = column("Name", "string", "name", "Name of the object.", 0);
    let age = column("Age", "string", "", "Time since the object was created.", 0);
    if is_event(resource) {
        let columns =
            cells::EVENT.iter().map(|(name, kind, priority, _)| column(name, kind, "", "", i64::from(*priority)));
        return columns.collect();
    }
    let mut columns = vec![name_column];
    match &resource.custom {
        Some(custom) if !custom.columns.is_empty() => {
            let own = custom.columns.iter();
            columns.extend(own.map(|it| column(&it.name, &it.kind, &it.format, &it.description, it.priority)));
            return columns.into();
        }
        Some(_) => columns.push(age),
        None => {
            // The age stands where Kubernetes has it: after the columns that are always shown.
            let own = builtin(resource)
                .iter()
                .map(|(name, kind, priority, _)| column(name, kind, "", "", i64::from(*priority)));
            let (always, wide): (Vec<_>, Vec<_>) = own.partition(|column| column["priority"] == 0);
            columns.extend(always);
            columns.push(age);
            columns.extend(wide);
        }
    }
    columns.into()
}

/// The cells of an object, in the order of [`columns`].
pub(crate) fn row(resource: &Resource, object: &Value) -> Vec<Value> {
    if is_event(resource) {
        return cells::EVENT.iter().map(|(.., cell)| cell(object)).collect();
    }
    let mut row = vec![name(object).into()];
    let age = || Value::from(age(text(object, &["metadata", "creationTimestamp"])));
    match &resource.custom {
        Some(custom) if !custom.columns.is_empty() => {
            row.extend(custom.columns.iter().map(|it| custom_cell(it, object)))
        }
        Some(_) => row.push(age()),
        None => {
            let own = builtin(resource);
            row.extend(own.iter().filter(|(_, _, priority, _)| *priority == 0).map(|(.., cell)| cell(object)));
            row.push(age());
            row.extend(own.iter().filter(|(_, _, priority, _)| *priority > 0).map(|(.., cell)| cell(object)));
        }
    }
    row
}

/// The value at a simple JSON path such as `.spec.replicas` or `.status.conditions[?(@.type=="Ready")].status`.
fn custom_cell(column: &CustomColumn, object: &Value) -> Value {
    let found = json_path(object, &column.path);
    match (found, column.kind.as_str()) {
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(text)), "date") => age(text).into(),
        (Some(value @ (Value::Object(_) | Value::Array(_))), _) => value.to_string().into(),
        (Some(value), "string") if !value.is_string() => value.to_string().into(),
        (Some(value), _) => value.clone(),
    }
}

fn json_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(more) = rest.strip_prefix('[') {
            let (inside, after) = more.split_once(']')?;
            value = if let Some(filter) = inside.strip_prefix("?(@.").and_then(|it| it.strip_suffix(')')) {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                value.as_array()?.iter().find(|item| item[field.trim()] == wanted)?
            } else if let Ok(index) = inside.parse::<usize>() {
                value.get(index)?
            } else {
                value.get(inside.trim_matches(['"', '\'']))?
            };
            rest = after;
        } else {
            let more = rest.strip_prefix('.')?;
            // A dot within a name is written with a backslash.
            let mut name = String::new();
            let mut chars = more.char_indices().peekable();
            let mut end = more.len();
            while let Some((index, c)) = chars.next() {
                match c {
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = index;
                        break;
                    }
                    c => name.push(c),
                }
            }
            value = value.get(&name)?;
            rest = &more[end..];
        }
    }
    Some(value)
}

/// The time since then, as `kubectl` writes it.
fn age(since: &str) -> String {
    match since.parse::<Timestamp>() {
        Ok(since) => duration(Timestamp::now().as_second() - since.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A number of seconds as two figures at most: `5s`, `3m20s`, `15m`, `5h`, `3d2h`, `40d`.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => pair(days / 365, 'y', days % 365, 'd'),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn rows_fit_their_columns() {
        for resource in Registry::builtin().all() {
            let columns = columns(resource);
            let row = row(resource, &json!({"metadata": {"name": "x"}}));
            assert_eq!(columns.as_array().unwrap().len(), row.len(), "{}", resource.kind);
        }
    }

    #[test]
    fn ages_are_short() {
        let check = |seconds: i64, text: &str| assert_eq!(duration(seconds), text);
        check(-5, "0s");
        check(119, "119s");
        check(125, "2m5s");
        check(180, "3m");
        check(3600, "60m");
        check(4 * 3600 + 60, "4h1m");
        check(24 * 3600, "24h");
        check(3 * 86_400 + 3600, "3d1h");
        check(40 * 86_400, "40d");
        check(800 * 86_400, "2y70d");
    }

    #[test]
    fn paths_find_their_values() {
        let object = json!({"spec": {"a.b": 1, "list": [{"type": "Ready", "status": "True"}]}, "metadata": {"annotations": {"x/y": "z"}}});
        let check = |path: &str, expected: Value| {
            assert_eq!(json_path(&object, path).cloned().unwrap_or_default(), expected, "{path}")
        };
        check(".spec.list[0].status", json!("True"));
        check(".spec.list[?(@.type==\"Ready\")].status", json!("True"));
        check(".spec.a\\.b", json!(1));
        check(".metadata.annotations['x/y']", json!("z"));
        check(".spec.missing", Value::Null);
    }

    #[test]
    fn pods_are_shown_as_people_know_them() {
        let resource = Registry::builtin().get("", "v1", "pods").unwrap();
        let check = |pod: Value, ready: &str, status: &str, restarts: &str| {
            let row = row(&resource, &pod);
            assert_eq!(row[1..4], [json!(ready), json!(status), json!(restarts)], "{pod}");
        };
        let containers = json!([{"name": "a"}, {"name": "b"}]);
        check(json!({"spec": {"containers": containers}, "status": {"phase": "Pending"}}), "0/2", "Pending", "0");
        check(
            json!({"spec": {"containers": containers}, "status": {"phase": "Running", "containerStatuses": [
                {"ready": true, "restartCount": 1, "state": {"running": {}}},
                {"ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            "1/2",
            "CrashLoopBackOff",
            "3",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"containers": containers},
                "status": {"phase": "Running"}}),
            "0/2",
            "Terminating",
            "0",
        );
    }
}
