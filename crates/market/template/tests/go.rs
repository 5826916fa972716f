//! What real Helm (Go's text/template, Sprig) printed for a table of templates, compared with what this crate prints.
//! `tests/go.json` was written by `reference/main.go`.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_template::{Environment, Set, Value, on_big_stack};

/// Errors that begin with Go's position must be equal to the letter, but for the texts of libraries that say the same in other words.
const OTHER_WORDS: [&str; 0] = [];

fn render(template: &str, values: &serde_json::Value) -> Result<String, String> {
    on_big_stack(|| {
        let mut set = Set::default();
        set.parse("c/templates/t", template).map_err(|it| it.to_string())?;
        let data = Value::map([("Values".to_owned(), Value::from_json(values))]);
        let out = set.render("c/templates/t", &data, &Environment::default()).map_err(|it| it.to_string())?;
        Ok(out.replace("<no value>", ""))
    })
    .unwrap()
}

#[test]
fn as_real_helm() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("cases.json")).unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_str(include_str!("go.json")).unwrap();
    let mut wrong = Vec::new();
    for it in &results {
        let template = it["template"].as_str().unwrap();
        let got = render(template, &cases["values"]);
        let same = match (it["error"].as_str(), &got) {
            (None, Ok(got)) => got == it["output"].as_str().unwrap_or_default(),
            (Some(error), Err(got)) => got == error || OTHER_WORDS.contains(&template),
            _ => false,
        };
        if !same {
            wrong.push(format!("{template}\n   go: {} {}\n  got: {got:?}", it["output"], it["error"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), results.len(), wrong.join("\n"));
}
