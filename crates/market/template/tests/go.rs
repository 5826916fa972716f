//! What real Helm (Go's text/template, Sprig) printed for a table of templates, compared with what this crate prints.
//! `tests/go.json` was written by `reference/main.go`.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_template::{Environment, Limits, Set, Value, on_big_stack};

/// Errors that begin with Go's position must be equal to the letter, but for the texts of libraries that say the same in other words.
const OTHER_WORDS: [&str; 1] = ["{{ call .Values.s }}"];

/// Enough for the table, and quickly used up by what is hostile.
const LIMITS: Limits = Limits { depth: 1000, steps: 200_000, output_bytes: 4 << 20 };

fn render(template: &str, values: &serde_json::Value) -> Result<String, String> {
    on_big_stack(|| {
        let mut set = Set::default();
        set.parse("c/templates/t", template).map_err(|it| it.as_helm())?;
        let data = Value::map([("Values".to_owned(), Value::from_json(values))]);
        let out = set
            .render("c/templates/t", &data, &Environment { limits: LIMITS, ..Environment::default() })
            .map_err(|it| it.as_helm())?;
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

#[test]
fn what_a_hostile_template_asks_is_refused() {
    let values = serde_json::json!({});
    let check = |template: &str, expect: &str| {
        let got = render(template, &values).unwrap_err();
        assert!(got.contains(expect), "{template}: {got}");
    };
    check("{{ define \"r\" }}{{ include \"r\" . }}{{ end }}{{ include \"r\" . }}", "nest deeper");
    check("{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}", "nest deeper");
    check("{{ define \"r\" }}{{ tpl \"{{ include \\\"r\\\" . }}\" . }}{{ end }}{{ include \"r\" . }}", "nest deeper");
    check("{{ range 1000000000 }}{{ end }}", "steps");
    check("{{ range 1000000000 }}{{ repeat 1000000 \"x\" }}{{ end }}", "writes more than");
    check("{{ repeat 1000000000 \"xxxxxxxxxx\" }}", "repeat");
    check("{{ until 1000000000 }}", "list of more than");
    check("{{ $d := dict }}{{ set $d \"self\" $d }}", "contains itself");
    check("{{ $x := list }}{{ range 300 }}{{ $x = list $x }}{{ end }}", "nested deeper");
    check("{{ $x := list 1 }}{{ range 64 }}{{ $x = list $x $x }}{{ end }}", "holds more than");
    check(&"{{ if true }}".repeat(5000), "nest deeper");
    check(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)), "nest deeper");
    check("{{ randAlphaNum 5 }}", "no source of randomness");
    check("{{ genCA \"x\" 365 }}", "function \"genCA\" not defined");
    check("{{ now }}", "function \"now\" not defined");
    check("{{ env \"HOME\" }}", "function \"env\" not defined");
    check("{{ 3i }}", "bad number syntax");
}
