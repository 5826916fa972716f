//! From made to removed.

use std::io::{Read, Write};
use std::time::Duration;

use atoll_runtime::logs::Stream;
use atoll_runtime::{
    ContainerSpec, ErrorKind, ExecExit, ExecIo, ExecSpec, ExitReason, Runtime, RuntimeError, Signal, State, Target,
    User,
};

use crate::bench::{Bench, sandbox};

fn exec(words: &[&str]) -> ExecSpec {
    let args = ["/bin/workload", "workload"].into_iter().chain(words.iter().copied()).map(str::to_owned).collect();
    ExecSpec { args, env: Vec::new(), cwd: None, user: None, timeout: None }
}

pub(crate) async fn output_and_exit_code(bench: &Bench) {
    let id = bench.run(bench.container("said", &["say", "hello", "oh no", "3"])).await;
    let exit = bench.wait(&id).await;
    assert_eq!((exit.code, exit.signal, exit.reason), (3, None, ExitReason::Error));
    assert_eq!(bench.output("said", Stream::Stdout), "hello\n");
    assert_eq!(bench.output("said", Stream::Stderr), "oh no\n");
    let status = bench.runtime.status(&id).await.unwrap();
    assert_eq!((status.attempt, status.pid), (2, None));
    assert!(matches!(status.state, State::Exited(found) if found == exit));
    assert!(status.started_at.unwrap() <= exit.finished_at);
    bench.runtime.delete(&id).await.unwrap();
    bench.runtime.delete(&id).await.unwrap();
    assert_eq!(bench.runtime.status(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    bench.remove(&"said".parse().unwrap(), &["said"]).await;
    assert!(bench.path("logs/said/0.log").exists(), "the log is the caller's to remove");
}

pub(crate) async fn what_cannot_start_says_why(bench: &Bench) {
    bench.runtime.create_sandbox(sandbox("bad")).await.unwrap();
    let check = async |change: fn(&mut ContainerSpec), kind: ErrorKind, words: &str| {
        let mut spec = bench.container("bad", &["sleep"]);
        change(&mut spec);
        let error = bench.runtime.create(spec).await.unwrap_err();
        assert!(error.to_string().contains(words) && error.kind() == kind, "{error}");
        assert!(bench.runtime.containers().await.unwrap().iter().all(|it| it.id.as_str() != "bad"));
    };
    check(|spec| spec.args = vec!["/bin/nothing".to_owned()], ErrorKind::Invalid, "/bin/nothing").await;
    check(|spec| spec.args.clear(), ErrorKind::Invalid, "no program").await;
    check(|spec| spec.cwd = "relative".into(), ErrorKind::Invalid, "absolute").await;
    check(|spec| spec.rootfs = "/nowhere/at/all".into(), ErrorKind::Invalid, "could not be created").await;
    check(|spec| spec.sandbox = "other".parse().unwrap(), ErrorKind::NotFound, "sandbox other").await;
    check(|spec| spec.env.push(("A=B".to_owned(), String::new())), ErrorKind::Invalid, "name of a variable").await;
    check(|spec| drop(spec.sysctls.insert("kernel.panic".to_owned(), "1".to_owned())), ErrorKind::Invalid, "host")
        .await;
    check(|spec| spec.capabilities.add.push("SYS_MODULE".to_owned()), ErrorKind::Invalid, "SYS_MODULE").await;
    bench.remove(&"bad".parse().unwrap(), &["bad"]).await;
}

pub(crate) async fn signals(bench: &Bench) {
    let id = bench.run(bench.container("killed", &["sleep"])).await;
    bench.until_said("killed", "ready").await;
    // The first process of a container gets only what it has asked for.
    bench.runtime.kill(&id, Signal::TERM, Target::Init).await.unwrap();
    assert!(matches!(bench.runtime.status(&id).await.unwrap().state, State::Running));
    bench.runtime.kill(&id, Signal::KILL, Target::All).await.unwrap();
    let exit = bench.wait(&id).await;
    assert_eq!((exit.code, exit.signal, exit.reason), (137, Some(9), ExitReason::Error));
    bench.runtime.kill(&id, Signal::KILL, Target::Init).await.unwrap();
    bench.remove(&"killed".parse().unwrap(), &["killed"]).await;
}

pub(crate) async fn further_processes(bench: &Bench) {
    let id = bench.run(bench.container("host", &["sleep"])).await;
    bench.until_said("host", "ready").await;
    let runtime = &bench.runtime;
    let said = runtime.exec_capture(&id, exec(&["say", "out", "err", "7"]), 100).await.unwrap();
    assert_eq!(said.exit, ExecExit::Exited(7));
    assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let cut = runtime.exec_capture(&id, exec(&["say", "0123456789", "", "0"]), 4).await.unwrap();
    assert_eq!((cut.exit, cut.stdout.as_slice()), (ExecExit::Exited(0), &b"0123"[..]));
    let colour = runtime.exec_capture(&id, exec(&["env", "COLOUR"]), 100).await.unwrap();
    assert_eq!(colour.stdout, b"blue\n");
    let other = ExecSpec { env: vec![("COLOUR".to_owned(), "red".to_owned())], ..exec(&["env", "COLOUR"]) };
    assert_eq!(runtime.exec_capture(&id, other, 100).await.unwrap().stdout, b"red\n");
    let slow = ExecSpec { timeout: Some(Duration::from_millis(300)), ..exec(&["sleep"]) };
    assert_eq!(runtime.exec_capture(&id, slow, 100).await.unwrap().exit, ExecExit::TimedOut);
    let nobody = User { uid: 65534, gid: 65534, ..User::default() };
    let nobody = ExecSpec { user: Some(nobody), cwd: Some("/tmp".into()), ..exec(&["look"]) };
    let looked = runtime.exec_capture(&id, nobody, 4000).await.unwrap();
    let looked = String::from_utf8(looked.stdout).unwrap();
    assert!(looked.contains("Uid: 65534 65534") && looked.contains("cwd: /tmp"), "{looked}");
    let missing = ExecSpec { args: vec!["/bin/nothing".to_owned()], ..exec(&[]) };
    let error = runtime.exec_capture(&id, missing, 100).await.unwrap_err();
    assert!(error.to_string().contains("/bin/nothing"), "{error}");

    let (mut answers, stdout) = std::io::pipe().unwrap();
    let (stdin, mut questions) = std::io::pipe().unwrap();
    let io = ExecIo { stdin: Some(stdin.into()), stdout: Some(stdout.into()), ..ExecIo::default() };
    questions.write_all(b"through pipes").unwrap();
    drop(questions);
    assert_eq!(runtime.exec(&id, exec(&["echo"]), io).await.unwrap(), ExecExit::Exited(0));
    let mut answer = String::new();
    answers.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "through pipes\n");

    // Nobody waits any more: the process ends.
    let abandoned = tokio::time::timeout(Duration::from_millis(300), runtime.exec_capture(&id, exec(&["sleep"]), 10));
    assert!(abandoned.await.is_err());
    let gone = async {
        while runtime.usage(&id).await.unwrap().pids > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the abandoned process should end");
    bench.remove(&"host".parse().unwrap(), &["host"]).await;
}

pub(crate) async fn terminals(bench: &Bench) {
    let id = bench.run(bench.container("typed", &["sleep"])).await;
    bench.until_said("typed", "ready").await;
    let typed = async |words: &[&str], text: &'static [u8], expected: &'static str| {
        let (wanted, coming) = tokio::sync::oneshot::channel();
        let io = ExecIo { terminal: Some(wanted), ..ExecIo::default() };
        let typing = async {
            let mut terminal = std::fs::File::from(coming.await.unwrap());
            let typing = tokio::task::spawn_blocking(move || {
                let (mut said, mut piece) = (String::new(), [0; 1024]);
                while !said.contains("ready") {
                    let read = terminal.read(&mut piece).unwrap();
                    said.push_str(std::str::from_utf8(&piece[..read]).unwrap());
                }
                terminal.write_all(text).unwrap();
                // A terminal that nobody holds any more fails to be read.
                while let Ok(read @ 1..) = terminal.read(&mut piece) {
                    said.push_str(std::str::from_utf8(&piece[..read]).unwrap());
                }
                said
            });
            typing.await.unwrap()
        };
        let (exit, said) = tokio::join!(bench.runtime.exec(&id, exec(words), io), typing);
        assert!(said.contains(expected), "{said:?}");
        exit.unwrap()
    };
    let lines = "hello\r\nall three are terminals: hello\r\n";
    assert_eq!(typed(&["terminal"], b"hello\n", lines).await, ExecExit::Exited(0));
    // It is the terminal of its session: the kernel makes signals of keys.
    assert_eq!(typed(&["sleep"], b"\x03", "^C").await, ExecExit::Exited(130));
    bench.remove(&"typed".parse().unwrap(), &["typed"]).await;
}

pub(crate) async fn names_and_states_are_checked(bench: &Bench) {
    let runtime = &bench.runtime;
    runtime.create_sandbox(sandbox("states")).await.unwrap();
    runtime.create_sandbox(sandbox("states")).await.unwrap();
    let mut other = sandbox("states");
    other.hostname = "another".to_owned();
    assert_eq!(runtime.create_sandbox(other).await.unwrap_err().kind(), ErrorKind::Exists);
    let mut other = sandbox("grouped");
    other.group = Some("nobody-made-it".parse().unwrap());
    assert_eq!(runtime.create_sandbox(other).await.unwrap_err().kind(), ErrorKind::NotFound);
    let mut other = sandbox("named");
    other.hostname = "no good".to_owned();
    assert_eq!(runtime.create_sandbox(other).await.unwrap_err().kind(), ErrorKind::Invalid);

    let id = "states".parse().unwrap();
    runtime.create(bench.container("states", &["say", "a", "b", "0"])).await.unwrap();
    assert!(matches!(runtime.status(&id).await.unwrap().state, State::Created));
    let again = runtime.create(bench.container("states", &["sleep"])).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Exists);
    let early: RuntimeError = runtime.exec_capture(&id, exec(&["look"]), 10).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::State);
    runtime.start(&id).await.unwrap();
    assert_eq!(bench.wait(&id).await.reason, ExitReason::Completed);
    assert_eq!(runtime.start(&id).await.unwrap_err().kind(), ErrorKind::State);
    assert_eq!(runtime.exec_capture(&id, exec(&["look"]), 10).await.unwrap_err().kind(), ErrorKind::State);
    bench.remove(&"states".parse().unwrap(), &["states"]).await;
}

pub(crate) async fn many_at_once(bench: &Bench) {
    let names: Vec<String> = (0..8).map(|number| format!("many-{number}")).collect();
    let runs = names.iter().map(async |name| {
        let (output, exit) = bench.run_to_end(bench.container(name, &["say", name, "", "0"])).await;
        assert_eq!((output, exit.code), (format!("{name}\n"), 0));
    });
    futures_util::future::join_all(runs).await;
}

/// Whoever looks while containers are removed sees each of them as it was or not at all.
pub(crate) async fn removed_while_looked_at(bench: &Bench) {
    let names: Vec<String> = (0..12).map(|number| format!("going-{number}")).collect();
    let mut ids = Vec::new();
    for name in &names {
        let id = bench.run(bench.container(name, &["say", name, "", "0"])).await;
        bench.wait(&id).await;
        ids.push(id);
    }
    let removing = async {
        for id in &ids {
            bench.runtime.delete(id).await.unwrap();
        }
    };
    let looking = async {
        loop {
            let containers = bench.runtime.containers().await.unwrap();
            let going: Vec<_> = containers.iter().filter(|it| it.id.as_str().starts_with("going-")).collect();
            for container in &going {
                let State::Exited(exit) = &container.state else { panic!("{container:?}") };
                assert_eq!(exit.reason, ExitReason::Completed, "{container:?}");
            }
            if going.is_empty() {
                return;
            }
        }
    };
    tokio::join!(removing, looking, looking_again(bench, &ids));
    for name in &names {
        bench.remove(&name.parse().unwrap(), &[name]).await;
    }
}

async fn looking_again(bench: &Bench, ids: &[atoll_runtime::ContainerId]) {
    for id in ids.iter().rev() {
        while let Ok(status) = bench.runtime.status(id).await {
            assert!(matches!(&status.state, State::Exited(exit) if exit.reason == ExitReason::Completed), "{status:?}");
        }
    }
}
