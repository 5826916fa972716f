//! Where a tenant's volumes lie: the members of the eVDC and the tenant's own node, entered with the tenant's grant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use atoll_engine::{HomeInfo, Homes};
use atoll_ids::NodeId;
use atoll_keys::Signed;
use atoll_link::{LinkHandle, Traffic};
use atoll_shard::{BoxStream, Dial, DialError, ShardClient, ShardHome, StorageGrant};
use futures_util::future::BoxFuture;

/// Opens shard streams through the link.
struct LinkDial(LinkHandle);

impl Dial for LinkDial {
    fn open(&self, node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let opened = self.0.open(node, atoll_shard::ALPN, Traffic::Bulk).await;
            let stream = opened.map_err(|error| DialError::Unreachable(error.to_string()))?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

/// The homes of one tenant as seen from one member.
pub struct TenantHomes {
    link: LinkHandle,
    /// What this node knows of all its peers: who lends storage, where it stands, whether it answers.
    peers: Arc<dyn Homes>,
    among: BTreeSet<NodeId>,
    grant: Signed<StorageGrant>,
    /// This node's own segments, under the tenant's namespace.
    local: Option<Arc<dyn ShardHome>>,
    clients: Mutex<BTreeMap<NodeId, Arc<ShardClient>>>,
}

impl TenantHomes {
    /// Homes `among` these nodes; `local` is this node's own storage for the tenant.
    pub fn new(
        link: LinkHandle,
        peers: Arc<dyn Homes>,
        among: BTreeSet<NodeId>,
        grant: Signed<StorageGrant>,
        local: Option<Arc<dyn ShardHome>>,
    ) -> Self {
        Self { link, peers, among, grant, local, clients: Mutex::default() }
    }
}

impl Homes for TenantHomes {
    fn list(&self) -> Vec<HomeInfo> {
        self.peers.list().into_iter().filter(|home| self.among.contains(&home.node)).collect()
    }

    fn home(&self, node: NodeId) -> Option<Arc<dyn ShardHome>> {
        if let Some(local) = self.local.as_ref().filter(|local| local.node() == node) {
            return Some(local.clone());
        }
        if !self.among.contains(&node) || self.link.peer(&node).is_none() {
            return None;
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(node).or_insert_with(|| {
            Arc::new(ShardClient::new(node, Arc::new(LinkDial(self.link.clone())), self.grant.clone()))
        });
        Some(client.clone())
    }
}
