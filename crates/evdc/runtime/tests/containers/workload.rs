//! What runs in the containers.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

pub(crate) fn main(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["say", out, err, code] => {
            say(out);
            eprintln!("{err}");
            return ExitCode::from(code.parse::<u8>().unwrap());
        }
        ["env", name] => say(&std::env::var(name).unwrap_or_default()),
        ["echo"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            say(&text);
        }
        ["terminal"] => {
            let whole =
                std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
            say("ready");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
            say(&format!("{}: {}", if whole { "all three are terminals" } else { "no terminal" }, line.trim()));
        }
        ["sleep"] => {
            say("ready");
            std::thread::sleep(Duration::from_secs(600));
        }
        ["tick"] => {
            for number in 0..6000 {
                say(&format!("tick {number}"));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        ["eat", mebibytes] => {
            let mut eaten = Vec::new();
            for _ in 0..mebibytes.parse::<usize>().unwrap() {
                // Not zeros: those would cost nothing.
                eaten.push(vec![7_u8; 1 << 20]);
            }
            say(&format!("ate {}", eaten.len()));
            if words.len() == 2 && std::env::var_os("STAY").is_some() {
                std::thread::sleep(Duration::from_secs(600));
            }
        }
        ["spawn", count] => {
            let mut children = Vec::new();
            for _ in 0..count.parse::<usize>().unwrap() {
                let mut child = Command::new("/proc/self/exe");
                match child.args(["workload", "sleep"]).stdout(Stdio::null()).spawn() {
                    Ok(child) => children.push(child),
                    Err(_) => break,
                }
            }
            say(&format!("spawned {}", children.len()));
        }
        ["look"] => look(),
        ["try", path] => match fs::write(path, "x") {
            Ok(()) => say("written"),
            Err(error) => say(&format!("refused: {error}")),
        },
        other => panic!("no such work: {other:?}"),
    }
    ExitCode::SUCCESS
}

/// Everything about where it is, one fact a line.
fn look() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let link = |path: &str| fs::read_link(path).map(|path| path.display().to_string()).unwrap_or_default();
    let status = read("/proc/self/status");
    for key in ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:"] {
        let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        say(&format!("{key} {}", value.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    say(&format!("hostname: {}", read("/proc/sys/kernel/hostname")));
    for kind in ["net", "ipc", "uts", "pid", "mnt"] {
        say(&format!("ns-{kind}: {}", link(&format!("/proc/self/ns/{kind}"))));
    }
    say(&format!("pid: {}", std::process::id()));
    say(&format!("cwd: {}", std::env::current_dir().unwrap().display()));
    let interfaces = read("/proc/net/dev")
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next().map(|name| name.trim().to_owned()))
        .collect::<Vec<_>>();
    say(&format!("interfaces: {}", interfaces.join(",")));
    say(&format!("interrupts: {}", read("/proc/interrupts").len()));
    say(&format!("score: {}", read("/proc/self/oom_score_adj")));
    let open =
        fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // The one that reads the folder is the last.
    let mut open: Vec<u32> = open.filter_map(|name| name.parse().ok()).collect();
    open.sort_unstable();
    say(&format!("descriptors: {open:?}"));
    let processes =
        fs::read_dir("/proc").unwrap().flatten().filter(|it| it.file_name().to_string_lossy().parse::<u32>().is_ok());
    say(&format!("processes: {}", processes.count()));
}
