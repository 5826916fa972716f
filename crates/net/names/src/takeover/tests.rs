//! `resolv.conf` taken and given back, in temporary folders.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use super::*;

/// Stops before the operation of this number, as a crash would.
struct Dies {
    after: usize,
}

impl Disk for Dies {
    fn may(&mut self) -> io::Result<()> {
        match self.after.checked_sub(1) {
            Some(left) => {
                self.after = left;
                Ok(())
            }
            None => Err(io::Error::other("the machine is off")),
        }
    }
}

const BEFORE: &str = "# made by hand\nnameserver 192.0.2.1\noptions rotate\n";

fn own() -> IpAddr {
    "127.64.0.53".parse().unwrap()
}

/// What a machine may have there.
#[derive(Debug, Clone, Copy)]
enum Found {
    Nothing,
    File,
    Link,
    BrokenLink,
}

const ALL: [Found; 4] = [Found::Nothing, Found::File, Found::Link, Found::BrokenLink];

struct Machine {
    folder: tempfile::TempDir,
    path: PathBuf,
    note: PathBuf,
}

impl Machine {
    fn with(found: Found) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, note) = (folder.path().join("resolv.conf"), folder.path().join("note"));
        fs::create_dir(folder.path().join("run")).unwrap();
        match found {
            Found::Nothing => {}
            Found::File => {
                fs::write(&path, BEFORE).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            }
            Found::Link | Found::BrokenLink => std::os::unix::fs::symlink("run/stub.conf", &path).unwrap(),
        }
        if matches!(found, Found::Link) {
            fs::write(folder.path().join("run/stub.conf"), BEFORE).unwrap();
        }
        Self { folder, path, note }
    }

    fn take(&self) -> Result<Taken, TakeError> {
        take(&self.path, &self.note, own(), "process 7")
    }

    /// Everything in the folder: names, what they are, what is in them.
    fn all(&self) -> Vec<(PathBuf, Before)> {
        let list = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.is_symlink() || !path.is_dir()).collect::<Vec<_>>()
        };
        let mut files = [list(self.folder.path()), list(&self.folder.path().join("run"))].concat();
        files.sort();
        let seen = |path: PathBuf| {
            let content = fs::read(&path).unwrap_or_default();
            let before = before_of(&path, &content).unwrap();
            (path, before)
        };
        files.into_iter().map(seen).collect()
    }
}

#[test]
fn it_is_written_and_put_back() {
    for found in ALL {
        let machine = Machine::with(found);
        let before = machine.all();
        let taken = machine.take().unwrap();
        let written = fs::read_to_string(&machine.path).unwrap();
        assert!(written.contains("process 7") && written.contains("resolv.conf.before-atoll"), "{written}");
        assert_eq!(ResolvConf::parse(&written).nameservers[0], own());
        assert!(!machine.path.is_symlink() && is_taken(&machine.note));
        match found {
            Found::File | Found::Link => {
                assert_eq!(taken.before.upstreams(own()), ["192.0.2.1:53".parse().unwrap()]);
                assert_eq!(fs::read_to_string(copy_of(&machine.path)).unwrap(), BEFORE);
            }
            Found::Nothing | Found::BrokenLink => assert_eq!(taken.before, ResolvConf::default()),
        }
        assert_eq!(give_back(&machine.note).unwrap(), GivenBack::Restored);
        assert_eq!(machine.all(), before, "{found:?}");
        assert_eq!(give_back(&machine.note).unwrap(), GivenBack::Nothing);
        assert!(!is_taken(&machine.note));
    }
}

/// Writing is cut off at every point, then undoing at every point: in the end everything is as it was.
#[test]
fn a_crash_at_any_moment_can_be_undone() {
    for found in ALL {
        for after in 0.. {
            let machine = Machine::with(found);
            let before = machine.all();
            let took = take_on(&mut Dies { after }, &machine.path, &machine.note, own(), "process 7");
            let text = fs::read_to_string(&machine.path).unwrap_or_default();
            let whole = ResolvConf::parse(&text).nameservers.first() == Some(&own());
            assert!(whole || text == BEFORE || text.is_empty(), "half a file: {text}");
            for undo_after in 0.. {
                if give_back_on(&mut Dies { after: undo_after }, &machine.note).is_ok() {
                    break;
                }
                assert!(undo_after < 100);
            }
            // A file that was begun before there was a note of it lies in the note's folder and is replaced the next time.
            let mut left = machine.all();
            left.retain(|(path, _)| *path != fresh(&machine.note));
            assert_eq!(left, before, "{found:?}, stopped after {after}: {took:?}");
            if took.is_ok() {
                assert!(after > 8, "there are more operations than {after}");
                break;
            }
        }
    }
}

#[test]
fn a_node_that_died_takes_it_again_over_what_was_before_both() {
    let machine = Machine::with(Found::File);
    let before = machine.all();
    machine.take().unwrap();
    let taken = machine.take().unwrap();
    assert_eq!(taken.before.upstreams(own()), ["192.0.2.1:53".parse().unwrap()]);
    assert_eq!(give_back(&machine.note).unwrap(), GivenBack::Restored);
    assert_eq!(machine.all(), before);
}

#[test]
fn what_somebody_else_has_written_since_is_theirs() {
    for found in ALL {
        let machine = Machine::with(found);
        machine.take().unwrap();
        fs::remove_file(&machine.path).unwrap();
        fs::write(&machine.path, "nameserver 192.0.2.77\n").unwrap();
        assert!(!is_taken(&machine.note));
        assert_eq!(give_back(&machine.note).unwrap(), GivenBack::LeftAlone, "{found:?}");
        assert_eq!(fs::read_to_string(&machine.path).unwrap(), "nameserver 192.0.2.77\n");
        assert!(!machine.note.exists());
    }
    let machine = Machine::with(Found::File);
    machine.take().unwrap();
    fs::remove_file(&machine.path).unwrap();
    assert_eq!(give_back(&machine.note).unwrap(), GivenBack::LeftAlone, "removed by somebody else");
    assert!(!machine.path.exists());
}

#[test]
fn refusals() {
    let machine = Machine::with(Found::File);
    machine.take().unwrap();
    let said = take(&machine.path, &machine.folder.path().join("other"), own(), "process 8").unwrap_err().to_string();
    assert!(said.contains("another atoll node") && said.contains("process 7"), "{said}");
    assert_eq!(give_back(&machine.note).unwrap(), GivenBack::Restored);

    let said = take(machine.folder.path(), &machine.note, own(), "process 7").unwrap_err().to_string();
    assert!(said.contains("network.resolv_conf"), "{said}");
    fs::write(&machine.path, vec![b'\n'; (FILE_BYTES_MAX + 1) as usize]).unwrap();
    assert!(matches!(machine.take(), Err(TakeError::Odd { .. })));
    fs::write(&machine.note, "nonsense").unwrap();
    let said = give_back(&machine.note).unwrap_err().to_string();
    assert!(said.contains("before-atoll"), "{said}");
}
