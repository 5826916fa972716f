//! This program again, single-threaded, for what forks or changes namespaces. Each kind of helper is started with an empty environment,
//! file descriptors 0 to 2 chosen by who starts it, and one file or folder that says what to do.

mod exec;
mod sandbox;
mod supervisor;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};

pub(crate) use exec::{ExecRequest, ExecResult};
pub(crate) use supervisor::{SOCKET, START};

/// The first argument of every helper.
const MARK: &str = "__container-helper";

/// The kinds of helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Starts a supervisor that is nobody's child. Its folder is the container's.
    Launch,
    /// Creates a container and stays with it.
    Supervise,
    /// Runs a further process in a container. Its file is an [`ExecRequest`].
    Exec,
    /// Makes a sandbox's namespaces. Its folder is the sandbox's.
    Sandbox,
}

const KINDS: [(&str, Kind); 4] =
    [("launch", Kind::Launch), ("supervise", Kind::Supervise), ("exec", Kind::Exec), ("sandbox", Kind::Sandbox)];

/// What a helper says on its standard output when it has done its work or failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Failed(String),
}

/// Whether these are the arguments of a helper: to be asked before anything else in `main`.
pub fn is_helper(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|word| word == MARK)
}

/// Does what a helper is for. Must be called before the process has threads.
pub fn helper_main(arguments: &[OsString]) -> ExitCode {
    let kind = arguments.get(2).and_then(|word| word.to_str());
    let kind = KINDS.iter().find(|(name, _)| Some(*name) == kind).map(|(_, kind)| *kind);
    let (Some(kind), Some(place)) = (kind, arguments.get(3).map(PathBuf::from)) else {
        complain("these arguments are for Atoll itself; see atoll --help");
        return ExitCode::FAILURE;
    };
    match kind {
        Kind::Launch => launch(&place),
        Kind::Supervise => supervisor::main(place),
        Kind::Exec => exec::main(&place),
        Kind::Sandbox => sandbox::main(&place),
    }
}

/// The command for a helper, with nothing inherited but what the caller adds.
pub(crate) fn command(program: &Path, kind: Kind, place: &Path) -> Command {
    let name = KINDS.iter().find(|(_, it)| *it == kind).map_or("", |(name, _)| *name);
    let mut command = Command::new(program);
    // A readable name in the list of processes instead of /proc/self/exe.
    command.arg0(OsStr::new("atoll-container")).arg(MARK).arg(name).arg(place);
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Its child has no parent once this returns, and belongs to the machine.
fn launch(dir: &Path) -> ExitCode {
    let mut command = command(Path::new("/proc/self/exe"), Kind::Supervise, dir);
    match command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            answer(&Answer::Failed(format!("cannot start the supervisor: {error}")));
            ExitCode::FAILURE
        }
    }
}

fn answer(answer: &Answer) {
    // Whoever asked may be gone; then nobody needs the answer.
    let text = serde_json::to_string(answer).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
