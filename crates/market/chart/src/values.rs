//! How the values of a user meet those of a chart and its subcharts, as Helm does it: the user wins, tables merge, null takes a default
//! away, `global` flows down.

use serde_json::{Map, Value as Json};

use crate::chart::Chart;

/// Deepest nesting of tables.
const DEPTH_MAX: usize = 100;

/// Why values cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// The text is no YAML, or no table.
    #[error("values: {0}")]
    Invalid(String),
    /// Something that must be a table is none.
    #[error("values: {0} must be a table, as a subchart has this name")]
    NoTable(String),
    /// Tables within tables without end.
    #[error("values: nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// An assignment cannot be read.
    #[error("{given:?}: {why}")]
    Assignment {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Reads a values file; empty is an empty table.
///
/// # Errors
/// The text is no YAML or no table.
pub fn parse(text: &str) -> Result<Json, ValuesError> {
    match atoll_template::yaml::read(text).map_err(ValuesError::Invalid)? {
        Json::Null => Ok(Json::Object(Map::new())),
        it @ Json::Object(_) => Ok(it),
        _ => Err(ValuesError::Invalid("must be a table (key: value)".into())),
    }
}

/// Sets one value as Helm's `--set` does: `image.tag=1.0`, a dot in a key as `\.`. Whole numbers, `true`, `false` and `null` are what they look like,
/// everything else is text. Lists are left to files.
///
/// # Errors
/// It is no assignment, or reaches into something that is no table.
pub fn set(values: &mut Json, assignment: &str) -> Result<(), ValuesError> {
    let fail = |why| Err(ValuesError::Assignment { given: assignment.to_owned(), why });
    let Some((path, text)) = assignment.split_once('=') else { return fail("it must be KEY=VALUE") };
    let keys = keys(path);
    if keys.iter().any(String::is_empty) {
        return fail("a key is empty");
    }
    if path.contains(['[', ']', ',', '{']) || text.starts_with('{') {
        return fail("lists are not set one by one: give them in a file with --values");
    }
    if keys.len() > DEPTH_MAX {
        return Err(ValuesError::TooDeep);
    }
    let mut at = values;
    for key in &keys {
        if at.is_null() {
            *at = Json::Object(Map::new());
        }
        let Json::Object(table) = at else { return fail("it reaches into something that is no table") };
        at = table.entry(key.clone()).or_insert(Json::Null);
    }
    *at = scalar(text);
    Ok(())
}

fn keys(path: &str) -> Vec<String> {
    let (mut keys, mut escaped) = (vec![String::new()], false);
    for c in path.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '.' if !escaped => keys.push(String::new()),
            c => {
                if let Some(key) = keys.last_mut() {
                    key.push(c);
                }
            }
        }
        escaped = false;
    }
    keys
}

/// As Helm's `strvals` reads a scalar: a number with a leading zero is text, such as a telephone number.
fn scalar(text: &str) -> Json {
    match text {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        "null" => Json::Null,
        "0" => 0.into(),
        _ if text.starts_with('0') => text.into(),
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Json::from),
    }
}

/// What the templates of `chart` see as `.Values` if the user gives `given`.
///
/// # Errors
/// A value that has a subchart's name is no table, or values nest too deeply.
pub fn coalesce(chart: &Chart, given: &Json) -> Result<Json, ValuesError> {
    let mut values = match given {
        Json::Object(map) => map.clone(),
        Json::Null => Map::new(),
        _ => return Err(ValuesError::Invalid("must be a table (key: value)".into())),
    };
    into(chart, &mut values, "")?;
    Ok(Json::Object(values))
}

fn into(chart: &Chart, values: &mut Map<String, Json>, prefix: &str) -> Result<(), ValuesError> {
    let child = |key: &str| chart.dependencies.iter().any(|it| it.metadata.name == key);
    if let Json::Object(defaults) = &chart.values {
        for (key, default) in defaults {
            match values.get_mut(key) {
                None => drop(values.insert(key.clone(), default.clone())),
                Some(Json::Null) => drop(values.remove(key)),
                // A subchart's own defaults come later, so nulls for them are kept until then.
                Some(Json::Object(own)) => {
                    if let Json::Object(default) = default {
                        tables(own, default, child(key), 0)?;
                    }
                }
                Some(_) => {}
            }
        }
    }
    for dependency in &chart.dependencies {
        let name = &dependency.metadata.name;
        let path = format!("{prefix}{name}");
        let mut own = match values.remove(name) {
            None | Some(Json::Null) => Map::new(),
            Some(Json::Object(own)) => own,
            Some(_) => return Err(ValuesError::NoTable(path)),
        };
        globals(&mut own, values)?;
        into(dependency, &mut own, &format!("{path}."))?;
        values.insert(name.clone(), Json::Object(own));
    }
    Ok(())
}

/// Fills `own` from `defaults`; a null in `own` takes the default away, or stays with `keep_nulls`.
fn tables(
    own: &mut Map<String, Json>,
    defaults: &Map<String, Json>,
    keep_nulls: bool,
    depth: usize,
) -> Result<(), ValuesError> {
    if depth > DEPTH_MAX {
        return Err(ValuesError::TooDeep);
    }
    for (key, default) in defaults {
        match own.get_mut(key) {
            None => drop(own.insert(key.clone(), default.clone())),
            Some(Json::Null) if !keep_nulls => drop(own.remove(key)),
            Some(Json::Object(own)) => {
                if let Json::Object(default) = default {
                    tables(own, default, keep_nulls, depth + 1)?;
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Hands the parent's `global` down; what the parent says wins.
fn globals(own: &mut Map<String, Json>, parent: &Map<String, Json>) -> Result<(), ValuesError> {
    let table = |it: Option<&Json>| it.and_then(Json::as_object).cloned().unwrap_or_default();
    let mut merged = table(parent.get("global"));
    tables(&mut merged, &table(own.get("global")), true, 0)?;
    own.insert("global".into(), Json::Object(merged));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_set_one_by_one() {
        let check = |before: Json, given: &str, expect: Result<Json, &str>| {
            let mut values = before;
            let done = set(&mut values, given).map(|()| values).map_err(|it| it.to_string());
            match expect {
                Ok(expect) => assert_eq!(done, Ok(expect), "{given}"),
                Err(expect) => assert!(done.as_ref().is_err_and(|it| it.contains(expect)), "{given}: {done:?}"),
            }
        };
        check(json!({}), "host=a.example", Ok(json!({"host": "a.example"})));
        check(json!({"image": {"a": 1}}), "image.tag=1.1.0", Ok(json!({"image": {"a": 1, "tag": "1.1.0"}})));
        check(json!({}), "web.replicas=3", Ok(json!({"web": {"replicas": 3}})));
        check(json!({}), "a=true", Ok(json!({"a": true})));
        check(json!({"a": 1}), "a=null", Ok(json!({"a": null})));
        check(json!({}), "a=007", Ok(json!({"a": "007"})));
        check(json!({}), "a=x=y", Ok(json!({"a": "x=y"})));
        check(json!({}), r"files.index\.html=hi", Ok(json!({"files": {"index.html": "hi"}})));
        check(json!({}), "a=", Ok(json!({"a": ""})));
        check(json!({}), "a", Err("KEY=VALUE"));
        check(json!({}), ".a=1", Err("a key is empty"));
        check(json!({}), "a[0]=1", Err("--values"));
        check(json!({}), "a={1,2}", Err("--values"));
        check(json!({"a": "text"}), "a.b=1", Err("no table"));
    }
}
