//! An assignment is taken only whole, from one tenant, for this node, in its time; and it is still there after a restart.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_ids::{ByteCount, LeaseId};
use atoll_keys::{NodeKey, OwnerKey};
use atoll_kv::{Embedded, EmbeddedConfig};
use atoll_lease::{Capacity, Price, evdc_id};

use super::*;

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) node: NodeId,
    tenant: OwnerKey,
    provider: OwnerKey,
}

/// What goes into an assignment before it is signed.
pub(crate) struct Draft {
    pub(crate) membership: Membership,
    terms: LeaseTerms,
    grant: StorageGrant,
    claim: Claim,
}

pub(crate) fn world() -> World {
    World { node: NodeKey::generate().id(), tenant: OwnerKey::generate(), provider: OwnerKey::generate() }
}

impl World {
    pub(crate) fn draft(&self) -> Draft {
        let evdc = evdc_id(self.tenant.id(), "hello");
        let gateway = NodeKey::generate().id();
        let lease = LeaseId::from_bytes([1; 16]);
        let member = Member { node: self.node, lease, name: "one".into(), subnet: 1 };
        let membership = Membership {
            evdc,
            tenant: self.tenant.id(),
            name: "hello".into(),
            serial: 5,
            control: self.node,
            home: NodeKey::generate().id(),
            gateway: Some((gateway, "cloud.example".into())),
            members: vec![member],
        };
        let capacity = Capacity { cpu_milli: 1, memory: ByteCount(1), storage: ByteCount(1), pods: 1 };
        let terms = LeaseTerms {
            id: lease,
            node: self.node,
            provider: self.provider.id(),
            tenant: self.tenant.id(),
            evdc,
            capacity,
            price: Price::default(),
            not_before: NOW,
            not_after: NOW + 100,
        };
        let grant = StorageGrant { owner: self.tenant.id(), node: self.node, not_before: NOW, not_after: NOW + 100 };
        let claim =
            Claim { tenant: self.tenant.id(), node: self.node, gateway, hosts: vec!["*".into()], not_after: NOW + 100 };
        Draft { membership, terms, grant, claim }
    }

    pub(crate) fn sign(&self, draft: &Draft) -> Assignment {
        let proposal = Signed::sign(&draft.terms, &self.tenant);
        Assignment {
            membership: Signed::sign(&draft.membership, &self.tenant),
            lease: Lease::countersign(proposal, &draft.terms, &self.provider),
            storage: Signed::sign(&draft.grant, &self.tenant),
            claim: Some(Signed::sign(&draft.claim, &self.tenant)),
            records: Vec::new(),
        }
    }
}

#[test]
fn what_is_taken() {
    fn check(change: impl FnOnce(&mut Draft, &World), at: u64, expected: Option<&str>) {
        let world = world();
        let mut draft = world.draft();
        change(&mut draft, &world);
        let found = world.sign(&draft).check(world.node, Some(5), at).err().map(|it| it.to_string());
        match (expected, &found) {
            (None, None) => {}
            (Some(expected), Some(found)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("expected {expected:?}, found {found:?}"),
        }
    }
    check(|_, _| {}, NOW, None);
    check(|_, _| {}, NOW + 101, Some("the lease ran"));
    check(|draft, _| draft.membership.serial = 4, NOW, Some("serial 4"));
    check(|draft, _| draft.membership.members[0].node = draft.membership.home, NOW, Some("no member"));
    check(
        |draft, _| draft.membership.members[0].lease = LeaseId::from_bytes([2; 16]),
        NOW,
        Some("the lease is of another"),
    );
    check(|draft, _| draft.terms.evdc = EvdcId::from_bytes([0; 16]), NOW, Some("the lease is of another"));
    check(|draft, _| draft.grant.node = draft.membership.home, NOW, Some("grant is for node"));
    check(|draft, _| draft.grant.owner = OwnerKey::generate().id(), NOW, Some("not signed by the owner"));
    check(|draft, _| draft.claim.gateway = draft.membership.home, NOW, Some("claim is for node"));
}

#[test]
fn nobody_else_speaks_for_the_tenant() {
    let (world, thief) = (world(), OwnerKey::generate());
    let draft = world.draft();
    let mut forged = world.sign(&draft);
    forged.membership = Signed::sign(&draft.membership, &thief);
    assert!(matches!(forged.check(world.node, None, NOW), Err(AssignmentError::Membership(_))));
    let mut forged = world.sign(&draft);
    forged.lease.by_provider = Signed::sign(&draft.terms, &thief);
    assert!(matches!(forged.check(world.node, None, NOW), Err(AssignmentError::Lease(_))));
}

#[tokio::test]
async fn an_assignment_outlives_a_restart_until_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let world = world();
    let draft = world.draft();
    let evdc = draft.membership.evdc;
    let kv: Arc<dyn KeyValue> = Arc::new(Embedded::open(folder.path(), EmbeddedConfig::default()).unwrap());
    let open = |now| Assignments::open(kv.clone(), world.node, now);
    let assignments = open(NOW).await.unwrap();
    let mut changes = assignments.changes();
    let taken = assignments.take(world.sign(&draft), NOW).await.unwrap();
    assert!(taken.is_control());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let mut older = world.draft();
    older.membership.serial = 4;
    let refused = assignments.take(world.sign(&older), NOW).await;
    assert!(matches!(refused, Err(StoreError::Refused(AssignmentError::Membership(MembershipError::Old { .. })))));
    assert_eq!(open(NOW + 50).await.unwrap().get(&evdc), Some(taken));
    assert!(open(NOW + 500).await.unwrap().all().is_empty());
    assert!(open(NOW).await.unwrap().all().is_empty(), "what is over is gone from the disk too");
    assert!(assignments.drop(evdc).await.unwrap());
    assert!(!assignments.drop(evdc).await.unwrap());
}

#[tokio::test]
async fn what_is_over_is_still_known_by_its_note() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let assignment = world.sign(&world.draft());
    let members = folder.path().join("members");
    assert!(crate::remains::of(&members).await.is_empty());
    let dir = members.join("evdc");
    for _ in 0..2 {
        crate::remains::note(&dir, &assignment).await.unwrap();
    }
    std::fs::create_dir(members.join("of before")).unwrap();
    let broken = members.join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("assignment"), b"nothing").unwrap();
    let noted = crate::remains::of(&members).await;
    assert_eq!(noted, [assignment]);
    // Its time is over, and what is to be cleared is known all the same; not on another node.
    assert!(noted[0].check(world.node, None, NOW + 1_000_000).is_err());
    assert_eq!(noted[0].once(world.node).unwrap().terms.id, world.draft().terms.id);
    assert!(noted[0].once(NodeKey::generate().id()).is_err());
}
