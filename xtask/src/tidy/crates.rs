//! Rules on crates as wholes: who depends on whom, that the architecture page names them all, and what every manifest must have.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::{Problem, Tree, problem, rust};

/// The crates or folders of crates, and what each may depend on. A crate that matches no line, or a dependency on none of those listed, is a problem:
/// a new crate is put on the map before it is used.
const LAYERS: &[(&str, &[&str])] = &[
    ("crates/base", &["crates/base"]),
    ("crates/net/find", &["crates/base"]),
    ("crates/net/lane", &["crates/base"]),
    ("crates/net/fast", &["crates/base"]),
    ("crates/net/relay", &["crates/base"]),
    ("crates/net/link", &["crates/base", "crates/net/fast", "crates/net/find", "crates/net/lane", "crates/net/relay"]),
    ("crates/net/tun", &["crates/base", "crates/net/fast"]),
    ("crates/net/route", &["crates/base"]),
    ("crates/net/names", &["crates/base"]),
    ("crates/net/proxy", &["crates/base", "crates/net/link"]),
    ("crates/net/bus", &["crates/base"]),
    ("crates/zstor/erasure", &[]),
    ("crates/zstor/codec", &["crates/base", "crates/zstor/erasure"]),
    ("crates/zstor/placement", &["crates/base"]),
    ("crates/zstor/segments", &["crates/base"]),
    ("crates/zstor/shard", &["crates/base", "crates/zstor/segments"]),
    ("crates/zstor/engine", &["crates/base", "crates/zstor/codec", "crates/zstor/placement", "crates/zstor/shard"]),
    ("crates/views/fs", &["crates/base", "crates/zstor/engine"]),
    ("crates/evdc/merge", &[]),
    ("crates/evdc/scheduler", &["crates/base"]),
    ("crates/evdc/apiserver", &["crates/base", "crates/evdc/merge"]),
    ("crates/evdc/controllers", &["crates/base", "crates/evdc/scheduler"]),
    ("crates/evdc/images", &["crates/base"]),
    ("crates/evdc/runtime", &["crates/base", "crates/evdc/images"]),
    ("crates/evdc/podnet", &["crates/base"]),
    ("crates/evdc/kubelet", &["crates/base"]),
    (
        "crates/evdc/agent",
        &["crates/base", "crates/evdc/images", "crates/evdc/kubelet", "crates/evdc/runtime", "crates/evdc/podnet"],
    ),
    ("crates/evdc/lease", &["crates/base"]),
    ("crates/gateway", &["crates/base"]),
    ("crates/market/template", &[]),
    ("crates/market/chart", &["crates/market/template"]),
    ("crates/market/apps", &["crates/base", "crates/market/chart"]),
    ("crates/iac", &["crates/base"]),
    ("crates/dashboard", &["crates/base", "crates/control"]),
    ("crates/control", &["crates/base"]),
    ("crates/lab", &["crates/base"]),
    ("crates/grid", &["crates/base", "crates/control", "crates/lab"]),
    (
        "crates/cloud",
        &[
            "crates/base",
            "crates/net/link",
            "crates/net/tun",
            "crates/zstor/engine",
            "crates/zstor/shard",
            "crates/views",
            "crates/evdc",
            "crates/gateway",
        ],
    ),
    (
        "crates/deploy",
        &[
            "crates/base",
            "crates/net/link",
            // Its tests bring charts to a real API server.
            "crates/evdc/apiserver",
            "crates/evdc/images",
            "crates/evdc/lease",
            "crates/market",
            "crates/iac",
            "crates/cloud",
        ],
    ),
    (
        "crates/node",
        &[
            "crates/base",
            "crates/net",
            "crates/zstor",
            "crates/views",
            "crates/evdc",
            "crates/gateway",
            "crates/market",
            "crates/iac",
            "crates/dashboard",
            "crates/cloud",
            "crates/deploy",
            "crates/control",
        ],
    ),
    // The container helper is this binary again, single-threaded, before anything else of it runs; hence its runtime.
    ("bins", &["crates/base", "crates/control", "crates/evdc/runtime", "crates/grid", "crates/market", "crates/node"]),
    ("testing/fuzz", &["crates"]),
    ("testing/sim", &["crates/base", "crates/net/find", "crates/net/route"]),
    ("testing/netlab", &["crates/lab"]),
    ("xtask", &[]),
];

/// What the tests of any crate may use besides its own area.
const TEST_TOOLS: [&str; 3] = ["crates/grid", "crates/lab", "testing"];

/// Programs; their tests run the whole and may also speak to it as a foreign peer would, so they may use any crate.
const PROGRAMS: &str = "bins";

/// The one crate with lints of its own, because the workspace forbids `unsafe`.
pub(super) const UNSAFE_CRATE: &str = "crates/zstor/erasure";

/// A member of the workspace.
pub(super) struct Member {
    /// Its folder.
    pub(super) dir: String,
    pub(super) manifest: Table,
}

impl Member {
    fn name(&self) -> Option<&str> {
        self.manifest.get("package")?.get("name")?.as_str()
    }

    /// Names under this key (`dependencies`, `dev-dependencies`, …), also those of particular targets.
    pub(super) fn dependencies(&self, key: &str) -> BTreeSet<&str> {
        let targets = self.manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
        let tables = targets.filter_map(|target| target.get(key)).chain(self.manifest.get(key));
        tables.filter_map(Value::as_table).flat_map(Table::keys).map(String::as_str).collect()
    }
}

/// All crates of the tree; a manifest that does not parse is cargo's to report.
pub(super) fn members(tree: &Tree) -> Vec<Member> {
    let manifests = tree.texts().filter_map(|(path, text)| Some((path.strip_suffix("/Cargo.toml")?, text)));
    manifests.filter_map(|(dir, text)| Some(Member { dir: dir.to_owned(), manifest: text.parse().ok()? })).collect()
}

/// Rule `layers`.
pub(super) fn layers(tree: &Tree) -> Vec<Problem> {
    let members = members(tree);
    let dirs: BTreeMap<&str, &str> = members.iter().filter_map(|it| Some((it.name()?, it.dir.as_str()))).collect();
    members.iter().flat_map(|member| layers_of(member, &dirs)).collect()
}

fn layers_of(member: &Member, dirs: &BTreeMap<&str, &str>) -> Vec<Problem> {
    let place = format!("{}/Cargo.toml", member.dir);
    let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| is_in(&member.dir, layer)) else {
        return vec![problem("layers", place, "this crate has no place in the layers of xtask/src/tidy/crates.rs")];
    };
    let mut problems = Vec::new();
    let mut check = |key: &str, allowed: &[&str]| {
        for dependency in member.dependencies(key) {
            let Some(dir) = dirs.get(dependency) else { continue };
            if !allowed.iter().any(|layer| is_in(dir, layer)) {
                let what = format!("{} must not depend on {dir} ({key})", member.dir);
                problems.push(problem("layers", place.as_str(), what));
            }
        }
    };
    check("dependencies", allowed);
    check("build-dependencies", allowed);
    let mut for_tests = allowed.to_vec();
    for_tests.push(area_of(&member.dir));
    for_tests.extend(TEST_TOOLS);
    if is_in(&member.dir, PROGRAMS) {
        for_tests.push("crates");
    }
    check("dev-dependencies", &for_tests);
    problems
}

fn is_in(dir: &str, layer: &str) -> bool {
    dir.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The folder that holds the crate's siblings, such as `crates/zstor`; the crate's own for one that stands alone.
fn area_of(dir: &str) -> &str {
    match dir.rsplit_once('/') {
        Some((area, _)) if area.contains('/') => area,
        _ => dir,
    }
}

/// Rule `crates`.
pub(super) fn table_and_manifests(tree: &Tree) -> Vec<Problem> {
    let members = members(tree);
    let mut problems: Vec<Problem> = members.iter().flat_map(manifest_problems).collect();
    problems.extend(members.iter().flat_map(|member| unused(member, tree)));
    let listed = listed_crates(tree.text("ARCHITECTURE.md").unwrap_or_default());
    let existing: BTreeSet<String> =
        members.iter().filter_map(|member| Some(member.dir.strip_prefix("crates/")?.to_owned())).collect();
    for missing in existing.difference(&listed) {
        problems.push(problem("crates", "ARCHITECTURE.md", format!("the table of crates lacks `{missing}`")));
    }
    for gone in listed.difference(&existing) {
        problems.push(problem("crates", "ARCHITECTURE.md", format!("there is no crate crates/{gone}")));
    }
    problems
}

/// The names in the table whose first column is headed "crate".
fn listed_crates(page: &str) -> BTreeSet<String> {
    let table = page.lines().skip_while(|line| !line.starts_with("| crate ")).take_while(|line| line.starts_with('|'));
    table.filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

fn manifest_problems(member: &Member) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut report = |what: &str| problems.push(problem("crates", format!("{}/Cargo.toml", member.dir), what));
    let package = member.manifest.get("package");
    let description = package.and_then(|package| package.get("description")).and_then(Value::as_str);
    if description.unwrap_or_default().trim().is_empty() {
        report("say in `description` what this crate is");
    }
    let lints = member.manifest.get("lints");
    let inherits = lints.and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) == Some(true);
    if member.dir == UNSAFE_CRATE {
        let undocumented = lints.and_then(|lints| lints.get("clippy")?.get("undocumented_unsafe_blocks")?.as_str());
        if undocumented != Some("deny") {
            report("deny clippy::undocumented_unsafe_blocks: every `unsafe` block says why it is sound");
        }
    } else if !inherits {
        report("take the workspace's lints: [lints] workspace = true");
    }
    problems
}

/// Dependencies that no source of the crate names: they cost everyone's build time.
fn unused(member: &Member, tree: &Tree) -> Vec<Problem> {
    let own = format!("{}/", member.dir);
    let sources: Vec<&str> =
        tree.sources().filter(|(path, _)| path.starts_with(&own)).map(|(_, source)| source).collect();
    let named: BTreeSet<&str> = sources.iter().flat_map(|source| rust::words(source)).map(|(_, word)| word).collect();
    let all = ["dependencies", "dev-dependencies", "build-dependencies"].map(|key| member.dependencies(key));
    let unnamed = all.iter().flatten().filter(|name| !named.contains(name.replace('-', "_").as_str()));
    let place = format!("{}/Cargo.toml", member.dir);
    unnamed.map(|name| problem("crates", place.as_str(), format!("nothing here uses {name}; remove it"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\ndescription = \"Something\"\n[lints]\nworkspace = true\n{rest}")
    }

    fn found(problems: &[Problem], words: &[&str]) {
        assert_eq!(problems.len(), words.len(), "{problems:#?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.to_string().contains(words), "{problem}: not about {words}");
        }
    }

    #[test]
    fn arrows_point_down() {
        let with = |dir: &str, rest: &str| {
            let manifest_path = format!("{dir}/Cargo.toml");
            layers(&Tree::of(&[
                ("crates/base/ids/Cargo.toml", &manifest("ids", "")),
                ("crates/net/link/Cargo.toml", &manifest("link", "[dependencies]\nids.workspace = true\n")),
                ("crates/zstor/segments/Cargo.toml", &manifest("segments", "")),
                ("crates/grid/Cargo.toml", &manifest("grid", "")),
                (&manifest_path, &manifest("it", rest)),
            ]))
        };
        found(&with("crates/zstor/engine", "[dependencies]\nids.workspace = true\nserde = \"1\"\n"), &[]);
        found(
            &with("crates/zstor/engine", "[dependencies]\nlink.workspace = true\n"),
            &["must not depend on crates/net/link"],
        );
        found(&with("crates/zstor/engine", "[dependencies]\nsegments.workspace = true\n"), &["crates/zstor/segments"]);
        found(
            &with("crates/zstor/engine", "[dev-dependencies]\nsegments.workspace = true\ngrid.workspace = true\n"),
            &[],
        );
        found(&with("crates/zstor/engine", "[dev-dependencies]\nlink.workspace = true\n"), &["(dev-dependencies)"]);
        found(
            &with("crates/base/keys", "[target.'cfg(unix)'.dependencies]\nlink.workspace = true\n"),
            &["crates/net/link"],
        );
        found(&with("crates/node", "[dependencies]\nlink.workspace = true\nsegments.workspace = true\n"), &[]);
        found(&with("crates/basement", ""), &["no place in the layers"]);
        found(&with("bins/it", "[dev-dependencies]\nlink.workspace = true\n"), &[]);
        found(&with("bins/it", "[dependencies]\nlink.workspace = true\n"), &["bins/it must not depend"]);
    }

    #[test]
    fn the_map_and_the_crates_agree() {
        let page = "| crate | what |\n|---|---|\n| `base/ids` | ids |\n| `node` | node |\n\n| `other` | table |\n";
        let tree = Tree::of(&[
            ("ARCHITECTURE.md", page),
            ("crates/base/ids/Cargo.toml", &manifest("ids", "")),
            ("crates/base/keys/Cargo.toml", &manifest("keys", "")),
        ]);
        found(&table_and_manifests(&tree), &["lacks `base/keys`", "no crate crates/node"]);
    }

    #[test]
    fn dependencies_that_nothing_uses_are_named() {
        let text =
            manifest("it", "[dependencies]\nserde = \"1\"\nfutures-util = \"1\"\n[dev-dependencies]\nbytes = \"1\"\n");
        let with = |path: &str, source: &str| {
            table_and_manifests(&Tree::of(&[
                ("bins/it/Cargo.toml", &text),
                ("bins/it/src/main.rs", "use serde::S;"),
                (path, source),
            ]))
        };
        found(&with("bins/it/tests/t.rs", "use bytes::Bytes;\nuse futures_util::F;"), &[]);
        found(&with("bins/other/src/main.rs", "use bytes::Bytes;"), &["uses futures-util", "uses bytes"]);
    }

    #[test]
    fn manifests_say_what_and_take_the_lints() {
        let check = |dir: &str, text: &str, words: &[&str]| {
            let path = format!("{dir}/Cargo.toml");
            found(&table_and_manifests(&Tree::of(&[(&path, text)])), words);
        };
        check("bins/it", &manifest("it", ""), &[]);
        check("bins/it", "[package]\nname = \"it\"\ndescription = \"\"\n", &["description", "workspace's lints"]);
        let own = "[package]\nname = \"it\"\ndescription = \"Kernels\"\n[lints.clippy]\nundocumented_unsafe_blocks = ";
        let listed = "| crate | what |\n| `zstor/erasure` | kernels |\n";
        let erasure = |level: &str| {
            let text = format!("{own}\"{level}\"\n");
            let path = format!("{UNSAFE_CRATE}/Cargo.toml");
            table_and_manifests(&Tree::of(&[("ARCHITECTURE.md", listed), (&path, &text)]))
        };
        found(&erasure("deny"), &[]);
        found(&erasure("warn"), &["undocumented_unsafe_blocks"]);
    }
}
