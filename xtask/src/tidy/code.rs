//! Rules on source files: purity, `unsafe`, module docs, and sizes.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{
    Problem, Tree,
    crates::{UNSAFE_CRATE, members},
    problem, rust,
};

/// Crates that promise to do no I/O, so that properties and simulations can run them as they are.
const PURE: &[&str] = &[
    "crates/base/ids",
    "crates/evdc/merge",
    "crates/evdc/scheduler",
    "crates/market/template",
    "crates/net/find",
    "crates/net/relay",
    "crates/net/route",
    "crates/net/fast",
    "crates/zstor/erasure",
    "crates/zstor/codec",
    "crates/zstor/placement",
];

/// Libraries that do I/O or schedule it.
const IO_LIBRARIES: [&str; 9] = ["axum", "fjall", "hyper", "iroh", "libc", "mio", "rustix", "socket2", "tokio"];

/// Modules of the standard library that do I/O. Of `net` the addresses are plain values, so its sockets are listed by name.
const IO_MODULES: [&str; 3] = ["fs", "os", "process"];

/// Types of `std::net` that do I/O.
const SOCKETS: [&str; 4] = ["TcpListener", "TcpStream", "ToSocketAddrs", "UdpSocket"];

/// Longest file in lines; past it a file says two things.
const FILE_LINES_MAX: usize = 800;

/// Longest function in lines, tests aside; past it nobody sees its beginning and end at once.
const FUNCTION_LINES_MAX: usize = 70;

/// Fewest words of a file's own documentation: less than this is a title.
const DOC_WORDS_MIN: usize = 4;

/// Where files and functions that are longer are recorded, with the length they may not exceed.
const RATCHET: &str = "xtask/ratchet.toml";

/// Rule `pure`.
pub(super) fn pure(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for member in members(tree).iter().filter(|member| PURE.contains(&member.dir.as_str())) {
        for library in member.dependencies("dependencies").intersection(&IO_LIBRARIES.into()) {
            let what = format!("{} does no I/O, so it must not depend on {library}", member.dir);
            problems.push(problem("pure", format!("{}/Cargo.toml", member.dir), what));
        }
    }
    for (path, source) in tree.sources() {
        if !PURE.iter().any(|pure| path.starts_with(&format!("{pure}/src/"))) || is_test(path) {
            continue;
        }
        let code = rust::without_tests(&rust::code_only(source));
        let modules = std_modules(&code).into_iter().filter(|(_, module)| IO_MODULES.contains(module));
        let sockets = rust::words(&code).filter(|(_, word)| SOCKETS.contains(word));
        for (offset, name) in modules.chain(sockets) {
            let place = format!("{path}:{}", rust::line_of(&code, offset));
            problems.push(problem("pure", place, format!("this crate does no I/O, so it must not use {name}")));
        }
    }
    problems
}

/// The modules of `std` that are named, in paths and in groups of imports.
fn std_modules(code: &str) -> Vec<(usize, &str)> {
    let mut modules = Vec::new();
    for (start, word) in rust::words(code) {
        let Some(rest) = code[start + word.len()..].strip_prefix("::").filter(|_| word == "std") else { continue };
        let rest = match rest.strip_prefix('{') {
            Some(group) => group,
            None => rest.split_once(|it: char| !it.is_alphanumeric() && it != '_').map_or(rest, |(name, _)| name),
        };
        let mut depth = 0_usize;
        let group_end = rest.find(|it| {
            depth += usize::from(it == '{');
            let closes = it == '}' && depth == 0;
            depth = depth.saturating_sub(usize::from(it == '}'));
            closes
        });
        modules.extend(top_level(&rest[..group_end.unwrap_or(rest.len())]).into_iter().map(|name| (start, name)));
    }
    modules
}

/// The first name of each item of an import group.
fn top_level(group: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let items = group.split(|it| {
        depth += usize::from(it == '{');
        depth = depth.saturating_sub(usize::from(it == '}'));
        it == ',' && depth == 0
    });
    items.filter_map(|item| rust::words(item).next().map(|(_, name)| name)).collect()
}

/// Rule `unsafe`.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, source) in tree.sources().filter(|(path, _)| !path.starts_with(&format!("{UNSAFE_CRATE}/"))) {
        let code = rust::code_only(source);
        for (offset, _) in rust::words(&code).filter(|(_, word)| *word == "unsafe") {
            let place = format!("{path}:{}", rust::line_of(&code, offset));
            problems.push(problem("unsafe", place, format!("`unsafe` belongs in {UNSAFE_CRATE} only")));
        }
    }
    problems
}

/// Rule `docs`.
pub(super) fn docs(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, source) in tree.sources() {
        if path.ends_with("/mod.rs") {
            problems.push(problem("docs", path, "name the file after its module: foo.rs beside foo/, never mod.rs"));
        }
        if doc_words(source) < DOC_WORDS_MIN {
            problems.push(problem("docs", path, "open the file with a //! sentence that says what it is for"));
        }
    }
    problems
}

/// Words in the documentation the file begins with.
fn doc_words(source: &str) -> usize {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.flat_map(str::split_whitespace).count()
}

/// Rule `size`.
pub(super) fn sizes(tree: &Tree) -> Vec<Problem> {
    let ratchet: Table = match tree.text(RATCHET).unwrap_or_default().parse() {
        Ok(ratchet) => ratchet,
        Err(error) => return vec![problem("size", RATCHET, error.to_string())],
    };
    let mut files = BTreeMap::new();
    let mut functions = BTreeMap::new();
    for (path, source) in tree.sources() {
        files.insert(path.to_owned(), source.lines().count());
        if is_test(path) {
            continue;
        }
        for function in rust::functions(&rust::without_tests(&rust::code_only(source))) {
            let longest = functions.entry(format!("{path}::{}", function.name)).or_default();
            *longest = function.lines.max(*longest);
        }
    }
    let mut problems = measure("files", &files, FILE_LINES_MAX, &ratchet);
    problems.extend(measure("functions", &functions, FUNCTION_LINES_MAX, &ratchet));
    problems
}

/// Compares lengths with the limit and with what is recorded in the ratchet's table `kind`.
fn measure(kind: &str, lengths: &BTreeMap<String, usize>, limit: usize, ratchet: &Table) -> Vec<Problem> {
    let empty = Table::new();
    let recorded = ratchet.get(kind).and_then(Value::as_table).unwrap_or(&empty);
    let mut problems = Vec::new();
    for (name, lines) in lengths {
        match recorded.get(name).and_then(Value::as_integer).and_then(|ceiling| usize::try_from(ceiling).ok()) {
            None if *lines > limit => {
                problems.push(problem("size", name, format!("{lines} lines; the limit for {kind} is {limit}")));
            }
            Some(ceiling) if *lines > ceiling => {
                let what = format!("grew to {lines} lines; {RATCHET} holds it at {ceiling}");
                problems.push(problem("size", name, what));
            }
            Some(ceiling) if *lines < ceiling => {
                let advice = if *lines > limit { format!("record {lines}") } else { "remove the entry".to_owned() };
                let what = format!("shrank to {lines} lines: in {RATCHET}, {advice} instead of {ceiling}");
                problems.push(problem("size", name, what));
            }
            _ => {}
        }
    }
    let gone = recorded.keys().filter(|name| !lengths.contains_key(*name));
    problems.extend(gone.map(|name| problem("size", RATCHET, format!("{name} is gone; remove the entry"))));
    problems
}

/// Whether a file holds nothing but tests or benches.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || ["tests", "benches"].iter().any(|dir| path.split('/').any(|part| part == *dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Tree) -> Vec<Problem>, files: &[(&str, &str)], words: &[&str]) {
        let problems = rule(&Tree::of(files));
        assert_eq!(problems.len(), words.len(), "{problems:#?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.to_string().contains(words), "{problem}: not about {words}");
        }
    }

    #[test]
    fn pure_crates_have_no_means_of_io() {
        let source = |code| ("crates/zstor/codec/src/lib.rs", code);
        check(pure, &[("crates/zstor/codec/Cargo.toml", "[dependencies]\ntokio = \"1\"\nserde = \"1\"\n")], &["tokio"]);
        check(pure, &[("crates/zstor/shard/Cargo.toml", "[dependencies]\ntokio = \"1\"\n")], &[]);
        check(pure, &[source("use std::fs::File;")], &["lib.rs:1"]);
        check(pure, &[source("use std::{fmt, collections::{fs, x}};\n// std::fs\nuse std::net::Ipv6Addr;")], &[]);
        check(pure, &[source("\nuse std::{fmt, io::{self, Read}, fs};")], &["lib.rs:2"]);
        check(pure, &[source("fn f() { std::process::exit(1) }")], &["process"]);
        check(pure, &[source("use std::net::{Ipv6Addr, TcpStream};")], &["TcpStream"]);
        check(pure, &[source("#[cfg(test)]\nmod tests { use std::fs; }")], &[]);
        check(pure, &[("crates/zstor/codec/benches/b.rs", "use std::fs;")], &[]);
    }

    #[test]
    fn unsafe_is_in_one_crate() {
        let code = "//! unsafe\nfn f() { unsafe { g() } }\n#![forbid(unsafe_code)]\n";
        check(unsafe_code, &[("crates/zstor/erasure/src/lib.rs", code)], &[]);
        check(unsafe_code, &[("crates/zstor/codec/src/lib.rs", code)], &["lib.rs:2"]);
    }

    #[test]
    fn files_say_what_they_are_for() {
        check(docs, &[("a.rs", "//! Turns one thing\n//! into another.\n\nfn f() {}\n")], &[]);
        check(docs, &[("a.rs", "//! Helpers\n//!\n//! which do one thing or another.\n")], &[]);
        check(docs, &[("a.rs", "use x;\n//! Turns one thing into another.\n")], &["a.rs"]);
        check(
            docs,
            &[("a.rs", "//! Helpers for things\n\n// This is not for readers of the documentation.\n")],
            &["a.rs"],
        );
        check(docs, &[("a.rs", "")], &["a.rs"]);
        check(docs, &[("a/mod.rs", "//! Turns one thing into another.\n")], &["never mod.rs"]);
    }

    #[test]
    fn files_and_functions_stay_short() {
        let file = |lines: usize| "\n".repeat(lines);
        check(sizes, &[("a.rs", &file(800))], &[]);
        check(sizes, &[("a.rs", &file(801))], &["limit for files is 800"]);
        let function = |lines: usize| format!("fn f() {{{}}}\n", "\n".repeat(lines - 1));
        check(sizes, &[("a.rs", &function(70))], &[]);
        check(sizes, &[("a.rs", &function(71))], &["a.rs::f: 71 lines"]);
        check(sizes, &[("tests/a.rs", &function(71))], &[]);
        let in_test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(71));
        check(sizes, &[("a.rs", &in_test)], &[]);
    }

    #[test]
    fn the_ratchet_only_falls() {
        let ratchet = (RATCHET, "[files]\n\"a.rs\" = 850\n");
        let with = |lines: usize, words: &[&str]| check(sizes, &[ratchet, ("a.rs", &"\n".repeat(lines))], words);
        with(850, &[]);
        with(851, &["grew to 851"]);
        with(820, &["record 820"]);
        with(800, &["remove the entry"]);
        check(sizes, &[ratchet], &["a.rs is gone"]);
        check(sizes, &[(RATCHET, "[files")], &["ratchet.toml"]);
    }
}
