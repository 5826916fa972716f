//! Renting and working together as two steps: nodes are reserved one after the other, and made an eVDC once all are there.

use atoll_ids::NodeId;
use atoll_kv::Mutation;
use atoll_lease::{Membership, evdc_id};

use super::{Evdc, Tenant, TenantError, Wish, key};

impl Tenant {
    /// Rents nodes, so that there are as many as wished for an eVDC of this name: one that stands grows by [`Tenant::pursue`], one that does not yet is made
    /// of them by [`Tenant::open`]. The gateway of the wish does not matter yet.
    ///
    /// # Errors
    /// [`TenantError`]; nodes that were rented until then stay so, and the next call goes on from there.
    pub async fn reserve(&self, wish: Wish) -> Result<Evdc, TenantError> {
        let _one_at_a_time = self.pursuing.lock().await;
        let id = evdc_id(self.owner.id(), &wish.name);
        let mut evdc = match self.known(id).await? {
            Some(known) if known.wish.each != wish.each => return Err(TenantError::Exists(wish.name)),
            Some(mut known) => {
                known.wish.nodes = known.wish.nodes.max(wish.nodes);
                known
            }
            None => {
                Membership::check_name(&wish.name)?;
                Evdc { reserved: true, ..Evdc::new(id, wish) }
            }
        };
        // Kept only once there are nodes: a wish that nobody answers is not pursued behind one's back.
        self.choose(&mut evdc).await?;
        for index in 0..evdc.picks.len() {
            self.rent(&mut evdc, index).await?;
        }
        Ok(evdc)
    }

    /// Makes an eVDC of nodes that are rented, with this gateway; one that stands gets this gateway instead of the one it has.
    ///
    /// # Errors
    /// [`TenantError`]
    pub async fn open(&self, name: &str, gateway: Option<(NodeId, String)>) -> Result<Evdc, TenantError> {
        {
            let _one_at_a_time = self.pursuing.lock().await;
            let known = self.known(evdc_id(self.owner.id(), name)).await?;
            let mut evdc = known.ok_or_else(|| TenantError::NotFound(name.to_owned()))?;
            if evdc.wish.gateway != gateway {
                evdc.wish.gateway = gateway;
                evdc.serial += 1;
            }
            evdc.reserved = false;
            self.keep(&evdc).await?;
        }
        self.pursue(name).await
    }

    /// Gives back nodes that are rented and not yet an eVDC, until `nodes` are left.
    ///
    /// # Errors
    /// [`TenantError::Stands`] if they are one by now.
    pub async fn return_reserved(&self, name: &str, nodes: usize) -> Result<(), TenantError> {
        let _one_at_a_time = self.pursuing.lock().await;
        let mut evdc = match self.get(name).await {
            Err(TenantError::NotFound(_)) => return Ok(()),
            evdc => evdc?,
        };
        if !evdc.reserved {
            return Err(TenantError::Stands(name.to_owned()));
        }
        while evdc.picks.len() > nodes {
            if let Some(pick) = evdc.picks.last() {
                self.release(pick).await?;
            }
            evdc.picks.pop();
            evdc.wish.nodes = evdc.picks.len();
            self.keep(&evdc).await?;
        }
        if nodes == 0 {
            self.kv.commit(Vec::new(), vec![Mutation::Delete { key: key(evdc.id) }]).await?;
        }
        Ok(())
    }
}
