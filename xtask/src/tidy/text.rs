//! Rules on every text file: no note to self where work should be, no path of one machine, no unresolved merge, a newline at the end.

use super::{Problem, Tree, problem, rust::line_of};

/// Marks of work that was put off. Spelt in parts, since this file is checked too.
const NOTES: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
];

/// Beginnings of paths that exist on one machine only. Spelt in parts, as above.
const MACHINE_PATHS: [&str; 2] = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// How a merge marks the beginning of what it could not decide.
const CONFLICT: &str = concat!("<<<<", "<<< ");

/// Rule `words`.
pub(super) fn words(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, text) in tree.texts() {
        for note in NOTES {
            for offset in offsets(text, note, |before| before.is_alphanumeric() || before == '_') {
                // A longer word, such as the pattern of a temporary name.
                let after = text[offset + note.len()..].chars().next();
                if after.is_some_and(|it| it.is_alphanumeric() || it == '_') && !note.ends_with('!') {
                    continue;
                }
                let place = format!("{path}:{}", line_of(text, offset));
                problems.push(problem("words", place, format!("do it now or write it down elsewhere: {note}")));
            }
        }
        for machine in MACHINE_PATHS {
            for offset in offsets(text, machine, continues_path) {
                let place = format!("{path}:{}", line_of(text, offset));
                problems.push(problem("words", place, format!("a path of one machine: {machine}")));
            }
        }
        if let Some(at) = text.lines().position(|line| line.starts_with(CONFLICT)) {
            problems.push(problem("words", format!("{path}:{}", at + 1), "resolve the conflict of a merge"));
        }
        if !text.is_empty() && !text.ends_with('\n') {
            problems.push(problem("words", path, "end the file with a newline"));
        }
    }
    problems
}

/// Where `what` occurs, except where the character before makes it part of something else.
fn offsets(text: &str, what: &'static str, joined: fn(char) -> bool) -> impl Iterator<Item = usize> {
    let found = text.match_indices(what).map(|(offset, _)| offset);
    found.filter(move |offset| !text[..*offset].chars().next_back().is_some_and(joined))
}

/// Whether a `/` after this character continues a path instead of starting one.
fn continues_path(before: char) -> bool {
    before.is_alphanumeric() || "_-.~/}*>".contains(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_and_look_alikes_are_not() {
        let check = |text: &str, expected: usize| {
            let found = words(&Tree::of(&[("a.txt", text)]));
            assert_eq!(found.len(), expected, "{text}: {found:#?}");
        };
        for note in NOTES {
            check(&format!("// {note} later\n"), 1);
            check(&format!("({note})\n"), 1);
        }
        check(concat!("mktemp XX", "XXXX and foo_TO", "DO\n"), 0);
        for path in MACHINE_PATHS {
            check(&format!("\"{path}x\"\n"), 1);
            check(&format!("some{path}x and ${{DIR}}{path}x\n"), 0);
        }
        check(&format!("one\n{CONFLICT}HEAD\ntwo\n"), 1);
        check("no newline", 1);
        check("", 0);
    }

    #[test]
    fn the_line_is_named() {
        let found = words(&Tree::of(&[("a.txt", concat!("one\ntwo\nFIX", "ME\n"))]));
        assert_eq!(found[0].place, "a.txt:3");
    }
}
