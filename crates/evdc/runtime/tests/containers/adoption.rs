//! The node goes; what it runs stays.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use atoll_images::{Limits, Store, StoreConfig};
use atoll_runtime::logs::Stream;
use atoll_runtime::{
    CgroupRoot, ContainerSpec, Embedded, EmbeddedConfig, ExecSpec, ExitReason, Runtime, Signal, State, Target,
};

use crate::bench::{Bench, cgroup_name, sandbox};

fn config(dir: &Path, cgroup: &str) -> EmbeddedConfig {
    let mut config = EmbeddedConfig::new(dir);
    config.cgroup_root = CgroupRoot::beside_own(cgroup);
    config
}

/// A node of its own: makes what it is told to from a file, says so, and waits to be killed.
pub(crate) fn node(words: &[String]) -> ExitCode {
    let [dir, cgroup, specs] = words else { return ExitCode::FAILURE };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let embedded = Embedded::open(config(Path::new(dir), cgroup)).unwrap();
        let specs: Vec<ContainerSpec> = serde_json::from_slice(&std::fs::read(specs).unwrap()).unwrap();
        for (spec, start) in specs.into_iter().zip([true, false]) {
            let id = spec.id.clone();
            embedded.create_sandbox(sandbox(spec.sandbox.as_str())).await.unwrap();
            embedded.create(spec).await.unwrap();
            if start {
                embedded.start(&id).await.unwrap();
            }
        }
        std::io::Write::write_all(&mut std::io::stdout(), b"done\n").unwrap();
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

pub(crate) async fn containers_outlive_the_node(bench: &Bench) {
    let dir = bench.path("other-node");
    let specs = bench.path("specs.json");
    let wanted = vec![bench.container("survivor", &["tick"]), bench.container("waiting", &["say", "at last", "", "5"])];
    std::fs::write(&specs, serde_json::to_vec(&wanted).unwrap()).unwrap();
    let mut node = Command::new("/proc/self/exe");
    let mut node = node.arg("node").arg(&dir).arg(cgroup_name()).arg(&specs).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    node.kill().unwrap();
    node.wait().unwrap();

    let adopted = Embedded::open(config(&dir, &cgroup_name())).unwrap();
    let found = adopted.containers().await.unwrap();
    let states: Vec<_> = found.iter().map(|status| (status.id.as_str(), &status.state)).collect();
    assert_eq!(states, [("survivor", &State::Running), ("waiting", &State::Created)]);
    let said = bench.output("survivor", Stream::Stdout).lines().count();
    bench.until_said("survivor", &format!("tick {}", said + 5)).await;
    let look = ["/bin/workload", "workload", "env", "COLOUR"].map(str::to_owned).to_vec();
    let look = ExecSpec { args: look, env: Vec::new(), cwd: None, user: None, timeout: None };
    let survivor = "survivor".parse().unwrap();
    assert_eq!(adopted.exec_capture(&survivor, look, 100).await.unwrap().stdout, b"blue\n");
    adopted.kill(&survivor, Signal::KILL, Target::All).await.unwrap();
    let exit = adopted.wait(&survivor).await.unwrap();
    assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
    let waiting = "waiting".parse().unwrap();
    adopted.start(&waiting).await.unwrap();
    assert_eq!(adopted.wait(&waiting).await.unwrap().code, 5);
    assert_eq!(bench.output("waiting", Stream::Stdout), "at last\n");
    for name in ["survivor", "waiting"] {
        adopted.remove_sandbox(&name.parse().unwrap()).await.unwrap();
        bench.store.remove_rootfs(name).unwrap();
    }
    assert!(adopted.containers().await.unwrap().is_empty());
    // The store does not mind being opened again beside what is mounted.
    Store::open(StoreConfig { dir: bench.path("images"), limits: Limits::default() }).unwrap();
}

pub(crate) async fn a_lost_supervisor_is_noticed(bench: &Bench) {
    let id = bench.run(bench.container("orphan", &["sleep"])).await;
    bench.until_said("orphan", "ready").await;
    let init = bench.runtime.status(&id).await.unwrap().pid.unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let parent: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    let exit = bench.wait(&id).await;
    assert_eq!((exit.code, exit.reason), (255, ExitReason::SupervisorLost));
    assert_eq!(exit.reason.as_kubernetes(), "ContainerStatusUnknown");
    bench.remove(&"orphan".parse().unwrap(), &["orphan"]).await;
    assert!(!Path::new(&format!("/proc/{init}/cwd")).exists(), "the container should have ended with its supervisor");
}
