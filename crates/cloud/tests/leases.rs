//! A tenant and three providers, linked for real over loopback: an eVDC is made, goes on after a crash, and is given back.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_cloud::{Assignments, Credentials, Issue, Provider, Tenant, TenantError, Whom, Wish};
use atoll_ids::{ByteCount, EvdcId, NodeId};
use atoll_keys::{NodeKey, OwnerKey};
use atoll_kv::{Embedded, EmbeddedConfig, KeyValue};
use atoll_lease::{Capacity, Keeper, Price};
use atoll_link::{BoxStream, Link, LinkConfig, LinkHandle, MemoryPeers};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::time::Duration;

struct Says;

impl Issue for Says {
    fn removed(&self, _: EvdcId) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn issue(&self, _: EvdcId, whom: Whom) -> BoxFuture<'_, Result<Credentials, String>> {
        let certificate = format!("{whom:?}");
        async { Ok(Credentials { authority: "ca".into(), certificate, key: "key".into() }) }.boxed()
    }
}

fn loopback() -> LinkConfig {
    LinkConfig {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        lane_bind: vec!["127.0.0.1:0".parse().unwrap()],
        ..LinkConfig::default()
    }
}

struct Lender {
    link: Link,
    keeper: Keeper,
    assignments: Assignments,
    _folder: tempfile::TempDir,
}

impl Lender {
    fn id(&self) -> NodeId {
        self.link.handle().node_id()
    }
}

fn capacity(memory: u64) -> Capacity {
    Capacity { cpu_milli: 1000, memory: ByteCount(memory), storage: ByteCount(memory), pods: 10 }
}

fn store(folder: &tempfile::TempDir) -> Arc<dyn KeyValue> {
    Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap())
}

async fn lender(owner: &Arc<OwnerKey>) -> Lender {
    lender_of(owner, capacity(100)).await
}

async fn lender_of(owner: &Arc<OwnerKey>, total: Capacity) -> Lender {
    let folder = tempfile::tempdir().unwrap();
    let key = Arc::new(NodeKey::generate());
    let kv = store(&folder);
    let keeper = Keeper::open(kv.clone(), key.id(), owner.clone(), total, Price::default()).await.unwrap();
    let assignments = Assignments::open(kv, key.id(), 0).await.unwrap();
    // The handlers need the link, and the link its handlers: the provider is put in once both are there.
    let late: Arc<std::sync::OnceLock<Provider>> = Arc::default();
    let (for_leases, for_evdcs) = (late.clone(), late.clone());
    let leases = move |peer: NodeId, stream: BoxStream| -> BoxFuture<'static, ()> {
        let provider = for_leases.get().unwrap().clone();
        async move { provider.handle_lease(peer, stream).await }.boxed()
    };
    let evdcs = move |peer: NodeId, stream: BoxStream| -> BoxFuture<'static, ()> {
        let provider = for_evdcs.get().unwrap().clone();
        async move { provider.handle(peer, stream).await }.boxed()
    };
    let link = Link::builder(key, loopback(), Arc::new(MemoryPeers::default()))
        .protocol(atoll_lease::PROTOCOL, Arc::new(leases))
        .protocol(atoll_cloud::PROTOCOL, Arc::new(evdcs))
        .bind()
        .await
        .unwrap();
    late.set(Provider::new(keeper.clone(), assignments.clone(), link.handle(), Arc::new(Says))).ok().unwrap();
    Lender { link, keeper, assignments, _folder: folder }
}

struct World {
    lenders: Vec<Lender>,
    link: Link,
    owner: Arc<OwnerKey>,
    kv: Arc<dyn KeyValue>,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Arc::new(OwnerKey::generate()), Arc::new(OwnerKey::generate()));
    let lenders = vec![lender(&first).await, lender(&first).await, lender(&second).await];
    let link = Link::builder(Arc::new(NodeKey::generate()), loopback(), Arc::new(MemoryPeers::default()))
        .bind()
        .await
        .unwrap();
    for lender in &lenders {
        let ticket = lender.link.handle().invite(Duration::from_secs(60), 1).unwrap();
        link.handle().join(&ticket).await.unwrap();
    }
    World { lenders, link, owner: Arc::new(OwnerKey::generate()), kv: store(&folder), _folder: folder }
}

impl World {
    fn tenant(&self) -> Tenant {
        Tenant::new(self.owner.clone(), self.kv.clone(), self.link.handle())
    }
}

fn wish(nodes: usize, memory: u64) -> Wish {
    Wish { name: "hello".into(), nodes, each: capacity(memory), price_max: 0, gateway: None }
}

fn knows(link: &LinkHandle, node: NodeId) -> bool {
    node == link.node_id() || link.peer(&node).is_some()
}

#[tokio::test]
async fn an_evdc_is_made_found_again_and_given_back() {
    let world = world().await;
    let tenant = world.tenant();
    assert_eq!(tenant.offers().await.len(), 3);
    let evdc = tenant.create(wish(2, 60)).await.unwrap();
    assert!(evdc.is_ready());
    let owners: BTreeSet<_> = evdc.picks.iter().map(|pick| pick.offer.owner).collect();
    assert_eq!(owners.len(), 2, "two owners lend, so both are taken");
    let members: BTreeSet<NodeId> = evdc.picks.iter().map(|pick| pick.member.node).collect();
    for lender in &world.lenders {
        let assigned = lender.assignments.get(&evdc.id);
        assert_eq!(assigned.is_some(), members.contains(&lender.id()));
        let left = if assigned.is_some() { 40 } else { 100 };
        assert_eq!(lender.keeper.capacity(0).1.memory, ByteCount(left));
        if assigned.is_some() {
            assert!(members.iter().all(|node| knows(&lender.link.handle(), *node)), "members know each other");
        }
    }
    let administrator = tenant.credentials("hello").await.unwrap();
    assert_eq!(administrator.certificate, "Administrator");

    // The same wish again changes nothing; another one is refused.
    let again = world.tenant().create(wish(2, 60)).await.unwrap();
    assert_eq!(again, evdc);
    assert!(matches!(tenant.create(wish(3, 60)).await, Err(TenantError::Exists(_))));

    tenant.remove("hello").await.unwrap();
    assert!(matches!(tenant.get("hello").await, Err(TenantError::NotFound(_))));
    for lender in &world.lenders {
        assert!(lender.assignments.all().is_empty());
        assert_eq!(lender.keeper.capacity(0).1, capacity(100));
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_said_and_takes_nothing() {
    let world = world().await;
    let tenant = world.tenant();
    let refused = tenant.create(wish(4, 60)).await.unwrap_err().to_string();
    assert!(refused.contains("4 nodes"), "{refused}");
    assert!(refused.contains("3 of the 3"), "{refused}");
    assert!(world.lenders.iter().all(|lender| lender.keeper.all().is_empty()));
    let refused = tenant.create(Wish { name: "No Label".into(), ..wish(1, 1) }).await.unwrap_err();
    assert!(matches!(refused, TenantError::Membership(_)));
}

#[tokio::test]
async fn a_tenant_that_broke_off_goes_on_where_it_was() {
    let mut world = world().await;
    let tenant = world.tenant();
    // One of the three is away: the eVDC of three stays unfinished…
    let away = world.lenders.pop().unwrap();
    let away_id = away.id();
    let evdc = {
        let wish = wish(3, 60);
        let (made, closed) = tokio::join!(tenant.create(wish.clone()), async {
            // …by going away in the middle of it.
            away.link.shutdown(Duration::from_secs(1)).await
        });
        assert!(closed);
        match made {
            Ok(evdc) => evdc,
            Err(_) => tenant.get("hello").await.unwrap(),
        }
    };
    // Another process of the same tenant finds what was begun, with the same leases.
    let restarted = world.tenant();
    let found = restarted.pursue("hello").await;
    let now = restarted.get("hello").await.unwrap();
    for (before, after) in evdc.picks.iter().zip(&now.picks) {
        assert_eq!(before.member, after.member);
    }
    assert!(found.is_err() || now.is_ready());
    // Giving back works for those who are there, and says who is not.
    match restarted.remove("hello").await {
        Err(TenantError::Node { node, .. }) => assert_eq!(node, away_id),
        Err(other) => panic!("{other}"),
        Ok(()) => assert!(!now.picks.iter().any(|pick| pick.member.node == away_id)),
    }
    for lender in &world.lenders {
        assert!(lender.keeper.all().is_empty());
    }
}

#[tokio::test]
async fn storage_is_rented_besides_from_who_lends_nothing_else() {
    let world = world().await;
    let storage = Capacity { storage: capacity(100).storage, ..Capacity::default() };
    let attic = lender_of(&Arc::new(OwnerKey::generate()), storage).await;
    let ticket = attic.link.handle().invite(Duration::from_secs(60), 1).unwrap();
    world.link.handle().join(&ticket).await.unwrap();
    let tenant = world.tenant();
    let evdc = tenant.create(wish(2, 60)).await.unwrap();
    assert!(evdc.is_ready());
    let (alone, running): (Vec<_>, Vec<_>) = evdc.picks.iter().partition(|pick| pick.is_storage_only());
    assert_eq!((alone.len(), running.len()), (1, 2));
    assert_ne!(evdc.control(), Some(attic.id()));
    let terms = attic.keeper.all().remove(0);
    let each = Capacity { storage: capacity(60).storage, ..Capacity::default() };
    assert_eq!((alone[0].member.node, terms.capacity), (attic.id(), each));
    assert_eq!(tenant.pursue("hello").await.unwrap().picks.len(), 3, "once is enough");
    tenant.remove("hello").await.unwrap();
    assert!(attic.keeper.all().is_empty());
}

#[tokio::test]
async fn a_gateway_gets_to_know_the_members() {
    let world = world().await;
    let gateway = lender(&Arc::new(OwnerKey::generate())).await;
    let ticket = gateway.link.handle().invite(Duration::from_secs(60), 1).unwrap();
    world.link.handle().join(&ticket).await.unwrap();
    let wish = Wish { gateway: Some((gateway.id(), "cloud.example".into())), ..wish(2, 60) };
    let evdc = world.tenant().create(wish).await.unwrap();
    assert!(evdc.is_ready());
    let known: BTreeSet<NodeId> = gateway.link.handle().peers().into_iter().map(|peer| peer.id).collect();
    for pick in &evdc.picks {
        assert_eq!(known.contains(&pick.member.node), pick.member.node != gateway.id());
    }
    assert!(known.len() <= 3, "the tenant and the members, nobody else: {known:?}");
}

#[tokio::test]
async fn nodes_are_reserved_one_by_one_and_become_an_evdc() {
    let world = world().await;
    let tenant = world.tenant();
    for nodes in 1..=2 {
        let evdc = tenant.reserve(wish(nodes, 60)).await.unwrap();
        assert_eq!((evdc.picks.len(), evdc.is_ready()), (nodes, false));
    }
    let evdc = tenant.get("hello").await.unwrap();
    let owners: BTreeSet<_> = evdc.picks.iter().map(|pick| pick.offer.owner).collect();
    assert_eq!(owners.len(), 2, "one after the other gives the same owners as all at once");
    assert!(evdc.picks.iter().all(|pick| pick.lease.is_some()));
    // Nobody works for it yet, and pursuing it does not change that.
    assert!(!tenant.pursue("hello").await.unwrap().is_ready());
    assert!(world.lenders.iter().all(|lender| lender.assignments.all().is_empty()));
    // What nobody lends leaves what is there as it is.
    assert!(matches!(tenant.reserve(wish(4, 60)).await, Err(TenantError::TooFew(_))));
    assert!(matches!(tenant.reserve(wish(2, 50)).await, Err(TenantError::Exists(_))));
    assert_eq!(tenant.get("hello").await.unwrap(), evdc);

    // One is given back, one is taken again, and it opens.
    tenant.return_reserved("hello", 1).await.unwrap();
    assert_eq!(tenant.get("hello").await.unwrap().picks.len(), 1);
    tenant.reserve(wish(2, 60)).await.unwrap();
    assert!(tenant.open("hello", None).await.unwrap().is_ready());
    assert_eq!(world.lenders.iter().filter(|lender| !lender.assignments.all().is_empty()).count(), 2);
    assert!(matches!(tenant.return_reserved("hello", 1).await, Err(TenantError::Stands(_))));
    // It grows, and its members hear of each other.
    tenant.reserve(wish(3, 60)).await.unwrap();
    assert!(tenant.open("hello", None).await.unwrap().is_ready());
    assert!(world.lenders.iter().all(|lender| lender.assignments.all()[0].membership.members.len() == 3));
    tenant.remove("hello").await.unwrap();
    assert!(world.lenders.iter().all(|lender| lender.keeper.all().is_empty()));

    tenant.reserve(wish(2, 60)).await.unwrap();
    tenant.return_reserved("hello", 0).await.unwrap();
    assert!(matches!(tenant.get("hello").await, Err(TenantError::NotFound(_))));
    assert!(world.lenders.iter().all(|lender| lender.keeper.all().is_empty()));
    assert!(matches!(tenant.reserve(wish(4, 60)).await, Err(TenantError::TooFew(_))));
    assert!(
        matches!(tenant.get("hello").await, Err(TenantError::NotFound(_))),
        "a wish that nobody answers is forgotten"
    );
}
