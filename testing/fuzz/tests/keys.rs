//! Key files, which anything may have damaged, and signed statements, which anyone may have made.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_shard::{StorageGrant, grant};
use atoll_wire::{decode, encode};

#[test]
fn key_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let node = NodeKey::from_secret_bytes(&[1; 32]);
    let owner = OwnerKey::from_secret_bytes(&[2; 32]);
    let mut valid = Vec::new();
    for (name, saved) in
        [("node", node.save(&dir.path().join("node"))), ("owner", owner.save(&dir.path().join("owner")))]
    {
        saved.unwrap();
        valid.push(fs::read(dir.path().join(name)).unwrap());
    }
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fuzz!(10_000, valid.clone(), |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        // Whatever is read as a key is the key that was written: damage is never taken for another key.
        if let Ok(found) = NodeKey::load(&path) {
            assert_eq!(found.id(), node.id());
        }
        if let Ok(found) = OwnerKey::load(&path) {
            assert_eq!(found.id(), owner.id());
        }
    });
}

fn grant_of(owner: &OwnerKey, node: NodeId) -> StorageGrant {
    StorageGrant { owner: owner.id(), node, not_before: 100, not_after: 200 }
}

#[test]
fn signed_statements() {
    let owner = OwnerKey::from_secret_bytes(&[2; 32]);
    let node = NodeId::from_bytes([9; 32]);
    let statement = grant_of(&owner, node);
    let signed = Signed::sign(&statement, &owner);
    grant::check(&signed, node, 150).unwrap();
    fuzz!(5_000, vec![encode(&signed)], |bytes: &[u8]| {
        let Ok(found) = decode::<Signed<StorageGrant>>(bytes) else { return };
        assert_eq!(decode::<Signed<StorageGrant>>(&encode(&found)).unwrap(), found);
        // Only what was signed verifies, whatever has been done to the rest.
        if let Ok((value, signer)) = found.verify() {
            assert_eq!(signer, *owner.id().as_bytes());
            assert_eq!(encode(&value), encode(&statement));
        }
        let _ = grant::check(&found, node, 150);
    });
}

/// What is decoded once a signature was found valid: the signer may be hostile, too.
#[test]
fn the_inside_of_statements() {
    let owner = OwnerKey::from_secret_bytes(&[2; 32]);
    fuzz!(10_000, vec![encode(&grant_of(&owner, NodeId::from_bytes([9; 32])))], |bytes: &[u8]| {
        if let Ok(found) = decode::<StorageGrant>(bytes) {
            assert_eq!(encode(&decode::<StorageGrant>(&encode(&found)).unwrap()), encode(&found));
            let signed = Signed::sign(&found, &owner);
            for now in [0, 150, u64::MAX] {
                let _ = grant::check(&signed, found.node, now);
            }
        }
    });
}
