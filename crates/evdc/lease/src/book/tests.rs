//! The book promises no more than there is, only to who signed, only for as long as allowed.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_ids::{ByteCount, EvdcId};
use atoll_keys::{NodeKey, OwnerKey};
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

struct World {
    node: NodeId,
    provider: OwnerKey,
    tenant: OwnerKey,
    book: Book,
}

fn capacity(cpu_milli: u32, memory: u64) -> Capacity {
    Capacity { cpu_milli, memory: ByteCount(memory), storage: ByteCount(memory), pods: 10 }
}

fn world() -> World {
    let (node, provider, tenant) = (NodeKey::generate().id(), OwnerKey::generate(), OwnerKey::generate());
    let total = Capacity { pods: 100, ..capacity(4000, 1000) };
    let price = Price { currency: "EUR".into(), micro_per_hour: 5 };
    let book = Book::new(node, provider.id(), total, price);
    World { node, provider, tenant, book }
}

impl World {
    fn terms(&self, id: u8) -> LeaseTerms {
        LeaseTerms {
            id: LeaseId::from_bytes([id; 16]),
            node: self.node,
            provider: self.provider.id(),
            tenant: self.tenant.id(),
            evdc: EvdcId::from_bytes([9; 16]),
            capacity: capacity(1000, 400),
            price: Price { currency: "EUR".into(), micro_per_hour: 5 },
            not_before: NOW,
            not_after: NOW + 3600,
        }
    }

    fn propose(&mut self, terms: &LeaseTerms, signer: &OwnerKey) -> Result<(), RefusedLease> {
        let proposal = Signed::sign(terms, signer);
        let granted = self.book.grant(&proposal, NOW)?;
        let lease = Lease::countersign(proposal, &granted, &self.provider);
        assert_eq!(lease.check().as_ref(), Ok(&granted));
        self.book.enter(granted, lease);
        Ok(())
    }
}

#[test]
fn what_is_refused() {
    fn check(change: impl FnOnce(&mut LeaseTerms), expected: &str) {
        let mut world = world();
        let tenant = OwnerKey::from_secret_bytes(&world.tenant.secret_bytes());
        let mut terms = world.terms(1);
        change(&mut terms);
        let text = world.propose(&terms, &tenant).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    check(|it| it.node = NodeKey::generate().id(), "not this one");
    check(|it| it.provider = OwnerKey::generate().id(), "not this one");
    check(|it| it.tenant = OwnerKey::generate().id(), "not signed by its tenant");
    check(|it| it.not_before = NOW + 1000, "starts now");
    check(|it| it.not_after = NOW - 1, "ends later");
    check(|it| it.not_after = NOW + LEASE_SECONDS_MAX + 1, "at most");
    check(|it| it.price.micro_per_hour = 4, "5 millionths");
    check(|it| it.price.currency = "USD".into(), "EUR");
    check(|it| it.capacity.memory = ByteCount(1001), "free here");
}

#[test]
fn a_lease_takes_and_its_end_gives_back() {
    let mut world = world();
    let tenant = OwnerKey::from_secret_bytes(&world.tenant.secret_bytes());
    let (first, second, third) = (world.terms(1), world.terms(2), world.terms(3));
    world.propose(&first, &tenant).unwrap();
    world.propose(&second, &tenant).unwrap();
    assert_eq!(world.book.free(NOW).memory, ByteCount(200));
    assert!(matches!(world.propose(&third, &tenant), Err(RefusedLease::Full { .. })));
    // Renewing needs no room of its own.
    world.propose(&LeaseTerms { not_after: NOW + 7200, ..first.clone() }, &tenant).unwrap();
    assert_eq!(world.book.free(NOW).memory, ByteCount(200));
    // Only the tenant ends it.
    let end = LeaseEnd { id: first.id, node: world.node, tenant: tenant.id() };
    assert_eq!(world.book.ended_by(&Signed::sign(&end, &OwnerKey::generate())), None);
    assert_eq!(world.book.ended_by(&Signed::sign(&end, &tenant)), Some(first.id));
    world.book.remove(&first.id);
    world.propose(&third, &tenant).unwrap();
    // And time does.
    assert_eq!(world.book.over(NOW + 3601), [second.id, third.id]);
    assert_eq!(world.book.free(NOW + 3601), world.book.total());
    assert!(world.book.get(&second.id, NOW + 3601).is_none());
}

#[test]
fn nobody_takes_over_another_tenants_lease() {
    let mut world = world();
    let tenant = OwnerKey::from_secret_bytes(&world.tenant.secret_bytes());
    let terms = world.terms(1);
    world.propose(&terms, &tenant).unwrap();
    let other = OwnerKey::generate();
    let stolen = LeaseTerms { tenant: other.id(), ..terms };
    assert_eq!(world.propose(&stolen, &other), Err(RefusedLease::Taken));
}

#[test]
fn a_lease_needs_both_signatures_under_the_same() {
    let world = world();
    let terms = world.terms(1);
    let other = LeaseTerms { not_after: NOW + 1, ..terms.clone() };
    let lease =
        Lease { by_tenant: Signed::sign(&terms, &world.tenant), by_provider: Signed::sign(&other, &world.provider) };
    assert_eq!(lease.check(), Err(crate::LeaseError::Differ));
    let lease =
        Lease { by_tenant: Signed::sign(&terms, &world.tenant), by_provider: Signed::sign(&terms, &world.tenant) };
    assert_eq!(lease.check(), Err(crate::LeaseError::Provider));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn promises_never_exceed_the_offer(asks in prop::collection::vec((0..6u8, 1..3000u32, 1..700u64), 1..24)) {
        let mut world = world();
        let tenant = OwnerKey::from_secret_bytes(&world.tenant.secret_bytes());
        for (id, cpu, memory) in asks {
            let terms = LeaseTerms { capacity: capacity(cpu, memory), ..world.terms(id) };
            let _refused_or_not = world.propose(&terms, &tenant);
            let sum = world.book.iter().fold(Capacity::default(), |sum, it| sum.and(&it.terms.capacity));
            prop_assert!(world.book.total().holds(&sum), "{sum} is promised of {}", world.book.total());
        }
    }
}
