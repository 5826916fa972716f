//! What templates see besides values: `.Files`, `.Capabilities`, `.Chart`.

use std::collections::BTreeMap;
use std::rc::Rc;

use atoll_template::{Failure, Object, Value, yaml};
use data_encoding::BASE64;
use serde_json::Value as Json;

use crate::chart::{File, Metadata};
use crate::render::Capabilities;

/// A Go struct: fields by name, and what it prints as.
struct Struct {
    type_name: &'static str,
    fields: BTreeMap<&'static str, Value>,
    plain: Option<Value>,
}

impl Object for Struct {
    fn type_name(&self) -> &str {
        self.type_name
    }

    fn field(&self, name: &str) -> Option<Value> {
        self.fields.get(name).cloned()
    }

    fn call(&self, _: &str, _: &[Value]) -> Option<Result<Value, Failure>> {
        None
    }

    fn plain(&self) -> Value {
        let fields = || Value::map(self.fields.iter().map(|(key, it)| ((*key).to_owned(), it.clone())));
        self.plain.clone().unwrap_or_else(fields)
    }
}

/// `.Chart`.
pub(crate) fn chart(metadata: &Metadata, is_root: bool) -> Value {
    let other = |key: &str| metadata.other.get(key).map(Value::from_json).unwrap_or_default();
    let fields = [
        ("Name", Value::str(&metadata.name)),
        ("Version", Value::str(&metadata.version)),
        ("AppVersion", Value::str(&metadata.app_version)),
        ("Description", Value::str(&metadata.description)),
        ("APIVersion", Value::str(&metadata.api_version)),
        ("KubeVersion", Value::str(&metadata.kube_version)),
        ("Type", Value::str(&metadata.kind)),
        ("Home", other("home")),
        ("Icon", other("icon")),
        ("Keywords", other("keywords")),
        ("Sources", other("sources")),
        ("Maintainers", other("maintainers")),
        ("Annotations", other("annotations")),
        ("Deprecated", other("deprecated")),
        ("IsRoot", Value::Bool(is_root)),
    ];
    Value::Object(Rc::new(Struct { type_name: "chart.Metadata", fields: BTreeMap::from(fields), plain: None }))
}

/// `.Capabilities`.
pub(crate) fn capabilities(it: &Capabilities) -> Value {
    let version = Value::str(&it.kube_version);
    let mut numbers = it.kube_version.trim_start_matches('v').split('.');
    let mut next = || Value::str(numbers.next().unwrap_or_default());
    let kube = BTreeMap::from([
        ("Version", version.clone()),
        ("GitVersion", version.clone()),
        ("Major", next()),
        ("Minor", next()),
    ]);
    let kube = Struct { type_name: "chartutil.KubeVersion", fields: kube, plain: Some(version) };
    let helm = BTreeMap::from([("Version", Value::str(HELM_VERSION))]);
    let helm = Struct { type_name: "version.BuildInfo", fields: helm, plain: None };
    let fields = BTreeMap::from([
        ("KubeVersion", Value::Object(Rc::new(kube))),
        ("HelmVersion", Value::Object(Rc::new(helm))),
        ("APIVersions", Value::Object(Rc::new(Versions(it.api_versions.clone())))),
    ]);
    Value::Object(Rc::new(Struct { type_name: "*chartutil.Capabilities", fields, plain: None }))
}

/// The version of Helm whose behaviour this crate is compared with.
const HELM_VERSION: &str = "v3.22.0";

/// `.Capabilities.APIVersions`.
struct Versions(Vec<String>);

impl Object for Versions {
    fn type_name(&self) -> &'static str {
        "chartutil.VersionSet"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, Failure>> {
        match (name, arguments) {
            ("Has", [Value::Str(wanted)]) => Some(Ok(Value::Bool(self.0.iter().any(|it| **it == **wanted)))),
            ("Has", _) => Some(Err("Has takes one text".into())),
            _ => None,
        }
    }

    fn plain(&self) -> Value {
        Value::list(self.0.iter().map(Value::str).collect())
    }
}

/// `.Files`: the files of a chart that are no templates.
pub(crate) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    pub(crate) fn new(files: &[File]) -> Self {
        Self(files.iter().map(|it| (it.name.clone(), it.data.clone())).collect())
    }

    fn text(&self, name: &str) -> String {
        self.0.get(name).map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
    }

    fn as_map(&self, value: impl Fn(&[u8]) -> String) -> Value {
        let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let entries = self.0.iter().map(|(name, data)| (base(name), Json::String(value(data))));
        let map: serde_json::Map<_, _> = entries.collect();
        Value::str(yaml::write_json(&Json::Object(map)))
    }
}

impl Object for Files {
    fn type_name(&self) -> &'static str {
        "engine.files"
    }

    fn field(&self, name: &str) -> Option<Value> {
        self.0.contains_key(name).then(|| Value::str(self.text(name)))
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, Failure>> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Some(match (name, arguments) {
            ("Get" | "GetBytes", [Value::Str(name)]) => Ok(Value::str(self.text(name))),
            ("Glob", [Value::Str(pattern)]) => {
                let matching = self.0.iter().filter(|(name, _)| matches(pattern, name));
                Ok(Value::Object(Rc::new(Self(matching.map(|(name, it)| (name.clone(), it.clone())).collect()))))
            }
            ("Lines", [Value::Str(name)]) => {
                let text = self.text(name);
                let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
                Ok(Value::list(if text.is_empty() { Vec::new() } else { lines.map(Value::str).collect() }))
            }
            ("AsConfig", []) => Ok(self.as_map(text)),
            ("AsSecrets", []) => Ok(self.as_map(|it| BASE64.encode(it))),
            ("Get" | "GetBytes" | "Glob" | "Lines" | "AsConfig" | "AsSecrets", _) => {
                Err(format!("wrong arguments for {name}"))
            }
            _ => return None,
        })
    }

    fn plain(&self) -> Value {
        Value::map(self.0.keys().map(|name| (name.clone(), Value::str(self.text(name)))))
    }
}

/// Shell-like patterns: `*` and `?` within a folder, `**` across, `{a,b}`, `[a-z]`.
fn matches(pattern: &str, name: &str) -> bool {
    alternatives(pattern).iter().any(|it| {
        let (pattern, name): (Vec<char>, Vec<char>) = (it.chars().collect(), name.chars().collect());
        match_from(&pattern, &name)
    })
}

/// Patterns without braces that together mean the same.
fn alternatives(pattern: &str) -> Vec<String> {
    // Each pair of braces multiplies; charts use one.
    const PATTERNS_MAX: usize = 256;
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(next) = open.pop() {
        let braces = next.find('{').and_then(|from| Some((from, from + next[from..].find('}')?)));
        match braces {
            Some((from, to)) if done.len() + open.len() < PATTERNS_MAX => {
                let (head, inner, tail) = (&next[..from], &next[from + 1..to], &next[to + 1..]);
                open.extend(inner.split(',').map(|it| format!("{head}{it}{tail}")));
            }
            _ => done.push(next),
        }
    }
    done
}

/// Matching with one point to go back to for `*` and one for `**`, so that no pattern takes exponential time.
fn match_from(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut single: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            if pattern.get(p + 1) == Some(&'*') {
                p += 2;
                (double, single) = (Some((p, n)), None);
            } else {
                p += 1;
                single = Some((p, n));
            }
            continue;
        }
        if p == pattern.len() && n == name.len() {
            return true;
        }
        if let Some(width) = (n < name.len()).then(|| one(&pattern[p..], name[n])).flatten() {
            p += width;
            n += 1;
            continue;
        }
        if let Some((back, at)) = single
            && at < name.len()
            && name[at] != '/'
        {
            (p, n) = (back, at + 1);
            single = Some((back, at + 1));
            continue;
        }
        match double {
            Some((back, at)) if at < name.len() => {
                (p, n) = (back, at + 1);
                (double, single) = (Some((back, at + 1)), None);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern this character takes, if it matches.
fn one(pattern: &[char], it: char) -> Option<usize> {
    match pattern.first()? {
        '?' => (it != '/').then_some(1),
        '[' => {
            let end = pattern.iter().position(|it| *it == ']')?;
            let set = &pattern[1..end];
            let (set, negative) = match set.first() {
                Some('!' | '^') => (&set[1..], true),
                _ => (set, false),
            };
            let ranged = set.windows(3).any(|it3| it3[1] == '-' && (it3[0]..=it3[2]).contains(&it));
            ((ranged || set.contains(&it)) != negative).then_some(end + 1)
        }
        '\\' => (pattern.get(1) == Some(&it)).then_some(2),
        same => (*same == it).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let check =
            |pattern: &str, name: &str, expect: bool| assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        check("config/*.yaml", "config/a.yaml", true);
        check("config/*.yaml", "config/x/a.yaml", false);
        check("config/**.yaml", "config/x/a.yaml", true);
        check("**", "a/b/c", true);
        check("*.{txt,md}", "a.md", true);
        check("file?.[a-c]", "file1.b", true);
        check("file?.[!a-c]", "file1.b", false);
        check("a*b*c", "aXbYc", true);
        check(&"a*".repeat(50), &"a".repeat(200), true);
        check(&format!("{}b", "a*".repeat(50)), &"a".repeat(2000), false);
    }
}
