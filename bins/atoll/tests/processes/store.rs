//! The store over real processes: what goes in comes out, through node deaths, replaced nodes, tampering and a wrong key.

use std::path::Path;

use crate::common::{TestGrid, run, run_bytes, run_json};
use atoll_grid::{Difference, TreeSpec, digest, generate};

const SPEC: TreeSpec = TreeSpec { files: 60, bytes: 12 << 20, seed: 3 };

fn assert_equal(expected: &Path, found: &Path) {
    let difference = Difference::between(&digest(expected).unwrap(), &digest(found).unwrap());
    assert_eq!(difference, None);
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_survives_two_nodes_and_comes_back_whole() {
    let mut test = TestGrid::raise(6).await;
    let tree = test.path("tree");
    generate(&tree, SPEC, &std::sync::atomic::AtomicBool::new(false)).unwrap();
    std::fs::create_dir(tree.join("empty")).unwrap();
    std::os::unix::fs::symlink("big/0.txt", tree.join("link")).unwrap();
    std::fs::write(tree.join("weird name ü #%?&=\n"), b"x").unwrap();
    test.run(&["bucket", "create", "data", "--policy", "4+2"]);
    test.run(&["put", &format!("{}/", tree.display()), "data/a/"]);
    let again = test.run(&["put", &format!("{}/", tree.display()), "data/a/"]);
    assert!(again.contains("stored 0 items"), "{again}");

    for victim in [1, 4] {
        test.grid.nodes[victim].kill().await.unwrap();
    }
    test.run(&["get", "data/a/", &test.text("back")]);
    assert_equal(&tree, &test.path("back"));
    let again = test.run(&["get", "data/a/", &test.text("back")]);
    assert!(again.contains("read 1 items"), "only the link is made again: {again}");

    let said = test.fail(&["put", &test.text("tree/big/0.txt"), "data/b"]);
    assert!(said.contains("needs 6 nodes and 4 can"), "{said}");
    test.grid.nodes[0].kill().await.unwrap();
    let said = test.fail(&["get", "data/a/big/0.txt", &test.text("nothing")]);
    assert!(said.contains("needs 4 shards and 3 can be had"), "{said}");
    assert!(!test.path("nothing").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_listed_counted_shown_and_removed() {
    let test = TestGrid::raise(3).await;
    let home = test.grid.home.data_dir().to_path_buf();
    test.run(&["bucket", "create", "data", "--policy", "2+1"]);
    assert!(test.run(&["bucket", "ls"]).contains("data"));
    let content = noise(3_000_000);
    run(&home, &["put", "-", "data/dir/one"], &content);
    run(&home, &["put", "-", "data/dir/sub/two"], b"two");
    run(&home, &["put", "-", "data/empty"], b"");
    let peers = run_json(&home, &["net", "peers"]);
    let sent: u64 = peers.as_array().unwrap().iter().map(|peer| peer["sent_bytes"].as_u64().unwrap()).sum();
    // One and a half bytes for each, and little besides.
    assert!((4_500_000..5_000_000).contains(&sent), "{peers}");
    let busy = run_json(&home, &["net", "top", "--every", "1s", "--count", "1"]);
    assert_eq!(busy.as_array().unwrap().len(), 3, "{busy}");
    assert_eq!(test.run(&["ls", "data"]), "dir/\nempty\n");
    assert_eq!(test.run(&["ls", "data/dir/"]), "dir/one\ndir/sub/\n");
    assert_eq!(test.run(&["ls", "-r", "data"]), "dir/one\ndir/sub/two\nempty\n");
    assert_eq!(run_bytes(&home, &["get", "data/dir/one", "-"], b""), content);
    assert_eq!(run_bytes(&home, &["get", "data/empty", "-"], b""), b"");
    let stat = run_json(&home, &["stat", "data/dir/one"]);
    assert_eq!(stat["size"], 3_000_000);
    assert_eq!(stat["policy"], "2+1");
    assert_eq!(run_json(&home, &["du", "data"])["objects"], 3);
    // The same key again: the newer content wins.
    run(&home, &["put", "-", "data/dir/sub/two"], b"newer");
    assert_eq!(run_bytes(&home, &["get", "data/dir/sub/two", "-"], b""), b"newer");
    assert!(test.fail(&["bucket", "rm", "data"]).contains("not empty"));
    assert!(test.fail(&["rm", "data/dir/"]).contains("--recursive"));
    assert!(test.fail(&["rm", "data/nothing"]).contains("no object"));
    test.run(&["rm", "data/empty"]);
    test.run(&["rm", "-r", "data"]);
    assert_eq!(test.run(&["ls", "data"]), "");
    test.run(&["bucket", "rm", "data"]);
    assert!(test.fail(&["put", "/etc/hostname", "data/x"]).contains("atoll bucket create data"));
    assert!(test.fail(&["bucket", "create", "data", "--policy", "0+9"]).contains('1'));
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_on_a_disk_is_read_around_found_and_mended() {
    let mut test = TestGrid::raise(3).await;
    let home = test.grid.home.data_dir().to_path_buf();
    test.run(&["bucket", "create", "data", "--policy", "2+1"]);
    let content = noise(2_000_000);
    run(&home, &["put", "-", "data/object"], &content);
    let node = &mut test.grid.nodes[0];
    node.kill().await.unwrap();
    damage(&node.data_dir().join("shards"));
    node.start_again().await.unwrap();
    assert_eq!(run_bytes(&home, &["get", "data/object", "-"], b""), content);
    let healed = run_json(&home, &["heal", "--deep"]);
    let found = healed["rotten"].as_u64().unwrap() + healed["missing"].as_u64().unwrap();
    assert!(found > 0, "{healed}");
    assert_eq!(healed["rebuilt"].as_u64().unwrap(), found, "{healed}");
    let clean = run_json(&home, &["heal", "--deep"]);
    assert_eq!((clean["missing"].as_u64(), clean["rotten"].as_u64()), (Some(0), Some(0)), "{clean}");
    test.grid.nodes[1].kill().await.unwrap();
    assert_eq!(run_bytes(&home, &["get", "data/object", "-"], b""), content);
}

/// Flips a bit in every 64 KiB, wherever the log is not empty.
fn damage(shards: &Path) {
    let mut flipped = 0;
    for entry in std::fs::read_dir(shards).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        for at in (100_000..bytes.len()).step_by(1 << 16) {
            if bytes[at] != 0 {
                bytes[at] ^= 0x10;
                flipped += 1;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(flipped > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_owners_key_reads_nothing_and_says_so() {
    let mut test = TestGrid::raise(2).await;
    let home = test.grid.home.data_dir().to_path_buf();
    test.run(&["bucket", "create", "data", "--policy", "1+1"]);
    run(&home, &["put", "-", "data/secret"], b"the plain text");
    let phrase = test.run(&["id", "phrase"]);
    test.grid.home.stop().await.unwrap();

    std::fs::rename(home.join("owner.key"), home.join("owner.key.away")).unwrap();
    if let Err(error) = test.grid.home.start_again().await {
        assert!(error.to_string().contains("owner"), "{error}");
    } else {
        let said = test.fail(&["get", "data/secret", "-"]);
        assert!(said.contains("encrypted for owner"), "{said}");
        test.grid.home.stop().await.unwrap();
    }

    let said = crate::common::output(&home, &["id", "restore"], phrase.as_bytes());
    assert!(!said.status.success(), "another owner's key must not be overwritten");
    std::fs::remove_file(home.join("owner.key")).unwrap();
    run(&home, &["id", "restore"], phrase.as_bytes());
    test.grid.home.start_again().await.unwrap();
    assert_eq!(run_bytes(&home, &["get", "data/secret", "-"], b""), b"the plain text");
}
