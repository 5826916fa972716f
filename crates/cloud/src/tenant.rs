//! The tenant's side: from a wish to an eVDC, and keeping it.
//!
//! What is wished is on disk before anybody is asked, lease ids are drawn before they are proposed, and proposing the same lease again renews it: so
//! [`Tenant::pursue`] can be broken off anywhere and begun again, and ends in the same eVDC.

mod reserve;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_gateway::Claim;
use atoll_ids::{EvdcId, LeaseId, NodeId, OwnerId};
use atoll_keys::{OwnerKey, Signed};
use atoll_kv::{KeyValue, KvError, Mutation, Scan};
use atoll_lease::{
    Answer as LeaseAnswer, Capacity, Lease, LeaseEnd, LeaseTerms, Member, Membership, MembershipError, Offer, Price,
    Request as LeaseRequest, TooFew, check_offer, choose, evdc_id,
};
use atoll_link::{LinkHandle, Traffic};
use atoll_shard::StorageGrant;
use atoll_wire::{DecodeError, Versioned, decode, decode_body, encode};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::assignment::Assignment;
use crate::protocol::{Admission, Answer, Credentials, PROTOCOL, Request, ask};

/// Where a tenant's eVDCs lie in the key-value store.
const PREFIX: &[u8] = b"evdc/own/";

/// eVDCs of one tenant's node.
const EVDCS_MAX: usize = 1000;

/// A lease runs for a day unless the tenant wants another time, and is renewed after half of it: a tenant's node may be away for half a day.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// A grant to store outlives the lease by this, so that a renewal that comes late finds the volumes still writable.
const GRANT_MARGIN_SECONDS: u64 = 3600;

/// Homes that volumes want: six for 4+2, and two more, so that with two gone everything is made whole again. Where the nodes of an eVDC and the tenant's own
/// are fewer, storage alone is rented besides, from peers that lend nothing else.
const HOMES_WISHED: usize = 8;

/// Nodes that answer with an offer within this are chosen among.
const OFFER_WITHIN: Duration = Duration::from_secs(3);

/// What is wished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The eVDC's name: a DNS label, unique for this tenant.
    pub name: String,
    /// How many nodes.
    pub nodes: usize,
    /// How much of each.
    pub each: Capacity,
    /// The most to pay for an hour of a node, in millionths of the currency; offers above are not taken.
    pub price_max: u64,
    /// The gateway, and the domain whose names it gives.
    pub gateway: Option<(NodeId, String)>,
}

/// A node that was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    /// Its place in the eVDC.
    pub member: Member,
    /// What it asked for.
    pub offer: Offer,
    /// The lease, once it is granted.
    pub lease: Option<Lease>,
    /// The serial of the membership that it was told last.
    pub told: u64,
}

impl Pick {
    /// Whether it lends storage alone: nothing runs there.
    #[must_use]
    pub fn is_storage_only(&self) -> bool {
        is_storage_only(&self.offer)
    }

    /// Whether its lease has ended by itself.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.lease.as_ref().and_then(|lease| lease.check().ok()).is_some_and(|terms| terms.not_after <= now)
    }
}

fn is_storage_only(offer: &Offer) -> bool {
    offer.total.cpu_milli == 0
}

/// An eVDC as its tenant keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evdc {
    /// Its id.
    pub id: EvdcId,
    /// What was wished.
    pub wish: Wish,
    /// The nodes.
    pub picks: Vec<Pick>,
    /// Counts up with every change of the members.
    pub serial: u64,
    /// The serial of the membership that the gateway was told last.
    pub gateway_told: u64,
    /// It is to be removed; what is left of it is what could not be told yet.
    pub removing: bool,
    /// Nodes are rented, and it is not wished yet that they work together.
    pub reserved: bool,
}

impl Versioned for Evdc {
    const VERSION: u16 = 2;
    const NAME: &'static str = "eVDC";

    fn from_older(_: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let EvdcV1 { id, wish, picks, serial, gateway_told, removing } = decode_body(Self::NAME, body)?;
        Ok(Self { id, wish, picks, serial, gateway_told, removing, reserved: false })
    }
}

/// Version 1, when renting and working together were one wish.
#[derive(Serialize, Deserialize)]
struct EvdcV1 {
    id: EvdcId,
    wish: Wish,
    picks: Vec<Pick>,
    serial: u64,
    gateway_told: u64,
    removing: bool,
}

impl Evdc {
    fn new(id: EvdcId, wish: Wish) -> Self {
        Self { id, wish, picks: Vec::new(), serial: 0, gateway_told: 0, removing: false, reserved: false }
    }

    /// The member that serves the API: the first that was chosen.
    #[must_use]
    pub fn control(&self) -> Option<NodeId> {
        self.picks.first().map(|pick| pick.member.node)
    }

    /// How many of its nodes run something.
    fn running(&self) -> usize {
        self.picks.iter().filter(|pick| !pick.is_storage_only()).count()
    }

    /// How many that lend storage alone are looked for: as many as volumes want, while the eVDC is founded. Later ones would move what lies there.
    fn storage_missing(&self) -> usize {
        let founding =
            !self.reserved && self.picks.iter().all(|pick| pick.told == 0) && self.running() == self.picks.len();
        // The tenant's own node is a home, too.
        if founding && self.wish.each.storage.0 > 0 { HOMES_WISHED.saturating_sub(self.wish.nodes + 1) } else { 0 }
    }

    /// Whether every node has granted its lease and knows of the present members.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let told = |pick: &Pick| pick.lease.is_some() && pick.told == self.serial;
        let gateway = self.wish.gateway.is_none() || self.gateway_told == self.serial;
        !self.removing && !self.reserved && self.running() == self.wish.nodes && self.picks.iter().all(told) && gateway
    }
}

/// Why an eVDC is not what was wished.
#[derive(Debug, Error)]
pub enum TenantError {
    /// Too few offers.
    #[error(transparent)]
    TooFew(#[from] TooFew),
    /// The name is no label, or the like.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// There is one of this name, and it is different.
    #[error("there is an eVDC {0:?} already, with other wishes; remove it first, or choose another name")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no eVDC {0:?}")]
    NotFound(String),
    /// One of this name was removed, and not every node has been told.
    #[error("the eVDC {name:?} is still being given back: {} did not answer yet", nodes.join(", "))]
    Leaving {
        /// Its name.
        name: String,
        /// The nodes, by their names in it.
        nodes: Vec<String>,
    },
    /// Nodes of an eVDC that stands are not given back one by one.
    #[error(
        "the eVDC {0:?} stands on its nodes: parts of its volumes lie on each, so they are given back all together"
    )]
    Stands(String),
    /// A node does not do its part.
    #[error("node {} ({}): {why}", .name, .node.short())]
    Node {
        /// Its name in the eVDC.
        name: String,
        /// Which.
        node: NodeId,
        /// What is in the way.
        why: String,
    },
    /// The gateway is not a peer.
    #[error("the gateway {} is not known here; join it first", .0.short())]
    Gateway(NodeId),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] KvError),
    /// What is on disk is not an eVDC.
    #[error(transparent)]
    Corrupt(#[from] DecodeError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// A tenant on its own node. Cheap to clone.
#[derive(Clone)]
pub struct Tenant {
    owner: Arc<OwnerKey>,
    kv: Arc<dyn KeyValue>,
    link: LinkHandle,
    lease_seconds: u64,
    /// One change at a time.
    pursuing: Arc<tokio::sync::Mutex<()>>,
}

impl Tenant {
    /// The tenant `owner`, who reaches others through `link`.
    pub fn new(owner: Arc<OwnerKey>, kv: Arc<dyn KeyValue>, link: LinkHandle) -> Self {
        Self { owner, kv, link, lease_seconds: LEASE.as_secs(), pursuing: Arc::default() }
    }

    /// The same with leases that run for this long before they are renewed: as long as what runs outlives the tenant's own node, and is paid for, at most.
    #[must_use]
    pub fn with_leases_of(self, time: Duration) -> Self {
        Self { lease_seconds: time.as_secs(), ..self }
    }

    /// How often [`Tenant::pursue`] must be called so that no lease runs out.
    #[must_use]
    pub fn pursue_every(&self) -> Duration {
        // Renewed after half, two tries before the end.
        Duration::from_secs(self.lease_seconds / 8)
    }

    /// What the peers lend now; those that do not answer in time are left out.
    pub async fn offers(&self) -> Vec<Offer> {
        let asked = self.link.peers().into_iter().map(|peer| async move {
            let answer = tokio::time::timeout(OFFER_WITHIN, self.lease(peer.id, &LeaseRequest::Offer)).await;
            let Ok(Ok(LeaseAnswer::Offer(offer))) = answer else { return None };
            let checked = check_offer(&offer, peer.id, now());
            let checked = checked.map(|offer| Some(offer).filter(|offer| offer.total != Capacity::default()));
            checked.inspect_err(|error| tracing::warn!(peer = %peer.id.short(), %error, "an offer is not good")).ok()
        });
        join_all(asked).await.into_iter().flatten().flatten().collect()
    }

    /// All eVDCs.
    ///
    /// # Errors
    /// [`TenantError`]
    pub async fn all(&self) -> Result<Vec<Evdc>, TenantError> {
        let entries = self.kv.scan(Scan::new(PREFIX, EVDCS_MAX)).await?;
        entries.iter().map(|entry| Ok(decode(&entry.value)?)).collect()
    }

    /// The eVDC of this name.
    ///
    /// # Errors
    /// [`TenantError::NotFound`]
    pub async fn get(&self, name: &str) -> Result<Evdc, TenantError> {
        let entry = self.kv.get(&key(evdc_id(self.owner.id(), name))).await?;
        let entry = entry.ok_or_else(|| TenantError::NotFound(name.to_owned()))?;
        Ok(decode(&entry.value)?)
    }

    /// Makes an eVDC, or goes on with one of the same name and wish.
    ///
    /// # Errors
    /// [`TenantError`]; what was reached until then is kept, and the next call goes on from there.
    pub async fn create(&self, wish: Wish) -> Result<Evdc, TenantError> {
        let id = evdc_id(self.owner.id(), &wish.name);
        {
            let _one_at_a_time = self.pursuing.lock().await;
            match self.known(id).await? {
                Some(known) if known.wish != wish => return Err(TenantError::Exists(wish.name)),
                Some(mut known) => {
                    if known.reserved {
                        known.reserved = false;
                        self.keep(&known).await?;
                    }
                }
                None => {
                    // Refuses names that are none before anybody is asked.
                    Membership::check_name(&wish.name)?;
                    self.keep(&Evdc::new(id, wish.clone())).await?;
                }
            }
        }
        self.pursue(&wish.name).await
    }

    /// The eVDC of this id, unless it is on its way out.
    async fn known(&self, id: EvdcId) -> Result<Option<Evdc>, TenantError> {
        let Some(entry) = self.kv.get(&key(id)).await? else { return Ok(None) };
        let known: Evdc = decode(&entry.value)?;
        if known.removing {
            let nodes = known.picks.iter().map(|pick| pick.member.name.clone()).collect();
            return Err(TenantError::Leaving { name: known.wish.name, nodes });
        }
        Ok(Some(known))
    }

    /// Does what is missing for the eVDC to be as wished: leases, renewals, telling the members. Nothing if nothing is.
    ///
    /// # Errors
    /// [`TenantError`]: the first thing that is in the way.
    pub async fn pursue(&self, name: &str) -> Result<Evdc, TenantError> {
        let _one_at_a_time = self.pursuing.lock().await;
        let mut evdc = self.get(name).await?;
        if evdc.removing {
            return Err(TenantError::NotFound(name.to_owned()));
        }
        self.choose(&mut evdc).await?;
        for index in 0..evdc.picks.len() {
            self.rent(&mut evdc, index).await?;
        }
        if evdc.reserved {
            return Ok(evdc);
        }
        let membership = self.membership(&evdc);
        let signed = Signed::sign(&membership, &*self.owner);
        Membership::check(&signed, None)?;
        let told = join_all(evdc.picks.iter().map(|pick| self.tell(&evdc, pick, &membership, &signed))).await;
        let mut problem = None;
        for (pick, told) in evdc.picks.iter_mut().zip(told) {
            match told {
                Ok(()) => pick.told = membership.serial,
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if evdc.gateway_told != evdc.serial {
            match self.announce(&membership, signed).await {
                Ok(()) => evdc.gateway_told = membership.serial,
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        self.keep(&evdc).await?;
        problem.map_or(Ok(evdc), Err)
    }

    /// Chooses the nodes that are still missing.
    async fn choose(&self, evdc: &mut Evdc) -> Result<(), TenantError> {
        let missing = evdc.wish.nodes.saturating_sub(evdc.running());
        let storage = evdc.storage_missing();
        if missing == 0 && storage == 0 {
            return Ok(());
        }
        let taken: BTreeSet<NodeId> = evdc.picks.iter().map(|pick| pick.member.node).collect();
        let mut offers = self.offers().await;
        offers.retain(|offer| !taken.contains(&offer.node) && offer.price.micro_per_hour <= evdc.wish.price_max);
        let held: Vec<OwnerId> = evdc.picks.iter().map(|pick| pick.offer.owner).collect();
        let mut chosen = choose(&offers, missing, evdc.wish.each, &held)?;
        chosen.extend(for_storage(&evdc.wish, storage, &offers));
        if chosen.is_empty() {
            return Ok(());
        }
        for offer in chosen {
            let mut lease = [0; LeaseId::BYTES];
            getrandom::fill(&mut lease).map_err(|_| TenantError::Random)?;
            // A number is not given twice, so that addresses of a member that left do not become another's.
            let subnet = evdc.picks.iter().map(|pick| pick.member.subnet).max().unwrap_or(0) + 1;
            let name = format!("node-{subnet}");
            let member = Member { node: offer.node, lease: LeaseId::from_bytes(lease), name, subnet };
            evdc.picks.push(Pick { member, offer: offer.clone(), lease: None, told: 0 });
        }
        evdc.serial += 1;
        self.keep(evdc).await
    }

    /// Gets the lease of a pick, or renews it after half of its time.
    async fn rent(&self, evdc: &mut Evdc, index: usize) -> Result<(), TenantError> {
        let now = now();
        let terms = evdc.picks[index].lease.as_ref().and_then(|lease| lease.check().ok());
        if terms.is_some_and(|terms| now + self.lease_seconds / 2 < terms.not_after) {
            return Ok(());
        }
        let pick = &evdc.picks[index];
        let terms = LeaseTerms {
            id: pick.member.lease,
            node: pick.member.node,
            provider: pick.offer.owner,
            tenant: self.owner.id(),
            evdc: evdc.id,
            capacity: if pick.is_storage_only() { storage_of(&evdc.wish) } else { evdc.wish.each },
            price: Price { ..pick.offer.price.clone() },
            not_before: now,
            not_after: now + self.lease_seconds,
        };
        let proposal = Signed::sign(&terms, &*self.owner);
        let failed = |why: String| TenantError::Node { name: pick.member.name.clone(), node: pick.member.node, why };
        let lease = match self.lease(pick.member.node, &LeaseRequest::Propose(proposal)).await.map_err(failed)? {
            LeaseAnswer::Granted(lease) if lease.check().as_ref() == Ok(&terms) => *lease,
            LeaseAnswer::Refused(why) => return Err(failed(why)),
            _ => return Err(failed("it answered something else than was asked".into())),
        };
        evdc.picks[index].lease = Some(lease);
        // A renewed lease has to be told, too.
        evdc.serial += 1;
        self.keep(evdc).await
    }

    fn membership(&self, evdc: &Evdc) -> Membership {
        Membership {
            evdc: evdc.id,
            tenant: self.owner.id(),
            name: evdc.wish.name.clone(),
            serial: evdc.serial,
            control: evdc.control().unwrap_or_else(|| self.link.node_id()),
            home: self.link.node_id(),
            gateway: evdc.wish.gateway.clone(),
            members: evdc.picks.iter().map(|pick| pick.member.clone()).collect(),
        }
    }

    async fn tell(
        &self,
        evdc: &Evdc,
        pick: &Pick,
        membership: &Membership,
        signed: &Signed<Membership>,
    ) -> Result<(), TenantError> {
        let node = pick.member.node;
        let failed = |why: String| TenantError::Node { name: pick.member.name.clone(), node, why };
        let lease = pick.lease.clone().ok_or_else(|| failed("it has granted no lease".into()))?;
        if pick.told == evdc.serial {
            return Ok(());
        }
        let others = membership.members.iter().map(|member| member.node);
        let gateway = membership.gateway.iter().map(|(gateway, _)| *gateway);
        let mut records = vec![self.link.own_record()];
        records.extend(others.chain(gateway).filter(|it| *it != node).filter_map(|it| self.link.record_of(&it)));
        let until = now() + self.lease_seconds + GRANT_MARGIN_SECONDS;
        let grant = StorageGrant { owner: self.owner.id(), node, not_before: now(), not_after: until };
        let claim = membership.gateway.as_ref().map(|(gateway, _)| {
            // Any name that the gateway lets this tenant have: which ones is said by the Ingresses.
            let hosts = vec!["*".to_owned()];
            let claim = Claim { tenant: self.owner.id(), node, gateway: *gateway, hosts, not_after: until };
            Signed::sign(&claim, &*self.owner)
        });
        let storage = Signed::sign(&grant, &*self.owner);
        let assignment = Assignment { membership: signed.clone(), lease, storage, claim, records };
        match self.evdc(node, &Request::Assign(Box::new(assignment))).await.map_err(failed)? {
            Answer::Done => Ok(()),
            Answer::Refused(why) => Err(failed(why)),
            Answer::Credentials(_) => Err(failed("it answered something else than was asked".into())),
        }
    }

    /// Tells the gateway who will dial in.
    async fn announce(&self, membership: &Membership, signed: Signed<Membership>) -> Result<(), TenantError> {
        let Some((gateway, _)) = membership.gateway.clone() else { return Ok(()) };
        let records = membership.members.iter().filter_map(|member| self.link.record_of(&member.node)).collect();
        let failed = |why: String| TenantError::Node { name: "the gateway".into(), node: gateway, why };
        let admission = Admission { membership: signed, records };
        match self.evdc(gateway, &Request::Admit(Box::new(admission))).await.map_err(failed)? {
            Answer::Done => Ok(()),
            Answer::Refused(why) => Err(failed(why)),
            Answer::Credentials(_) => Err(failed("it answered something else than was asked".into())),
        }
    }

    /// Gives everything back. Members that cannot be told are told by the next call; their leases end by themselves at the latest.
    ///
    /// # Errors
    /// [`TenantError::Node`] for the first member that could not be told.
    pub async fn remove(&self, name: &str) -> Result<(), TenantError> {
        let _one_at_a_time = self.pursuing.lock().await;
        let mut evdc = self.get(name).await?;
        evdc.removing = true;
        self.keep(&evdc).await?;
        let told = join_all(evdc.picks.iter().map(|pick| self.release(pick))).await;
        let mut left = Vec::new();
        let mut problem = None;
        for (pick, told) in evdc.picks.into_iter().zip(told) {
            if let Err(error) = told
                && !pick.is_over(now())
            {
                problem = problem.or(Some(error));
                left.push(pick);
            }
        }
        evdc.picks = left;
        match problem {
            Some(error) => {
                self.keep(&evdc).await?;
                Err(error)
            }
            None => {
                self.kv.commit(Vec::new(), vec![Mutation::Delete { key: key(evdc.id) }]).await?;
                Ok(())
            }
        }
    }

    async fn release(&self, pick: &Pick) -> Result<(), TenantError> {
        let Member { node, lease, name, .. } = pick.member.clone();
        let end = LeaseEnd { id: lease, node, tenant: self.owner.id() };
        let failed = |why: String| TenantError::Node { name, node, why };
        match self.evdc(node, &Request::Release(Signed::sign(&end, &*self.owner))).await {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::Refused(why)) => Err(failed(why)),
            Ok(Answer::Credentials(_)) => Err(failed("it answered something else than was asked".into())),
            Err(why) => Err(failed(why)),
        }
    }

    /// An administrator's credentials for the eVDC's API.
    ///
    /// # Errors
    /// [`TenantError`]
    pub async fn credentials(&self, name: &str) -> Result<Credentials, TenantError> {
        let evdc = self.get(name).await?;
        let control = evdc.picks.first().ok_or_else(|| TenantError::NotFound(name.to_owned()))?;
        let Member { node, name, .. } = control.member.clone();
        let failed = |why: String| TenantError::Node { name, node, why };
        match self.evdc(node, &Request::Credentials(evdc.id)).await {
            Ok(Answer::Credentials(credentials)) => Ok(credentials),
            Ok(Answer::Refused(why)) => Err(failed(why)),
            Ok(Answer::Done) => Err(failed("it answered something else than was asked".into())),
            Err(why) => Err(failed(why)),
        }
    }

    async fn lease(&self, node: NodeId, request: &LeaseRequest) -> Result<LeaseAnswer, String> {
        let stream =
            self.link.open(node, atoll_lease::PROTOCOL, Traffic::Control).await.map_err(|it| it.to_string())?;
        atoll_lease::ask(stream, request).await.map_err(|error| error.to_string())
    }

    async fn evdc(&self, node: NodeId, request: &Request) -> Result<Answer, String> {
        let stream = self.link.open(node, PROTOCOL, Traffic::Control).await.map_err(|it| it.to_string())?;
        ask(stream, request).await.map_err(|error| error.to_string())
    }

    async fn keep(&self, evdc: &Evdc) -> Result<(), TenantError> {
        let put = Mutation::Put { key: key(evdc.id), value: Bytes::from(encode(evdc)) };
        self.kv.commit(Vec::new(), vec![put]).await?;
        Ok(())
    }
}

/// Offers of storage alone that are taken for this wish.
fn for_storage<'a>(wish: &Wish, wanted: usize, offers: &'a [Offer]) -> Vec<&'a Offer> {
    let each = storage_of(wish);
    let fits = |offer: &&Offer| is_storage_only(offer) && offer.free.holds(&each);
    let mut fitting: Vec<&Offer> = offers.iter().filter(fits).collect();
    fitting.sort_by_key(|offer| (offer.price.micro_per_hour, offer.node));
    fitting.truncate(wanted);
    fitting
}

fn storage_of(wish: &Wish) -> Capacity {
    Capacity { storage: wish.each.storage, ..Capacity::default() }
}

fn key(id: EvdcId) -> Bytes {
    Bytes::from([PREFIX, id.to_string().as_bytes()].concat())
}

/// Seconds since 1970 UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_evdc_of_version_1_is_read() {
        let each = Capacity { cpu_milli: 500, pods: 3, ..Capacity::default() };
        let wish = Wish { name: "hello".into(), nodes: 2, each, price_max: 7, gateway: None };
        let id = EvdcId::from_bytes([5; 16]);
        let evdc = Evdc { serial: 9, gateway_told: 8, ..Evdc::new(id, wish) };
        // What version 1 wrote, byte for byte: everything but the last field.
        let fixture = "0100100505050505050505050505050505050505056865 6c6c6f02f403000003070000 090800";
        let fixture: String = fixture.split_whitespace().collect();
        let bytes: Vec<u8> =
            (0..fixture.len()).step_by(2).map(|at| u8::from_str_radix(&fixture[at..at + 2], 16).unwrap()).collect();
        assert_eq!(decode::<Evdc>(&bytes).unwrap(), evdc);
        assert_eq!(decode::<Evdc>(&encode(&evdc)).unwrap(), evdc);
    }
}
