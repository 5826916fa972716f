//! A stack from its first plan to its end, with real processes and containers: made, found to be as written, signed by a visitor, rolled over without a
//! failed request, and gone without a trace.

use std::path::Path;
use std::process::Output;

use serde_json::Value as Json;

use crate::common::{fail, output, run, run_json};
use crate::pods::{MEMBERS, World};
use crate::world::{text, wait_until};

const HOST: &str = "guestbook.cloud.example";

/// The nine lines, sized for this world.
const STACK: &str = r#"stack: hello
evdc:
  name: home
  nodes: 3
  each: {cpu: 500m, memory: 256Mi, storage: 256Mi}
gateway: cloud.example
apps:
  guestbook:
    values: {host: guestbook.cloud.example, image: {tag: "1.0.0"}, db: {storage: 64Mi}}
"#;

fn write(folder: &Path, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("stack.yaml"), text).unwrap();
}

/// The exit status of a plan: 0 if it is empty, 2 if not.
fn plan(home: &Path, stack: &str) -> (Option<i32>, String) {
    let ran = output(home, &["plan", stack, "--detailed-exitcode"], b"");
    (ran.status.code(), String::from_utf8(ran.stdout).unwrap() + &String::from_utf8_lossy(&ran.stderr))
}

/// A page through the gateway, by curl on a machine that takes no part, with further arguments.
fn page(world: &World, path: &str, arguments: &[&str]) -> Output {
    let mut curl = world.lab.outside().command("curl");
    curl.args(["-sS", "--fail", "--max-time", "20", "--cacert"]).arg(world.dir("ca.pem"));
    curl.args(["--resolve", &format!("{HOST}:443:{}", world.host("gateway").ipv4())]).args(arguments);
    curl.arg(format!("https://{HOST}{path}")).output().expect("curl is not installed: apt-get install curl")
}

/// Signs the guestbook as a browser does, and gives the page after it.
fn signed(world: &World) -> String {
    let form = ["--data-urlencode", "id=one", "--data-urlencode", "name=Ada", "--data-urlencode", "text=hello"];
    text(&page(world, "/sign", &form));
    text(&page(world, "/", &[]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stack_is_made_rolled_over_and_leaves_nothing() {
    let world = World::raise().await;
    let home = &world.dir("home");
    let folder = world.dir("stack");
    let stack = folder.to_str().unwrap().to_owned();
    write(&folder, STACK);

    // Nothing is there, and looking makes nothing.
    let (code, text_of_plan) = plan(home, &stack);
    assert_eq!(code, Some(2), "{text_of_plan}");
    for line in ["+ lease/home/1", "+ lease/home/3", "+ evdc/home", "+ app/default/guestbook", "5 to create"] {
        assert!(text_of_plan.contains(line), "{line}: {text_of_plan}");
    }
    assert_eq!(run_json(home, &["evdc", "ls"]), Json::Array(Vec::new()));
    let refused = fail(home, &["apply", &stack]);
    assert!(refused.contains("no terminal") && refused.contains("--yes"), "{refused}");

    let applied = run_json(home, &["apply", &stack, "--yes"]);
    assert_eq!(applied["created"], 5, "{applied}");
    let (code, again) = plan(home, &stack);
    assert_eq!((code, again.contains("Nothing to do")), (Some(0), true), "{again}");
    assert_eq!(run_json(home, &["drift", &stack]), Json::Array(Vec::new()));
    let status = run_json(home, &["app", "status", "guestbook", "--evdc", "home"]);
    assert_eq!(status["status"], "deployed");
    assert!(status["objects"].as_array().unwrap().iter().all(|object| object["good"] == true), "{status}");

    wait_until("two replicas at the gateway", || {
        run_json(&world.dir("gateway"), &["gateway", "status"])["routes"][0]["replicas"] == 2
    });
    std::fs::write(world.dir("ca.pem"), run(&world.dir("gateway"), &["gateway", "ca"], b"")).unwrap();
    let page = signed(&world);
    assert!(page.contains("Ada") && page.contains("1 entries") && page.contains("version 1.0.0"), "{page}");

    drifts_and_is_set_right(&world, &stack);
    rolls_over(&world, &folder);

    let destroyed = run_json(home, &["destroy", &stack, "--yes"]);
    assert_eq!(destroyed["deleted"], 5, "{destroyed}");
    let members = |name: &str| std::fs::read_dir(world.dir(name).join("members")).map_or(0, Iterator::count);
    wait_until("nothing left", || MEMBERS.iter().all(|name| members(name) == 0));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(world.dir("").to_str().unwrap()), "mounts are left: {mounts}");
    assert_eq!(run_json(home, &["evdc", "ls"]), Json::Array(Vec::new()));
    assert!(run(home, &["destroy", "--stack", "hello", "--yes"], b"").contains("Nothing to do"));
    for node in MEMBERS.into_iter().chain(["home"]) {
        let stored = || run_json(&world.dir(node), &["status"])["storage"]["shards"].clone();
        wait_until("no shard of a volume left", || stored() == 0);
    }
    // What was rented can be rented again.
    let (code, anew) = plan(home, &stack);
    assert_eq!((code, anew.contains("5 to create")), (Some(2), true), "{anew}");
}

/// Somebody scales the page by hand: that is seen, and the next apply sets it right.
fn drifts_and_is_set_right(world: &World, stack: &str) {
    let home = &world.dir("home");
    run(home, &["kubeconfig", "home", "--file", world.dir("kubeconfig").to_str().unwrap()], b"");
    world.kubectl(&["scale", "deployment/guestbook-web", "--replicas=1"]);
    let drift = run_json(home, &["drift", stack]);
    assert_eq!(drift[0]["id"], "app/default/guestbook", "{drift}");
    let field = &drift[0]["fields"][0];
    assert_eq!((&field["from"], &field["to"]), (&Json::from(2), &Json::from(1)), "{drift}");
    run(home, &["apply", stack, "--yes"], b"");
    assert_eq!(run_json(home, &["drift", stack]), Json::Array(Vec::new()));
}

/// A changed tag is one changed field; while it is rolled out, every request is answered.
fn rolls_over(world: &World, folder: &Path) {
    let (home, stack) = (&world.dir("home"), folder.to_str().unwrap());
    write(folder, &STACK.replace("1.0.0", "1.1.0"));
    let planned = run_json(home, &["plan", stack]);
    let change = &planned["changes"][0];
    assert_eq!((&change["change"], planned["changes"].as_array().unwrap().len()), (&Json::from("update"), 1));
    let field = serde_json::json!({"path": "values.image.tag", "from": "1.0.0", "to": "1.1.0"});
    assert_eq!(change["fields"], Json::Array(vec![field]));
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| run_json(home, &["apply", stack, "--yes"]));
        while !rolling.is_finished() {
            assert!(text(&page(world, "/", &[])).contains("1 entries"));
        }
        assert_eq!(rolling.join().unwrap()["changed"], 1);
    });
    for _ in 0..4 {
        let page = text(&page(world, "/", &[]));
        assert!(page.contains("version 1.1.0") && page.contains("Ada"), "{page}");
    }
    assert_eq!(plan(home, stack).0, Some(0));
}
