//! systemd-resolved told that `atoll` is behind the planetary interface (resolvectl(1)): split DNS without a file of anyone's being touched.
//!
//! It asks over an interface only if that has an address for it (`mark`). What it is told belongs to the interface, and goes with it: also when the node is killed, for the interface is gone then.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::mark::Mark;
use crate::namespaces::is_of_first;

/// Where it keeps its state while it runs.
const RUNS: &str = "/run/systemd/resolve/stub-resolv.conf";

/// Its answer comes at once or not at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where resolvers answer; another port has to be named.
const DNS_PORT: u16 = 53;

/// Names that it is to ask this node for, and no others: the tilde says that they are no search domains.
const DOMAINS: [&str; 2] = ["~atoll", "~6.0.ip6.arpa"];

/// A way to speak to it.
#[derive(Clone, Debug)]
pub struct Resolved {
    program: PathBuf,
}

impl Resolved {
    /// Looks whether it runs, for this process's network.
    ///
    /// # Errors
    /// Why it is not to be told.
    pub fn find() -> Result<Self, String> {
        if !Path::new(RUNS).exists() {
            return Err("systemd-resolved does not run here".to_owned());
        }
        // An interface is named by its number there, and the number means another interface in another network namespace.
        match is_of_first("net") {
            Ok(true) => {}
            Ok(false) => return Err("this network namespace is not the one that systemd-resolved serves".to_owned()),
            Err(_) => return Err("it takes root to know that systemd-resolved serves this network".to_owned()),
        }
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&paths).map(|folder| folder.join("resolvectl")).find(|file| file.is_file());
        found.map(|program| Self { program }).ok_or_else(|| "there is no resolvectl".to_owned())
    }

    /// Speaks to it by this program, which takes resolvectl's arguments.
    #[must_use]
    pub fn by(program: PathBuf) -> Self {
        Self { program }
    }

    /// Names below `atoll`, and the addresses in `0600::/8`, are asked for at `server`, by way of `interface`.
    ///
    /// # Errors
    /// What it says. Nothing is left behind then.
    pub async fn set(&self, interface: &str, server: SocketAddr) -> Result<(), String> {
        let mark = Mark::of(interface).map_err(|error| format!("the interface {interface}: {error}"))?;
        mark.give().await.map_err(|error| format!("the interface {interface} cannot be given an address: {error}"))?;
        let server = if server.port() == DNS_PORT { server.ip().to_string() } else { server.to_string() };
        let steps: [&[&str]; 6] = [
            &["dns", interface, &server],
            &["domain", interface, DOMAINS[0], DOMAINS[1]],
            // Nothing else is asked there, and these names are not signed.
            &["default-route", interface, "no"],
            &["dnssec", interface, "no"],
            &["llmnr", interface, "no"],
            &["mdns", interface, "no"],
        ];
        for step in steps {
            if let Err(why) = self.run(step).await {
                if let Err(error) = self.revert(interface).await {
                    tracing::debug!(error, "nothing was to be taken back");
                }
                return Err(why);
            }
        }
        Ok(())
    }

    /// Takes back what was said of `interface`.
    ///
    /// # Errors
    /// What it says; an interface that is gone is one of them, and fine.
    pub async fn revert(&self, interface: &str) -> Result<(), String> {
        if let Ok(mark) = Mark::of(interface)
            && let Err(error) = mark.take().await
        {
            tracing::debug!(%error, interface, "its address was gone already");
        }
        self.run(&["revert", interface]).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let what =
            || format!("{} {}", self.program.file_name().unwrap_or(OsStr::new("?")).display(), arguments.join(" "));
        match timeout(ANSWER_WITHIN, command.output()).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(format!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim())),
            Ok(Err(error)) => Err(format!("{}: {error}", what())),
            Err(_) => Err(format!("{}: no answer in {} s", what(), ANSWER_WITHIN.as_secs())),
        }
    }
}
