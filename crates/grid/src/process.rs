//! One node as a process of its own: start, wait until it serves, signal, and read what it uses.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_control::{Client, ClientError, NodeStatus};
use atoll_lab::Host;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A node opens its store and binds its sockets in well under a second; a debug build on a busy machine takes a few.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A node ends its work within its own deadline (10 s); past this it is stuck.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Why the grid could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    /// A process could not be started or signalled.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// A node ended or stayed silent instead of serving.
    #[error("node {name} did not come up: {why}; its log is {}", log.display())]
    NotUp {
        /// Which node.
        name: String,
        /// What was seen.
        why: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// A node refused a request.
    #[error("node {name}: {source}")]
    Control {
        /// Which node.
        name: String,
        /// Its answer.
        source: ClientError,
    },
    /// What was read back is not what was stored.
    #[error("{0}")]
    Wrong(String),
}

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Start {
    /// The `atoll` program.
    pub program: PathBuf,
    /// Settings, `key=value`.
    pub settings: Vec<String>,
    /// The machine that it runs on; this one if there is none.
    pub host: Option<Host>,
    /// Let it live on when this process ends without dropping its [`NodeProcess`].
    pub keep: bool,
}

/// A node process and the client that speaks to it.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    data_dir: PathBuf,
    start: Start,
    child: Mutex<Option<Child>>,
    client: Client,
}

impl NodeProcess {
    /// Starts a node over `data_dir` and returns once it serves.
    ///
    /// # Errors
    /// [`GridError::NotUp`] with what it printed if it does not come up.
    pub async fn start(name: &str, data_dir: &Path, start: Start) -> Result<Self, GridError> {
        let client = Client::new(data_dir);
        let node =
            Self { name: name.to_owned(), data_dir: data_dir.to_path_buf(), start, child: Mutex::default(), client };
        node.launch().await?;
        Ok(node)
    }

    /// Starts it again after it was killed or stopped, over the same folder.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn start_again(&mut self) -> Result<(), GridError> {
        self.launch().await
    }

    /// SIGKILL, and starts it again over the same folder.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub async fn replace(&self) -> Result<(), GridError> {
        self.end().await?;
        self.launch().await
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn launch(&self) -> Result<(), GridError> {
        let io = |what: &str| {
            let what = format!("{what} {}", self.data_dir.display());
            move |source| GridError::Io { what, source }
        };
        std::fs::create_dir_all(&self.data_dir).map_err(io("cannot make"))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(io("cannot write the log in"))?;
        let mut command = match &self.start.host {
            Some(host) => Command::from(host.command(&self.start.program)),
            None => Command::new(&self.start.program),
        };
        command.arg("--data-dir").arg(&self.data_dir).args(["--output", "json", "up"]);
        for setting in &self.start.settings {
            command.args(["--set", setting]);
        }
        // A process group of its own: Ctrl-C in the terminal is for whoever raised the grid, who then ends the nodes.
        command.process_group(0).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        if self.start.keep {
            command.stdin(Stdio::null());
        } else {
            command.arg("--until-stdin-closes").stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|source| GridError::Io {
            what: format!("cannot start {}", self.start.program.display()),
            source,
        })?;
        let ready = self.first_line(&mut child).await;
        *self.child() = Some(child);
        ready
    }

    /// A node prints its status as one line of JSON when it serves.
    async fn first_line(&self, child: &mut Child) -> Result<(), GridError> {
        let not_up = |why: String| GridError::NotUp { name: self.name.clone(), why, log: self.log() };
        let stdout = child.stdout.take().ok_or_else(|| not_up("its output cannot be read".into()))?;
        let mut line = String::new();
        let read = timeout(START_WITHIN, BufReader::new(stdout).read_line(&mut line)).await;
        match read {
            Err(_) => Err(not_up(format!("no sign of life in {} s", START_WITHIN.as_secs()))),
            Ok(Err(error)) => Err(not_up(error.to_string())),
            Ok(Ok(0)) => {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                let last =
                    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
                Err(not_up(last))
            }
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// Whether it was started and not killed or stopped since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child().is_some()
    }

    /// The name it was given here.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where its log goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data_dir.join("node.log")
    }

    /// Speaks to it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its status.
    ///
    /// # Errors
    /// [`GridError::Control`].
    pub async fn status(&self) -> Result<NodeStatus, GridError> {
        self.client.status().await.map_err(|source| self.control(source))
    }

    /// Names this node in a client's error.
    #[must_use]
    pub fn control(&self, source: ClientError) -> GridError {
        GridError::Control { name: self.name.clone(), source }
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().and_then(Child::id)
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// [`GridError::Io`] if the system refuses.
    pub async fn kill(&mut self) -> Result<(), GridError> {
        self.end().await
    }

    async fn end(&self) -> Result<(), GridError> {
        let child = self.child().take();
        if let Some(mut child) = child {
            child.kill().await.map_err(|source| self.signal_failed(source))?;
        }
        Ok(())
    }

    /// SIGSTOP: it hangs, its sockets stay open.
    ///
    /// # Errors
    /// [`GridError::Io`] if it does not run.
    pub fn pause(&self) -> Result<(), GridError> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`GridError::Io`] if it does not run.
    pub fn resume(&self) -> Result<(), GridError> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the orderly end.
    ///
    /// # Errors
    /// [`GridError::Io`] if it does not run or does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus, GridError> {
        self.signal(Signal::TERM)?;
        let not_running = || io::Error::from(io::ErrorKind::NotFound);
        let child = self.child().take();
        let Some(mut child) = child else { return Err(self.signal_failed(not_running())) };
        match timeout(STOP_WITHIN, child.wait()).await {
            Ok(status) => status.map_err(|source| self.signal_failed(source)),
            Err(_) => Err(self.signal_failed(io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), GridError> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.signal_failed(io::Error::from(io::ErrorKind::NotFound)))?;
        kill_process(pid, signal).map_err(|errno| self.signal_failed(errno.into()))
    }

    fn signal_failed(&self, source: io::Error) -> GridError {
        GridError::Io { what: format!("cannot signal node {}", self.name), source }
    }

    /// The most memory it had resident so far, in bytes (`VmHWM` of proc(5)).
    #[must_use]
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        peak_memory_bytes(self.pid()?)
    }
}

/// The most memory a process had resident so far, in bytes (`VmHWM` of proc(5)).
fn peak_memory_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
