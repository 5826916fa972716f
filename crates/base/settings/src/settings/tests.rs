//! Layers, origins, and every mistake a person can make.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use atoll_ids::ByteCount;
use proptest::prelude::{any, proptest};
use proptest::prop_assert;

use super::*;

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key { name, kind, default, doc: "A setting of the tests.", flag: None }
}

fn check_policy(text: &str) -> Result<(), String> {
    match text.split_once('+') {
        Some(("4" | "10", _)) => Ok(()),
        _ => Err("data has to be 4 or 10".to_owned()),
    }
}

const KEYS: &[Key] = &[
    key("name", Kind::Text, None),
    key("storage.capacity", Kind::ByteCount, Some("10GiB")),
    key("storage.path", Kind::Path, None),
    key("storage.direct_io", Kind::Bool, Some("true")),
    key("storage.policy", Kind::Custom { expected: "a policy", example: "4+2", check: check_policy }, Some("4+2")),
    key("net.bind", Kind::List(&Kind::SocketAddr), Some("")),
    key("net.streams_max", Kind::Integer { min: 1, max: 1024 }, Some("64")),
    key("net.timeout", Kind::Duration, Some("30s")),
    key("log.format", Kind::Choice(&["text", "json"]), Some("text")),
];

const FILE: &str = r#"
name = "reef"

[storage]
capacity = "1.5 TiB"      # line 5
direct_io = false
policy = "10+4"

[net]
bind = ["127.0.0.1:0", "[::1]:8000"]
streams_max = 0x10
timeout = "1m30s"
"#;

fn load(sources: Sources) -> Result<Settings, SettingsError> {
    Settings::load(KEYS, &sources)
}

fn of_file(text: &str) -> Result<Settings, SettingsError> {
    load(Sources::new().file("a.toml", text))
}

fn of_variable(name: &str, value: &str) -> Result<Settings, SettingsError> {
    load(Sources::new().environment([(name, value)]))
}

#[test]
fn defaults_hold_when_nothing_is_given() {
    let settings = load(Sources::new()).unwrap();
    assert_eq!(settings.get::<ByteCount>("storage.capacity"), ByteCount(10 << 30));
    assert_eq!(settings.get_optional::<String>("name"), None);
    assert_eq!(settings.get::<Vec<SocketAddr>>("net.bind"), []);
    assert!(settings.iter().all(|entry| *entry.origin == Origin::Default));
}

#[test]
fn a_file_gives_every_kind() {
    let settings = of_file(FILE).unwrap();
    assert_eq!(settings.get::<String>("name"), "reef");
    assert_eq!(settings.get::<ByteCount>("storage.capacity"), ByteCount(3 << 39));
    assert!(!settings.get::<bool>("storage.direct_io"));
    assert_eq!(settings.get::<u16>("net.streams_max"), 16);
    assert_eq!(settings.get::<Duration>("net.timeout"), Duration::from_secs(90));
    let bind: Vec<SocketAddr> = settings.get("net.bind");
    assert_eq!(bind, ["127.0.0.1:0".parse().unwrap(), "[::1]:8000".parse().unwrap()]);
    assert_eq!(settings.origin("storage.capacity").to_string(), "a.toml:5");
    assert_eq!(settings.origin("log.format").to_string(), "default");
}

#[test]
fn layers_hide_each_other_in_order() {
    let sources = Sources::new().file("a.toml", FILE);
    let sources = sources.environment([("ATOLL_STORAGE_CAPACITY", "2T"), ("ATOLL_NAME", "atoll"), ("PATH", "/bin")]);
    let settings = load(sources.flag("name", "lagoon", "--name").flag("name", "motu", "--name")).unwrap();
    let shown: Vec<_> = settings
        .iter()
        .map(|entry| format!("{} = {} ({})", entry.key.name, entry.text.unwrap_or_default(), entry.origin))
        .collect();
    assert_eq!(
        shown,
        [
            "name = motu (flag --name)",
            "storage.capacity = 2 TiB (environment ATOLL_STORAGE_CAPACITY)",
            "storage.path =  (default)",
            "storage.direct_io = false (a.toml:6)",
            "storage.policy = 10+4 (a.toml:7)",
            "net.bind = 127.0.0.1:0,[::1]:8000 (a.toml:10)",
            "net.streams_max = 16 (a.toml:11)",
            "net.timeout = 1m30s (a.toml:12)",
            "log.format = text (default)",
        ]
    );
}

#[test]
fn names_that_do_not_exist() {
    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(of_file(text).unwrap_err().to_string(), expect);
    }
    check(
        "\n[storage]\ncapacty = 1",
        "a.toml:3: there is no setting `storage.capacty`; did you mean `storage.capacity`?",
    );
    check(
        "[storge]\ncapacity = 1",
        "a.toml:2: there is no setting `storge.capacity`; did you mean `storage.capacity`?",
    );
    check("capacity = 1", "a.toml:1: there is no setting `capacity`; did you mean `storage.capacity`?");
    check("net.capacity = 1", "a.toml:1: there is no setting `net.capacity`; did you mean `storage.capacity`?");
    check(
        "storage.direct-io = true",
        "a.toml:1: there is no setting `storage.direct-io`; did you mean `storage.direct_io`?",
    );
    check("Name = 'x'", "a.toml:1: there is no setting `Name`; did you mean `name`?");
    check("color = 'blue'", "a.toml:1: there is no setting `color`");
    check("[colors]", "a.toml:1: there is no setting `colors`");
    check(
        "\"storage.capacity\" = 1",
        "a.toml:1: there is no setting `\"storage.capacity\"`; did you mean `storage.capacity`?",
    );
    check("\"a\\u001bb\" = 1", "a.toml:1: there is no setting `\"a\\u{1b}b\"`");
    check("[[colors]]\n[[colors]]", "a.toml:1: there is no setting `colors`");
    assert!(of_file("[storage]\n[net]").is_ok());
    let long = "x".repeat(500);
    check(&format!("{long} = 1"), &format!("a.toml:1: there is no setting `{}…`", &long[..60]));
}

#[test]
fn values_that_do_not_fit() {
    #[track_caller]
    fn check(text: &str, expect: &str) {
        assert_eq!(of_file(text).unwrap_err().to_string(), format!("a.toml:1: {expect}"));
    }
    check(
        "storage.capacity = 'lots'",
        "`storage.capacity` is \"lots\", but must be an amount of data, for example \"100GiB\"",
    );
    check("storage.capacity = -1", "`storage.capacity` is -1, but must be an amount of data, for example \"100GiB\"");
    check("storage.capacity = 1.5", "`storage.capacity` is 1.5, but must be an amount of data, for example \"100GiB\"");
    check("storage.direct_io = 'yes'", "`storage.direct_io` is \"yes\", but must be true or false, for example true");
    check("net.streams_max = 0", "`net.streams_max` is 0, but must be a whole number from 1 to 1024, for example 1");
    check(
        "net.streams_max = '5'",
        "`net.streams_max` is \"5\", but must be a whole number from 1 to 1024, for example 1",
    );
    check("net.timeout = 30", "`net.timeout` is 30, but must be a duration, for example \"30s\"");
    check("log.format = 'xml'", "`log.format` is \"xml\", but must be one of text, json, for example \"text\"");
    check("storage.path = ''", "`storage.path` is \"\", but must be a path, for example \"/srv/atoll\"");
    let list = "but must be a list, each of it an IP address with a port, for example [\"127.0.0.1:8000\"]";
    check("net.bind = '127.0.0.1:0'", &format!("`net.bind` is \"127.0.0.1:0\", {list}"));
    check("net.bind = ['::1', 5]", &format!("`net.bind` is [\"::1\", 5], {list}"));
    check(
        "storage.policy = '5+2'",
        "`storage.policy` is \"5+2\", but must be a policy, for example \"4+2\" (data has to be 4 or 10)",
    );
    check("[name]", "`name` is a section, but must be text, for example \"some text\"");
    check("[name.first]\nx = 1", "`name` is a section, but must be text, for example \"some text\"");
    check(
        "storage = 5",
        "`storage` is a section with settings of its own, such as `storage.capacity`; it cannot have a value",
    );
}

#[test]
fn variables_are_refused_like_the_file() {
    #[track_caller]
    fn check(name: &str, value: &str, expect: &str) {
        assert_eq!(of_variable(name, value).unwrap_err().to_string(), format!("environment {name}: {expect}"));
    }
    check(
        "ATOLL_STORGE_CAPACITY",
        "1",
        "there is no setting `ATOLL_STORGE_CAPACITY`; did you mean `ATOLL_STORAGE_CAPACITY`?",
    );
    check("ATOLL_CAPACITY", "1", "there is no setting `ATOLL_CAPACITY`; did you mean `ATOLL_STORAGE_CAPACITY`?");
    check("ATOLL_LOG", "debug", "there is no setting `ATOLL_LOG`");
    check("ATOLL_", "1", "there is no setting `ATOLL_`");
    check("ATOLL_NET_TIMEOUT", "30", "`net.timeout` is \"30\", but must be a duration, for example 30s");
    check("ATOLL_NET_TIMEOUT", "", "`net.timeout` is \"\", but must be a duration, for example 30s");
    check(
        "ATOLL_NET_BIND",
        "::1",
        "`net.bind` is \"::1\", but must be a list, each of it an IP address with a port, for example 127.0.0.1:8000",
    );
    assert!(!of_variable("ATOLL_A\u{1b}[31m\n", "").unwrap_err().to_string().contains(char::is_control));
    let sources = Sources::new().environment([("ATOLL_LOG", "debug"), ("ATOLL", "x")]).ignore_variables(&["ATOLL_LOG"]);
    assert!(load(sources).is_ok());
    let bind: Vec<SocketAddr> = of_variable("ATOLL_NET_BIND", "[::1]:1, 127.0.0.1:2").unwrap().get("net.bind");
    assert_eq!(bind.len(), 2);
}

#[test]
fn only_paths_may_be_other_than_unicode() {
    let odd = OsString::from_vec(vec![b'/', 0xff]);
    let settings = load(Sources::new().environment([("ATOLL_STORAGE_PATH", odd.clone())])).unwrap();
    assert_eq!(settings.get_optional::<PathBuf>("storage.path"), Some(PathBuf::from(odd.clone())));
    let error = load(Sources::new().environment([("ATOLL_NAME", odd)])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment ATOLL_NAME: `name` is \"/\u{fffd}\", but must be text, for example some text (it is not Unicode)"
    );
}

#[test]
fn flags_are_refused_like_the_file() {
    let error =
        load(Sources::new().flag("net.timeout", "soon", "--timeout").flag("net.timeot", "1s", "--set")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "flag --timeout: `net.timeout` is \"soon\", but must be a duration, for example 30s\n\
         flag --set: there is no setting `net.timeot`; did you mean `net.timeout`?"
    );
}

#[test]
fn all_mistakes_are_reported_at_once_up_to_a_limit() {
    let sources = Sources::new().file("a.toml", "b = 1\na = 2\n").environment([("ATOLL_X", ""), ("ATOLL_W", "")]);
    let error = load(sources.flag("y", "", "--y")).unwrap_err();
    let places: Vec<_> = error.to_string().lines().map(|line| line.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(places, ["a.toml:1", "a.toml:2", "environment ATOLL_W", "environment ATOLL_X", "flag --y"]);
    assert_eq!(error.problems().len(), 5);

    let many: String = (0..10_000).map(|i| format!("key{i} = 1\n")).collect();
    let error = of_file(&many).unwrap_err();
    assert_eq!(error.problems().len(), 20);
    assert!(error.to_string().ends_with("\nand 9980 more"));
}

/// A mistake that a higher layer hides would come out when that layer goes away.
#[test]
fn hidden_mistakes_count() {
    let sources = Sources::new().file("a.toml", "net.timeout = 'soon'").flag("net.timeout", "1s", "--timeout");
    assert!(load(sources).is_err());
}

#[test]
fn what_is_no_configuration_is_refused() {
    let error = of_file("[storage]\ncapacity = = 1").unwrap_err().to_string();
    assert!(error.starts_with("a.toml:2: this is not TOML: "), "{error}");
    let error = of_file("name = 'a'\nname = 'b'").unwrap_err().to_string();
    assert!(error.starts_with("a.toml:2: this is not TOML: "), "{error}");
    let error = of_file(&" ".repeat(FILE_BYTES_MAX + 1)).unwrap_err().to_string();
    assert_eq!(error, "a.toml has 1048577 bytes; a configuration has at most 1048576");
    assert!(of_file(&" ".repeat(FILE_BYTES_MAX)).is_ok());
    // Deeper than any parser should follow.
    assert!(of_file(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(of_file(&"a.".repeat(100_000)).is_err());
}

#[test]
fn a_refusal_names_the_place() {
    let settings = of_file(FILE).unwrap();
    let error = settings.refuse("storage.capacity", "the disk has only 500 GiB");
    assert_eq!(error.to_string(), "a.toml:5: `storage.capacity` is 1536 GiB: the disk has only 500 GiB");
    assert_eq!(settings.refuse("name", "is needed").to_string(), "a.toml:2: `name` is reef: is needed");
}

#[test]
fn a_wrong_table_is_found_by_any_test() {
    #[track_caller]
    fn check(keys: &'static [Key], expect: &str) {
        let panic = std::panic::catch_unwind(|| Settings::load(keys, &Sources::new())).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), expect);
    }
    check(
        const { &[key("a.b_c", Kind::Bool, None), key("a_b.c", Kind::Bool, None)] },
        "two settings have the same variable: Some([\"ATOLL_A_B_C\", \"ATOLL_A_B_C\"])",
    );
    check(const { &[key("a", Kind::Bool, None), key("a.b", Kind::Bool, None)] }, "a is a setting and a section");
    check(const { &[key("A", Kind::Bool, None)] }, "the setting name \"A\" is not well-formed");
    check(const { &[key("a..b", Kind::Bool, None)] }, "the setting name \"a..b\" is not well-formed");
    check(const { &[key("a", Kind::Bool, Some("maybe"))] }, "the default of a is not of its kind");
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(text in any::<String>()) {
        let _ = of_file(&text);
    }

    /// Text made of what TOML and these settings are made of gets further than random characters.
    #[test]
    fn arbitrary_toml_never_panics(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "storage", "capacity", "name", "net", "bind", ".", "=", " ", "\n", "[", "]", "[[", "]]", "{", "}", "\"", "'", "\\",
                "10GiB", "1", "-", "0x", "e9", "1979-05-27", "true", ",", "#", "é", "\u{0}", "\r\n", "inf", "_",
            ]),
            0..40,
        )
    ) {
        let _ = of_file(&pieces.concat());
    }

    #[test]
    fn arbitrary_values_never_panic_and_are_shown_safely(at in 0..KEYS.len(), value in any::<String>()) {
        match of_variable(&KEYS[at].variable(), &value) {
            // What was accepted is shown in a form that is accepted again as the same.
            Ok(settings) => {
                let text = settings.iter().nth(at).unwrap().text.unwrap();
                let again = of_variable(&KEYS[at].variable(), &text).unwrap();
                prop_assert!(again.iter().nth(at).unwrap().text.unwrap() == text);
            }
            Err(error) => prop_assert!(!error.to_string().contains(|c: char| c.is_control())),
        }
    }
}
