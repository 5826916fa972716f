//! What a container may use.

use atoll_ids::ByteCount;
use atoll_runtime::{ExitReason, GroupSpec, Resources, Runtime, State};

use crate::bench::{Bench, sandbox};

pub(crate) async fn memory(bench: &Bench) {
    let mut spec = bench.container("hungry", &["eat", "300"]);
    spec.resources.memory = Some(ByteCount(64 << 20));
    let (output, exit) = bench.run_to_end(spec).await;
    assert_eq!((output.as_str(), exit.code, exit.reason), ("", 137, ExitReason::OomKilled));
    let mut spec = bench.container("modest", &["eat", "10"]);
    spec.resources.memory = Some(ByteCount(64 << 20));
    let (output, exit) = bench.run_to_end(spec).await;
    assert_eq!((output.as_str(), exit.reason), ("ate 10\n", ExitReason::Completed));
}

pub(crate) async fn memory_of_a_group(bench: &Bench) {
    let group = |mebibytes: u64| {
        let limits = Resources { memory: Some(ByteCount(mebibytes << 20)), pids: Some(200), ..Resources::default() };
        GroupSpec { name: "lease".parse().unwrap(), limits }
    };
    let runtime = &bench.runtime;
    runtime.set_group(group(512)).await.unwrap();
    runtime.set_group(group(96)).await.unwrap();
    let mut pod = sandbox("tenant");
    pod.group = Some("lease".parse().unwrap());
    runtime.create_sandbox(pod).await.unwrap();
    let id = "tenant".parse().unwrap();
    runtime.create(bench.container("tenant", &["eat", "300"])).await.unwrap();
    runtime.start(&id).await.unwrap();
    let exit = bench.wait(&id).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    assert!(runtime.remove_group(&"lease".parse().unwrap()).await.unwrap_err().to_string().contains("tenant"));
    bench.remove(&"tenant".parse().unwrap(), &["tenant"]).await;
    runtime.remove_group(&"lease".parse().unwrap()).await.unwrap();
    runtime.remove_group(&"lease".parse().unwrap()).await.unwrap();
}

pub(crate) async fn processes(bench: &Bench) {
    let mut spec = bench.container("forks", &["spawn", "100"]);
    spec.resources.pids = Some(12);
    let (output, _) = bench.run_to_end(spec).await;
    let spawned: u32 = output.trim().strip_prefix("spawned ").unwrap().parse().unwrap();
    assert!((5..12).contains(&spawned), "{output}");
}

pub(crate) async fn usage(bench: &Bench) {
    let mut spec = bench.container("used", &["eat", "40"]);
    spec.env.push(("STAY".to_owned(), "1".to_owned()));
    spec.resources = Resources {
        memory: Some(ByteCount(200 << 20)),
        cpu_millis_max: Some(900),
        cpu_millis_request: Some(100),
        pids: Some(50),
    };
    let id = bench.run(spec).await;
    bench.until_said("used", "ate 40").await;
    let usage = bench.runtime.usage(&id).await.unwrap();
    assert!(usage.memory.0 > 40 << 20 && usage.memory.0 < 200 << 20, "{usage:?}");
    assert!(usage.pids >= 1 && usage.cpu.as_nanos() > 0 && usage.oom_kills == 0, "{usage:?}");
    assert!(matches!(bench.runtime.status(&id).await.unwrap().state, State::Running));
    bench.remove(&"used".parse().unwrap(), &["used"]).await;
}
