//! An API server on a loopback port with its objects in a folder: `cargo run --example serve -- <folder>`, then `kubectl --kubeconfig <folder>/kubeconfig …`.

use std::{sync::Arc, time::Duration};

use atoll_apiserver::{ApiServer, Config, MASTERS};
use atoll_kv::{Embedded, EmbeddedConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).ok_or("name a folder for the objects")?);
    std::fs::create_dir_all(&dir)?;
    let kv =
        Arc::new(Embedded::open(dir.join("kv"), EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::watched() })?);
    let server = ApiServer::open(kv, Config::new(dir.join("keys"))).await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let client = server.issue_client("admin", &[MASTERS], Duration::from_secs(24 * 3600))?;
    let url = format!("https://{}", listener.local_addr()?);
    std::fs::write(dir.join("kubeconfig"), server.kubeconfig("example", &url, &client))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream, CancellationToken::new()).await });
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    server.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
