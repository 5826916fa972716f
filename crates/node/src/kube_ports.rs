//! Loopback ports for kubectl: one per eVDC of this node's owner, the same after a restart.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_cloud::{ApiAddress, Evdc};
use atoll_ids::EvdcId;
use atoll_kv::{KeyValue, KvError, Mutation};
use atoll_link::LinkHandle;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Ports lie under `evdc/port/<id>`, as text.
const PREFIX: &str = "evdc/port/";

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// What was remembered cannot be read or written.
    #[error(transparent)]
    Remember(#[from] KvError),
    /// No port can be had.
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[from] io::Error),
    /// The eVDC has no node for its API yet.
    #[error("it has no nodes yet")]
    NoControl,
}

/// The ports in use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KubePorts {
    kv: Arc<dyn KeyValue>,
    link: LinkHandle,
    served: Arc<Mutex<BTreeMap<EvdcId, (u16, CancellationToken)>>>,
}

impl KubePorts {
    pub(crate) fn new(kv: Arc<dyn KeyValue>, link: LinkHandle) -> Self {
        Self { kv, link, served: Arc::default() }
    }

    /// Where the API of an eVDC is served, if it is.
    pub(crate) fn url(&self, evdc: &EvdcId) -> Option<String> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(evdc).map(|(port, _)| format!("https://127.0.0.1:{port}"))
    }

    /// Serves the API of an eVDC on its port until told to stop; nothing new if it is served already.
    pub(crate) async fn serve(&self, evdc: &Evdc, stop: &CancellationToken) -> Result<(), PortError> {
        if self.url(&evdc.id).is_some() {
            return Ok(());
        }
        let control = evdc.control().ok_or(PortError::NoControl)?;
        let key = Bytes::from(format!("{PREFIX}{}", evdc.id));
        let remembered = self.kv.get(&key).await?;
        let remembered = remembered.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u16>().ok());
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = match TcpListener::bind(at(remembered.unwrap_or(0))).await {
            // Somebody else has it by now: kubeconfigs made before have to be made anew.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind(at(0)).await?,
            bound => bound?,
        };
        let port = listener.local_addr()?.port();
        if remembered != Some(port) {
            let value = Bytes::from(port.to_string());
            self.kv.commit(Vec::new(), vec![Mutation::Put { key, value }]).await?;
        }
        let stop = stop.child_token();
        let address = ApiAddress { link: self.link.clone(), control, evdc: evdc.id };
        tokio::spawn(address.serve_local(listener, stop.clone()));
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(evdc.id, (port, stop));
        Ok(())
    }

    /// Ends serving the API of an eVDC that is no more.
    pub(crate) async fn end(&self, evdc: &EvdcId) -> Result<(), PortError> {
        let removed = self.served.lock().unwrap_or_else(PoisonError::into_inner).remove(evdc);
        if let Some((_, stop)) = removed {
            stop.cancel();
        }
        let key = Bytes::from(format!("{PREFIX}{evdc}"));
        self.kv.commit(Vec::new(), vec![Mutation::Delete { key }]).await?;
        Ok(())
    }
}
