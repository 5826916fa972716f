//! Commands about reaching out: the proxy, and one connection at a time.

use std::fmt::Write as _;

use anyhow::Context as _;
use atoll_control::{ProxyCounts, ProxyRequest, ProxyStatus};
use atoll_ids::ByteCount;
use atoll_node::DataDir;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::Context;
use crate::args::{NetConnect, NetProxy};
use crate::output::print;

/// Bytes read from standard input at once, each a chunk of the request.
const STDIN_CHUNK_BYTES: usize = 64 << 10;

/// Shows the proxy, after choosing the exit if one is named.
pub(super) async fn show(context: &Context, asked: &NetProxy) -> anyhow::Result<()> {
    let client = context.client();
    let status = match asked.exit.as_slice() {
        [] => client.proxy().await?,
        [off] if off == "off" => client.set_proxy(&ProxyRequest { exit_via: Vec::new() }).await?,
        routes => client.set_proxy(&ProxyRequest { exit_via: routes.to_vec() }).await?,
    };
    print(context.output, &status, |status| text(status, &program(context)))
}

/// How this program is called for the same node.
fn program(context: &Context) -> String {
    let usual = DataDir::default_path(|name| std::env::var(name).ok());
    match usual {
        Ok(usual) if usual == context.data_dir => "atoll".into(),
        _ => format!("atoll --data-dir {}", context.data_dir.display()),
    }
}

fn text(status: &ProxyStatus, program: &str) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &'static str, value: String| lines.push((name, value));
    line("proxy", status.address.as_ref().map_or("no port".into(), |at| format!("{at}, SOCKS5 and HTTP")));
    if let Some(socket) = &status.socket {
        line("socket", format!("{socket}, the same"));
    }
    if let Some(note) = &status.note {
        line("note", note.clone());
    }
    line("exit", if status.exit_via.is_empty() { "none: the network only".into() } else { status.exit_via.join(", ") });
    line("programs", counts(&status.programs));
    line("peers", counts(&status.peers));
    for rule in &status.exit {
        line("leads out", rule.clone());
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    if let Some(proxy) = url(status) {
        // Formatting into a string does not fail.
        let _: std::fmt::Result = write!(
            text,
            "\nNODE is a node's id, or its name with .atoll behind it:\n\
             curl       curl --proxy {proxy} http://NODE.atoll:8080/\n\
             others     export ALL_PROXY={proxy}\n\
             git        git -c http.proxy={proxy} clone http://NODE.atoll:3000/repository.git\n"
        );
    }
    let _: std::fmt::Result = writeln!(text, "ssh        ssh -o ProxyCommand='{program} net connect %h %p' NODE.atoll");
    text
}

/// As programs want it named; names are left to the proxy (`h`).
fn url(status: &ProxyStatus) -> Option<String> {
    let tcp = status.address.as_ref().map(|address| format!("socks5h://{address}"));
    // So since curl 7.84.
    tcp.or_else(|| status.socket.as_ref().map(|socket| format!("socks5h://localhost{socket}")))
}

fn counts(counts: &ProxyCounts) -> String {
    let ProxyCounts { open, connected, denied, sent_bytes, received_bytes } = *counts;
    let (sent, received) = (ByteCount(sent_bytes), ByteCount(received_bytes));
    format!("{open} open, {connected} connected and {denied} denied so far, {sent} sent, {received} received")
}

/// Standard input goes to the port, what comes back to standard output; it is over when the other end ends, or in failure when it breaks.
pub(super) async fn connect(context: &Context, asked: &NetConnect) -> anyhow::Result<()> {
    let input = ReaderStream::with_capacity(tokio::io::stdin(), STDIN_CHUNK_BYTES);
    let mut answer = context.client().connect(&asked.node, asked.port, Box::pin(input)).await?;
    let mut output = tokio::io::stdout();
    while let Some(part) = answer.next().await? {
        output.write_all(&part).await.context("cannot write standard output")?;
        output.flush().await.context("cannot write standard output")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_name_what_there_is() {
        let none = ProxyCounts { open: 0, connected: 0, denied: 0, sent_bytes: 0, received_bytes: 0 };
        let mut status = ProxyStatus {
            address: Some("127.0.0.1:5780".into()),
            socket: Some("/x/proxy.sock".into()),
            note: None,
            exit_via: Vec::new(),
            exit: vec!["peers internet tcp".into()],
            programs: none,
            peers: none,
        };
        let check = |status: &ProxyStatus, expect: &[&str]| {
            let text = text(status, "atoll --data-dir /x");
            assert!(expect.iter().all(|part| text.contains(part)), "{text}");
        };
        check(
            &status,
            &["curl --proxy socks5h://127.0.0.1:5780", "leads out  peers internet tcp", "none: the network"],
        );
        check(&status, &["ProxyCommand='atoll --data-dir /x net connect %h %p'"]);
        status.address = None;
        check(&status, &["curl --proxy socks5h://localhost/x/proxy.sock", "no port"]);
        status.socket = None;
        assert!(!text(&status, "atoll").contains("curl"));
    }
}
