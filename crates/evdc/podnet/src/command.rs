//! Running the system's own tools: `ip`, `nft`, `nsenter`, `unshare`. Arguments are never put together by a shell, input goes in by a
//! pipe, output is bounded by what these tools say, and a tool that hangs is killed.

use std::ffi::OsStr;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// They take milliseconds; on a machine that is busy with everything else, still not this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Enough of a tool's complaint to act on.
const ANSWER_CHARS_MAX: usize = 600;

/// Where tools are looked for: PATH of a daemon may lack `sbin`.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of the system that this crate calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// iproute2.
    Ip,
    /// nftables.
    Nft,
    /// util-linux: run in a namespace.
    Nsenter,
    /// util-linux: make a namespace.
    Unshare,
}

impl Tool {
    pub(crate) const ALL: [Self; 4] = [Self::Ip, Self::Nft, Self::Nsenter, Self::Unshare];

    fn program(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Nft => "nft",
            Self::Nsenter => "nsenter",
            Self::Unshare => "unshare",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Ip => "iproute2",
            Self::Nft => "nftables",
            Self::Nsenter | Self::Unshare => "util-linux",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// A tool could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("{tool} is not installed: apt-get install {}", tool.package())]
    Missing {
        /// Which.
        tool: Tool,
    },
    /// It could not be started or spoken to.
    #[error("could not run {tool} to {purpose}: {source}")]
    Io {
        /// Which.
        tool: Tool,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not end.
    #[error("{tool} did not {purpose} within {} s and was ended", TIMEOUT.as_secs())]
    Hung {
        /// Which.
        tool: Tool,
        /// What for.
        purpose: &'static str,
    },
    /// It refused.
    #[error("{tool} could not {purpose}: {answer}")]
    Refused {
        /// Which.
        tool: Tool,
        /// What for.
        purpose: &'static str,
        /// What it said.
        answer: String,
    },
}

/// Runs the tool with these arguments and this input; its output when it succeeds.
pub(crate) async fn run<A: AsRef<OsStr>>(
    tool: Tool,
    purpose: &'static str,
    arguments: &[A],
    input: &str,
) -> Result<Vec<u8>, CommandError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => CommandError::Missing { tool },
        _ => CommandError::Io { tool, purpose, source },
    };
    let mut command = Command::new(tool.program());
    command.args(arguments).env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = async {
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let feed = async move {
            // A tool that stops reading says why on its way out; that is the error to report.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| CommandError::Hung { tool, purpose })?;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(ANSWER_CHARS_MAX).collect();
    let answer = if said.is_empty() { output.status.to_string() } else { said };
    Err(CommandError::Refused { tool, purpose, answer })
}

/// Lines for `ip -6 -batch -`, which stops at the first that fails.
pub(crate) async fn ip_batch(purpose: &'static str, lines: &[String]) -> Result<(), CommandError> {
    run(Tool::Ip, purpose, &["-6", "-batch", "-"], &batch(lines)).await.map(drop)
}

pub(crate) fn batch(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One transaction: all of these commands (libnftables-json(5)) or none.
pub(crate) async fn nft(purpose: &'static str, commands: &[serde_json::Value]) -> Result<(), CommandError> {
    let input = serde_json::json!({ "nftables": commands }).to_string();
    run(Tool::Nft, purpose, &["-j", "-f", "-"], &input).await.map(drop)
}
