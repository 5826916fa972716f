//! The provider's side: answers what tenants ask of this node, and ends what is over.

use std::sync::Arc;
use std::time::Duration;

use atoll_ids::{EvdcId, NodeId};
use atoll_keys::Signed;
use atoll_lease::{Keeper, LeaseEnd, Membership};
use atoll_link::{AddressRecord, BoxStream, IntroduceError, LinkHandle};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::assignment::{Assigned, Assignment, Assignments};
use crate::protocol::{Admission, Answer, Credentials, Request, hear};
use crate::tenant::now;

/// Leases end to the second; looking every five is near enough for something that runs for hours.
const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// Hands out credentials for the API servers that run on this node.
pub trait Issue: Send + Sync + 'static {
    /// Credentials of a member's agent, or of the administrator.
    ///
    /// # Errors
    /// Why not, in words.
    fn issue(&self, evdc: EvdcId, whom: Whom) -> BoxFuture<'_, Result<Credentials, String>>;

    /// The tenant gave the eVDC back: ends what serves it, and removes what it kept here.
    fn removed(&self, evdc: EvdcId) -> BoxFuture<'_, ()>;
}

/// Who gets credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The agent of the member of this name.
    Member(String),
    /// The tenant.
    Administrator,
}

/// Answers tenants and members. Cheap to clone.
#[derive(Clone)]
pub struct Provider {
    keeper: Keeper,
    assignments: Assignments,
    link: LinkHandle,
    issue: Arc<dyn Issue>,
}

impl Provider {
    /// A provider that takes assignments for the leases of `keeper`.
    pub fn new(keeper: Keeper, assignments: Assignments, link: LinkHandle, issue: Arc<dyn Issue>) -> Self {
        Self { keeper, assignments, link, issue }
    }

    /// Serves one stream of [`PROTOCOL`](crate::PROTOCOL).
    pub async fn handle(&self, peer: NodeId, stream: BoxStream) {
        let served = hear(stream, |request| self.respond(peer, request)).await;
        if let Err(error) = served {
            tracing::debug!(peer = %peer.short(), %error, "a request for an eVDC was not answered");
        }
    }

    /// Serves one stream of [`atoll_lease::PROTOCOL`].
    pub async fn handle_lease(&self, peer: NodeId, stream: BoxStream) {
        if let Err(error) = atoll_lease::serve(stream, &self.keeper, now()).await {
            tracing::debug!(peer = %peer.short(), %error, "a request for a lease was not answered");
        }
    }

    /// Ends leases whose time is over, and what was done for them, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EXPIRE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.expire(now()).await {
                tracing::warn!(error, "leases that are over could not be ended");
            }
        }
    }

    async fn expire(&self, now: u64) -> Result<(), String> {
        for ended in self.keeper.expire(now).await.map_err(|error| error.to_string())? {
            tracing::info!(lease = %ended.terms.id, tenant = %ended.terms.tenant.short(), "a lease is over");
            self.drop_unless_leased(ended.terms.evdc, now).await?;
        }
        Ok(())
    }

    /// The lease of an assignment may have been renewed, and only the assignment be of before.
    async fn drop_unless_leased(&self, evdc: EvdcId, now: u64) -> Result<(), String> {
        let Some(assigned) = self.assignments.get(&evdc) else { return Ok(()) };
        if self.keeper.running(&assigned.terms.id, now).is_none() {
            self.assignments.drop(evdc).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn respond(&self, peer: NodeId, request: Request) -> Answer {
        let answered = match request {
            Request::Assign(assignment) => self.assign(peer, *assignment).await.map(|_| Answer::Done),
            Request::Admit(admission) => self.admit(peer, *admission).await.map(|()| Answer::Done),
            Request::Release(end) => self.release(&end).await.map(|()| Answer::Done),
            Request::Credentials(evdc) => self.credentials(peer, evdc).await.map(Answer::Credentials),
        };
        answered.unwrap_or_else(Answer::Refused)
    }

    async fn assign(&self, peer: NodeId, assignment: Assignment) -> Result<Assigned, String> {
        let checked = assignment.check(self.link.node_id(), None, now()).map_err(|error| error.to_string())?;
        if checked.membership.home != peer {
            return Err("an assignment comes from the tenant's own node".into());
        }
        // What this node signed counts, not what it is shown: a lease that was ended early is still signed.
        if self.keeper.running(&checked.terms.id, now()).is_none() {
            return Err("this node knows no such lease; was it ended?".into());
        }
        self.introduce(&assignment.records).await?;
        self.assignments.take(assignment, now()).await.map_err(|error| error.to_string())
    }

    async fn introduce(&self, records: &[Signed<AddressRecord>]) -> Result<(), String> {
        for record in records {
            match self.link.introduce(record.clone()).await {
                Ok(_) | Err(IntroduceError::Own) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Makes the members of an eVDC known to its gateway, on the word of a tenant whose node it knows. Only members are taken.
    async fn admit(&self, peer: NodeId, admission: Admission) -> Result<(), String> {
        let membership = Membership::check(&admission.membership, None).map_err(|error| error.to_string())?;
        if membership.home != peer {
            return Err("members are announced by the tenant's own node".into());
        }
        if membership.gateway.as_ref().is_none_or(|(gateway, _)| *gateway != self.link.node_id()) {
            return Err("this node is not the gateway of that eVDC".into());
        }
        let is_member =
            |record: &Signed<AddressRecord>| membership.member(NodeId::from_bytes(*record.claimed_signer())).is_some();
        let records: Vec<_> = admission.records.into_iter().filter(is_member).collect();
        self.introduce(&records).await
    }

    /// What serves the eVDC ends first and the lease last: broken off anywhere, the tenant's next try finds the lease and does the rest.
    async fn release(&self, end: &Signed<LeaseEnd>) -> Result<(), String> {
        // Ended before, and the answer was lost: what is asked for holds.
        let Some(terms) = self.keeper.ended_by(end) else { return Ok(()) };
        self.issue.removed(terms.evdc).await;
        self.assignments.drop(terms.evdc).await.map_err(|error| error.to_string())?;
        self.keeper.end(end).await.map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn credentials(&self, peer: NodeId, evdc: EvdcId) -> Result<Credentials, String> {
        let assigned = self.assignments.get(&evdc).filter(Assigned::is_control);
        let assigned = assigned.ok_or("this node does not serve the API of this eVDC")?;
        let whom = match assigned.membership.member(peer) {
            // A tenant may rent a node of its own; it is then both, and asks for the one that says more.
            _ if assigned.membership.home == peer => Whom::Administrator,
            Some(member) => Whom::Member(member.name.clone()),
            None => return Err("you are no member of this eVDC".into()),
        };
        self.issue.issue(evdc, whom).await
    }
}
