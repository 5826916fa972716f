//! What a container sees and cannot do.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use atoll_ids::ByteCount;
use atoll_runtime::{ContainerSpec, Mount, MountSource, Network, PidNamespace, Runtime, User};

use crate::bench::{Bench, sandbox};

/// What `look` says, by name.
async fn look(bench: &Bench, spec: ContainerSpec) -> BTreeMap<String, String> {
    let (output, exit) = bench.run_to_end(spec).await;
    assert_eq!(exit.code, 0, "{output}");
    facts(&output)
}

fn facts(output: &str) -> BTreeMap<String, String> {
    let facts = output.lines().filter_map(|line| line.split_once(": "));
    facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

pub(crate) async fn files_and_users(bench: &Bench) {
    let mut spec = bench.container("plain", &["look"]);
    spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![7, 8], home: None };
    spec.cwd = PathBuf::from("/tmp");
    let facts = look(bench, spec).await;
    assert_eq!(facts["Uid"], "1000 1000 1000 1000");
    assert_eq!(facts["Gid"], "1001 1001 1001 1001");
    assert_eq!(facts["Groups"], "7 8");
    assert_eq!(facts["CapEff"], "0000000000000000");
    assert_eq!(facts["NoNewPrivs"], "1");
    assert_eq!(facts["cwd"], "/tmp");
    // The four that are open are input, output, errors and the folder that lists them.
    assert_eq!(facts["descriptors"], "[0, 1, 2, 3]");
    assert_eq!(facts["score"], "500");
    // Masked: it is /dev/null now.
    assert_eq!(facts["interrupts"], "0");
    let read_only = [
        ("tries-1", "/proc/sys/kernel/core_pattern"),
        ("tries-2", "/sys/kernel/mm/ksm/run"),
        ("tries-3", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        ("tries-4", "/sys/fs/cgroup/pids/pids.max"),
    ];
    for (name, path) in read_only {
        let (output, _) = bench.run_to_end(bench.container(name, &["try", path])).await;
        // On version 2 the files of version 1 are not there.
        assert!(output.contains("Read-only") || output.contains("No such file"), "{path}: {output}");
    }
    let (output, _) = bench.run_to_end(bench.container("tries-5", &["try", "/file"])).await;
    assert_eq!(output, "written\n");
    let mut spec = bench.container("tries-6", &["try", "/file"]);
    spec.read_only_rootfs = true;
    let (output, _) = bench.run_to_end(spec).await;
    assert!(output.contains("Read-only"), "{output}");
}

pub(crate) async fn namespaces(bench: &Bench) {
    bench.runtime.create_sandbox(sandbox("shared")).await.unwrap();
    let mut seen = Vec::new();
    for (name, network) in [("shared-1", Network::None), ("shared-2", Network::Path("/proc/self/ns/net".into()))] {
        let mut spec = bench.container(name, &["look"]);
        spec.sandbox = "shared".parse().unwrap();
        if network == Network::None {
            spec.network = network;
        } else {
            spec.network = Network::Path(format!("/proc/{}/ns/net", std::process::id()).into());
        }
        let id = bench.run(spec).await;
        assert_eq!(bench.wait(&id).await.code, 0);
        seen.push(facts(&bench.output(name, atoll_runtime::logs::Stream::Stdout)));
    }
    let [first, second] = seen.as_slice() else { panic!("two were run") };
    assert_eq!(first["hostname"], "host-shared");
    assert_eq!((&first["ns-ipc"], &first["ns-uts"]), (&second["ns-ipc"], &second["ns-uts"]));
    for kind in ["ipc", "uts", "pid", "mnt", "net"] {
        assert_ne!(first[&format!("ns-{kind}")], own(kind), "{kind}");
    }
    assert_eq!((first["pid"].as_str(), first["interfaces"].as_str(), first["processes"].as_str()), ("1", "lo", "1"));
    assert_eq!(second["ns-net"], own("net"));

    let keeper = {
        let mut spec = bench.container("shared-3", &["sleep"]);
        spec.sandbox = "shared".parse().unwrap();
        bench.run(spec).await
    };
    let mut spec = bench.container("shared-4", &["look"]);
    spec.sandbox = "shared".parse().unwrap();
    spec.pid = PidNamespace::Of(keeper);
    let id = bench.run(spec).await;
    assert_eq!(bench.wait(&id).await.code, 0);
    let joined = facts(&bench.output("shared-4", atoll_runtime::logs::Stream::Stdout));
    assert_eq!(joined["processes"], "2");
    bench.remove(&"shared".parse().unwrap(), &["shared-1", "shared-2", "shared-3", "shared-4"]).await;
    assert!(bench.runtime.sandboxes().await.unwrap().iter().all(|it| it.id.as_str() != "shared"));
}

pub(crate) async fn mounts(bench: &Bench) {
    let volume = bench.path("volume");
    fs::create_dir_all(&volume).unwrap();
    let mount = |target: &str, source: MountSource, read_only: bool| Mount { source, target: target.into(), read_only };
    let check = async |name: &str, target: &str, read_only: bool, expected: &str| {
        let mut spec = bench.container(name, &["try", target]);
        spec.read_only_rootfs = true;
        spec.mounts = vec![
            mount("/data/volume", MountSource::Bind(volume.clone()), read_only),
            mount("/scratch", MountSource::Tmpfs { size: Some(ByteCount(1 << 20)) }, false),
        ];
        let (output, _) = bench.run_to_end(spec).await;
        assert!(output.contains(expected), "{target}: {output}");
    };
    check("mounts-1", "/data/volume/a", false, "written").await;
    check("mounts-2", "/data/volume/b", true, "refused").await;
    check("mounts-3", "/scratch/c", false, "written").await;
    assert!(volume.join("a").exists() && !volume.join("b").exists());
}

pub(crate) async fn capabilities(bench: &Bench) {
    let facts = look(bench, bench.container("caps-1", &["look"])).await;
    let default = u64::from_str_radix(&facts["CapEff"], 16).unwrap();
    assert!(
        default != 0 && default & (1 << 27) == 0 && default & (1 << 21) == 0,
        "no MKNOD, no SYS_ADMIN: {default:x}"
    );
    let mut spec = bench.container("caps-2", &["look"]);
    spec.capabilities.drop.push("ALL".to_owned());
    spec.capabilities.add.push("NET_BIND_SERVICE".to_owned());
    let facts = look(bench, spec).await;
    assert_eq!((facts["CapEff"].as_str(), facts["CapBnd"].as_str()), ("0000000000000400", "0000000000000400"));
}
