//! Rules on dependencies, from cargo's own list of what this workspace builds on this platform: licences and duplicates.
//!
//! `deny.toml` is the source of both, so that cargo-deny, where it is installed, and this agree: `licenses.allow` with
//! `licenses.exceptions`, and `bans.deny`. cargo-deny also knows advisories and other platforms; this needs no installation and no network.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use toml::{Table, Value};

use super::{Problem, Tree, problem};

/// The page that says what is allowed.
const DENY: &str = "deny.toml";

/// Dependencies that take long to build or hold global state, and how many versions of each there may be. `syn` is built twice because the ecosystem is
/// moving from 2 to 3.
const VERSIONS_MAX: [(&str, usize); 16] = [
    ("aws-lc-rs", 1),
    ("aws-lc-sys", 1),
    ("axum", 1),
    ("blake3", 1),
    ("bytes", 1),
    ("clap", 1),
    ("fjall", 1),
    ("hyper", 1),
    ("iroh", 1),
    ("rustls", 1),
    ("serde", 1),
    ("syn", 2),
    ("tokio", 1),
    ("tracing", 1),
    ("tracing-subscriber", 1),
    ("zstd-sys", 1),
];

/// Between package and licence in [`list`]; in neither.
const SEPARATOR: char = '|';

/// What the workspace builds, a line each: `name vVERSION…|licence`. Offline: what is built has been downloaded.
pub(super) fn list(root: &Path) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["tree", "--workspace", "--offline", "--locked", "--edges", "normal,build,dev", "--prefix", "none"])
        .arg("--format")
        .arg(format!("{{p}}{SEPARATOR}{{l}}"))
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo tree failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Rules `licences` and `duplicates`.
pub(super) fn check(tree: &Tree, list: &str) -> Vec<Problem> {
    let deny: Table = match tree.text(DENY).unwrap_or_default().parse() {
        Ok(deny) => deny,
        Err(error) => return vec![problem("licences", DENY, error.to_string())],
    };
    let packages = packages(list);
    let mut problems = licences(&packages, &deny);
    problems.extend(duplicates(&packages, &deny));
    problems
}

/// Name, version and licence of every package.
type Packages<'a> = BTreeSet<(&'a str, &'a str, &'a str)>;

fn packages(list: &str) -> Packages<'_> {
    let parse = |line| {
        let (package, licence) = str::split_once(line, SEPARATOR)?;
        let (name, rest) = package.split_once(" v")?;
        let version = rest.split(' ').next()?;
        // Cargo marks what it has listed before.
        Some((name, version, licence.trim_end_matches("(*)").trim()))
    };
    list.lines().filter_map(parse).collect()
}

fn licences(packages: &Packages<'_>, deny: &Table) -> Vec<Problem> {
    let Some(section) = deny.get("licenses") else {
        return vec![problem("licences", DENY, "there is no section [licenses]")];
    };
    let allowed = names(section.get("allow"));
    let mut exceptions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for exception in entries(section.get("exceptions")) {
        exceptions.entry(crate_name(exception)).or_default().extend(names(exception.get("allow")));
    }
    // What the manifest of a crate leaves to a file that it names.
    let clarified: BTreeMap<&str, &str> = entries(section.get("clarify"))
        .filter_map(|entry| Some((crate_name(entry), entry.get("expression")?.as_str()?)))
        .collect();
    let mut problems = Vec::new();
    for (name, version, licence) in packages {
        let licence = if licence.is_empty() { clarified.get(name).unwrap_or(licence) } else { licence };
        let also = exceptions.get(name).map_or(&[][..], |also| also);
        if !is_allowed(licence, &|id| allowed.contains(&id) || also.contains(&id)) {
            let what = format!("{name} {version} has the licence \"{licence}\", which {DENY} does not allow");
            problems.push(problem("licences", "Cargo.lock", what));
        }
    }
    let unused = exceptions.keys().filter(|exception| !packages.iter().any(|(name, ..)| name == *exception));
    problems.extend(unused.map(|name| problem("licences", DENY, format!("the exception for {name} is not needed"))));
    problems
}

fn duplicates(packages: &Packages<'_>, deny: &Table) -> Vec<Problem> {
    let refused = deny.get("bans").and_then(|bans| bans.get("deny"));
    let refused = entries(refused).map(|entry| (crate_name(entry), 0));
    let mut problems = Vec::new();
    for (name, versions_max) in refused.chain(VERSIONS_MAX) {
        let versions: BTreeSet<&str> = packages.iter().filter(|it| it.0 == name).map(|it| it.1).collect();
        if versions.len() > versions_max {
            let versions = versions.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!("{name} is built in versions {versions}; at most {versions_max} may be");
            problems.push(problem("duplicates", "Cargo.lock", what));
        }
    }
    problems
}

/// Whether the conditions of an SPDX expression can be met with licences that are `allowed`. Old manifests write `/` for `OR`.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    either(&mut rest, allowed) == Some(true) && rest.is_empty()
}

/// `both (OR both)*`; `None` where the expression is malformed.
fn either(tokens: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = both(tokens, allowed)?;
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        met |= both(tokens, allowed)?;
    }
    Some(met)
}

/// `licence (AND licence)*`.
fn both(tokens: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = licence(tokens, allowed)?;
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        met &= licence(tokens, allowed)?;
    }
    Some(met)
}

/// `( either )`, `id WITH exception` or `id`.
fn licence(tokens: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let met = either(tokens, allowed)?;
            let [")", rest @ ..] = *tokens else { return None };
            *tokens = rest;
            Some(met)
        }
        ["AND" | "OR" | "WITH" | ")", ..] | [] => None,
        [id, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            Some(allowed(&format!("{id} WITH {exception}")))
        }
        [id, rest @ ..] => {
            *tokens = rest;
            Some(allowed(id))
        }
    }
}

fn names(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn entries(list: Option<&Value>) -> impl Iterator<Item = &Table> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}

fn crate_name(entry: &Table) -> &str {
    entry.get("crate").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY_TEXT: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]\n\
        exceptions = [{ crate = \"roots\", allow = [\"CDLA-Permissive-2.0\"] }]\n\
        [bans]\ndeny = [{ crate = \"ring\" }]\n";

    fn check_list(list: &str, words: &[&str]) {
        let list = format!("roots v1.0.0|CDLA-Permissive-2.0\n{list}");
        let problems = check(&Tree::of(&[(DENY, DENY_TEXT)]), &list);
        assert_eq!(problems.len(), words.len(), "{problems:#?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.to_string().contains(words), "{problem}: not about {words}");
        }
    }

    #[test]
    fn expressions_are_evaluated() {
        let allowed = |id: &str| ["MIT", "Apache-2.0", "GPL WITH linking"].contains(&id);
        let check = |expression: &str, expected: bool| {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        };
        for expression in ["MIT", "GPL OR MIT", "GPL/MIT", "(MIT OR GPL) AND Apache-2.0", "GPL WITH linking"] {
            check(expression, true);
        }
        for expression in ["", "GPL", "GPL AND MIT", "MIT WITH linking", "MIT AND (GPL OR ISC)", "MIT OR", "(MIT"] {
            check(expression, false);
        }
        check("GPL OR MIT AND Apache-2.0", true);
        check("MIT AND GPL OR Apache-2.0", true);
    }

    #[test]
    fn licences_outside_the_list_are_reported() {
        check_list("a v1.0.0|MIT\na v1.0.0|MIT (*)\nb v1.0.0 (proc-macro)|Apache-2.0/MIT\n", &[]);
        check_list("a v1.0.0|GPL-3.0\n", &["a 1.0.0 has the licence \"GPL-3.0\""]);
        check_list("a v1.0.0|\n", &["a 1.0.0 has the licence \"\""]);
        check_list("a v1.0.0|CDLA-Permissive-2.0\n", &["CDLA"]);
        let problems = check(&Tree::of(&[(DENY, DENY_TEXT)]), "a v1.0.0|MIT\n");
        assert!(problems[0].what.contains("exception for roots"), "{problems:?}");
        assert_eq!(check(&Tree::of(&[]), "a v1.0.0|MIT\n").len(), 1);
    }

    #[test]
    fn heavy_dependencies_are_built_once() {
        check_list(
            "tokio v1.0.0|MIT\nsyn v2.0.0|MIT\nsyn v3.0.0|MIT\nhashbrown v1.0.0|MIT\nhashbrown v2.0.0|MIT\n",
            &[],
        );
        check_list("tokio v1.0.0|MIT\ntokio v2.0.0|MIT\n", &["tokio is built in versions 1.0.0, 2.0.0"]);
        check_list("ring v0.17.0|MIT\n", &["ring"]);
    }
}
