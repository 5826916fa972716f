//! The values a template computes with. Maps are references: every holder of a map sees what `set` or `merge` did to it, as in Go;
//! lists are never changed in place. Numbers keep Go's difference between `int`, `int64` and `float64`, because `kindOf`, `eq` and
//! `printf` show it.
//!
//! Not here: how values are printed (`gofmt`) or become YAML (`yaml`). Nesting and size are limited ([`Value::measure`]), so that
//! a map that contains itself can neither loop nor overflow a stack: whoever nests values measures the result.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Deepest nesting of lists and maps; charts stay under 20, and walking or dropping this much is safe on a small stack.
pub const DEPTH_MAX: usize = 200;

/// Most values in one nested value: a thousand times a large values file.
pub const NODES_MAX: usize = 1_000_000;

/// What functions and fields of host objects (such as `.Files`) answer with when they cannot: the text of the error.
pub type Failure = String;

/// Something of the host with fields and methods, such as `.Files` or `.Capabilities.APIVersions`.
pub trait Object {
    /// Go's name of its type, for messages such as "can't evaluate field x in type T".
    fn type_name(&self) -> &str;
    /// A field that takes no arguments; `None` if there is none of that name.
    fn field(&self, name: &str) -> Option<Value>;
    /// Calls a method; `None` if there is none of that name.
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, Failure>>;
    /// What it prints as and turns into in YAML.
    fn plain(&self) -> Value;
}

/// One value. Cheap to clone.
#[derive(Clone, Default)]
pub enum Value {
    /// Nothing: a missing key, an explicit null.
    #[default]
    Nil,
    /// A truth value.
    Bool(bool),
    /// Go's `int`: literals, lengths.
    Int(i64),
    /// Go's `int64`: what arithmetic yields.
    Int64(i64),
    /// Go's `float64`: every number that came from YAML or JSON.
    Float(f64),
    /// Text.
    Str(Rc<str>),
    /// A list; never changed in place.
    List(Rc<Vec<Value>>),
    /// A map with text keys, shared.
    Map(MapRef),
    /// Something of the host.
    Object(Rc<dyn Object>),
}

/// A shared map: clones are the same map.
#[derive(Clone, Default)]
pub struct MapRef(Rc<RefCell<BTreeMap<String, Value>>>);

impl MapRef {
    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        self.0.borrow().get(key).cloned()
    }

    /// Puts a value; every holder of this map sees it.
    pub fn insert(&self, key: impl Into<String>, value: Value) {
        self.0.borrow_mut().insert(key.into(), value);
    }

    /// Takes a key away.
    pub fn remove(&self, key: &str) -> Option<Value> {
        self.0.borrow_mut().remove(key)
    }

    /// The keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.0.borrow().keys().cloned().collect()
    }

    /// The entries as they are now, sorted by key.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, Value)> {
        self.0.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<(String, Value)> for MapRef {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Self {
        Self(Rc::new(RefCell::new(entries.into_iter().collect())))
    }
}

impl Value {
    /// Text.
    #[must_use]
    pub fn str(text: impl AsRef<str>) -> Self {
        Self::Str(Rc::from(text.as_ref()))
    }

    /// A list.
    #[must_use]
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    /// A map.
    #[must_use]
    pub fn map(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self::Map(entries.into_iter().collect())
    }

    /// From JSON as Helm sees it: every number is a `float64`.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(it) => Self::Bool(*it),
            serde_json::Value::Number(it) => Self::Float(it.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(it) => Self::str(it),
            serde_json::Value::Array(items) => Self::list(items.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(map) => Self::map(map.iter().map(|(key, it)| (key.clone(), Self::from_json(it)))),
        }
    }

    /// To JSON. Whole floats within 2⁵³ become integers, as Go's encoder writes them.
    ///
    /// # Errors
    /// A value that contains itself, is nested too deeply or too large, or a float that is not finite.
    pub fn to_json(&self) -> Result<serde_json::Value, Failure> {
        self.measure()?;
        self.json()
    }

    fn json(&self) -> Result<serde_json::Value, Failure> {
        Ok(match self {
            Self::Nil => serde_json::Value::Null,
            Self::Bool(it) => (*it).into(),
            Self::Int(it) | Self::Int64(it) => (*it).into(),
            Self::Float(it) => float_to_json(*it)?,
            Self::Str(it) => (**it).into(),
            Self::List(items) => items.iter().map(Self::json).collect::<Result<Vec<_>, _>>()?.into(),
            Self::Map(map) => {
                let entries = map.entries().into_iter().map(|(key, it)| Ok((key, it.json()?)));
                serde_json::Value::Object(entries.collect::<Result<_, Failure>>()?)
            }
            Self::Object(it) => it.plain().json()?,
        })
    }

    /// Whether it is "true": not the zero of its type.
    #[must_use]
    pub fn truth(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(it) => *it,
            Self::Int(it) | Self::Int64(it) => *it != 0,
            Self::Float(it) => *it != 0.0,
            Self::Str(it) => !it.is_empty(),
            Self::List(it) => !it.is_empty(),
            Self::Map(it) => !it.is_empty(),
            Self::Object(it) => match it.plain() {
                Self::Nil | Self::Object(_) => true,
                plain => plain.truth(),
            },
        }
    }

    /// Go's name of the type, as `%T` and error messages show it.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::Nil => "<nil>".into(),
            Self::Bool(_) => "bool".into(),
            Self::Int(_) => "int".into(),
            Self::Int64(_) => "int64".into(),
            Self::Float(_) => "float64".into(),
            Self::Str(_) => "string".into(),
            Self::List(_) => "[]interface {}".into(),
            Self::Map(_) => "map[string]interface {}".into(),
            Self::Object(it) => it.type_name().into(),
        }
    }

    /// Go's kind of the type, as Sprig's `kindOf` shows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "invalid",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Int64(_) => "int64",
            Self::Float(_) => "float64",
            Self::Str(_) => "string",
            Self::List(_) => "slice",
            Self::Map(_) => "map",
            Self::Object(_) => "struct",
        }
    }

    /// Refuses what is nested too deeply, too large or contains itself.
    ///
    /// # Errors
    /// Says which limit was met.
    pub fn measure(&self) -> Result<(), Failure> {
        let mut nodes = 0;
        self.measure_at(0, &mut nodes)
    }

    fn measure_at(&self, depth: usize, nodes: &mut usize) -> Result<(), Failure> {
        *nodes += 1;
        if depth > DEPTH_MAX {
            return Err(format!("value is nested deeper than {DEPTH_MAX} levels, or contains itself"));
        }
        if *nodes > NODES_MAX {
            return Err(format!("value holds more than {NODES_MAX} values"));
        }
        match self {
            Self::List(items) => items.iter().try_for_each(|it| it.measure_at(depth + 1, nodes)),
            Self::Map(map) => map.0.borrow().values().try_for_each(|it| it.measure_at(depth + 1, nodes)),
            _ => Ok(()),
        }
    }

    /// A copy that shares no map with the original.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn deep_copy(&self) -> Result<Self, Failure> {
        self.measure()?;
        Ok(self.copied())
    }

    fn copied(&self) -> Self {
        match self {
            Self::List(items) => Self::list(items.iter().map(Self::copied).collect()),
            Self::Map(map) => Self::map(map.entries().into_iter().map(|(key, it)| (key, it.copied()))),
            other => other.clone(),
        }
    }

    /// Deep equality as `reflect.DeepEqual` has it: the types must be the same.
    ///
    /// # Errors
    /// As [`Self::measure`], for either side.
    pub fn deep_equal(&self, other: &Self) -> Result<bool, Failure> {
        self.measure()?;
        other.measure()?;
        Ok(self.equals(other))
    }

    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nil, Self::Nil) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) | (Self::Int64(a), Self::Int64(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b)),
            (Self::Map(a), Self::Map(b)) => {
                let (a, b) = (a.entries(), b.entries());
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && a.1.equals(&b.1))
            }
            (Self::Object(a), Self::Object(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn float_to_json(it: f64) -> Result<serde_json::Value, Failure> {
    // Beyond 2^53 neighbouring integers share a float; Go then writes an exponent, so a float it stays.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if it.fract() == 0.0 && it.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Ok((it as i64).into());
    }
    serde_json::Number::from_f64(it)
        .map(serde_json::Value::Number)
        .ok_or_else(|| format!("json: unsupported value: {}", crate::gofmt::float_v(it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_one_map_for_all_who_hold_it() {
        let map = MapRef::default();
        let (a, b) = (Value::Map(map.clone()), Value::list(vec![Value::Map(map)]));
        let Value::Map(held) = &a else { panic!("a map") };
        held.insert("x", Value::Int(1));
        assert_eq!(b.to_json(), Ok(serde_json::json!([{ "x": 1 }])));
        let copy = b.deep_copy().expect("small");
        held.insert("x", Value::Int(2));
        assert_eq!(copy.to_json(), Ok(serde_json::json!([{ "x": 1 }])));
    }

    #[test]
    fn a_map_in_itself_is_refused_rather_than_followed() {
        let map = MapRef::default();
        map.insert("self", Value::Map(map.clone()));
        assert!(Value::Map(map.clone()).to_json().is_err());
        map.remove("self");
        let doubled = (0..60).fold(Value::Nil, |it, _| Value::list(vec![it.clone(), it]));
        assert!(doubled.measure().is_err_and(|it| it.contains("more than")));
    }
}
