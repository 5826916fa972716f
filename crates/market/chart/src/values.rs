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
    /// A path in `--set` style cannot be read.
    #[error("values: nested deeper than {DEPTH_MAX}")]
    TooDeep,
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
