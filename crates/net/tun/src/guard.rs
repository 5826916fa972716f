//! Keeps planetary addresses off the other interfaces, by an nftables table of our own.
//!
//! Linux takes a packet for any of its addresses on any interface. Without this a machine on the same cable could send to the planetary address past
//! the filter, or speak from one that is not its own. The table drops, on every interface but the planetary ones and loopback, what is for our
//! address or from any planetary one. It is named after the interface, replaced when that is raised and removed with it; what a crash leaves drops only
//! what has no business there.

use std::net::Ipv6Addr;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The table, while it is there.
#[derive(Debug)]
pub(crate) struct Guard {
    table: String,
}

impl Guard {
    /// Sets the table up.
    pub(crate) async fn set(interface: &str, address: Ipv6Addr) -> Result<Self, String> {
        let table = table(interface);
        apply(&script(&table, interface, address)).await?;
        Ok(Self { table })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("nft");
        command.args(["delete", "table", "ip6", &self.table]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Milliseconds, once, at the end.
        let _: std::io::Result<_> = command.status();
    }
}

/// Names of interfaces may have characters that names of tables may not.
fn table(interface: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    format!("atoll_{}", interface.chars().map(plain).collect::<String>())
}

/// Declaring a table before it is deleted makes this work whether or not there is one; all of it takes effect at once.
fn script(table: &str, interface: &str, address: Ipv6Addr) -> String {
    format!(
        r#"table ip6 {table} {{}}
delete table ip6 {table}
table ip6 {table} {{
  chain arriving {{
    type filter hook prerouting priority raw; policy accept;
    iifname {{ "lo", "{interface}" }} accept
    iifname "atoll*" accept
    ip6 daddr {address} drop
    ip6 saddr 600::/8 drop
  }}
}}
"#
    )
}

async fn apply(script: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("nft is missing: apt-get install nftables".to_owned());
        }
        spawned => spawned.map_err(|error| format!("nft: {error}"))?,
    };
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).await.map_err(|error| format!("nft: {error}"))?;
    }
    let output = child.wait_with_output().await.map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("nft: {}", said.lines().next().unwrap_or("it failed without a word")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_names_of_tables() {
        assert_eq!(table("atoll0"), "atoll_atoll0");
        assert_eq!(table("my-net.1"), "atoll_my_net_1");
    }
}
