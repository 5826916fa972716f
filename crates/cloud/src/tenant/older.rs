//! eVDCs as earlier versions wrote them.

use atoll_ids::{EvdcId, NodeId};
use atoll_lease::Capacity;
use atoll_wire::{DecodeError, Versioned as _, decode_body};
use serde::Deserialize;

use super::{Evdc, Pick, Wish};

/// Version 1: every node ran something.
#[derive(Deserialize)]
struct Evdc1 {
    id: EvdcId,
    wish: Wish1,
    picks: Vec<Pick>,
    serial: u64,
    gateway_told: u64,
    removing: bool,
}

#[derive(Deserialize)]
struct Wish1 {
    name: String,
    nodes: usize,
    each: Capacity,
    price_max: u64,
    gateway: Option<(NodeId, String)>,
}

pub(super) fn read(version: u16, body: &[u8]) -> Result<Evdc, DecodeError> {
    if version != 1 {
        return Err(DecodeError::Version { name: Evdc::NAME, found: version, known: Evdc::VERSION });
    }
    let Evdc1 { id, wish, picks, serial, gateway_told, removing } = decode_body(Evdc::NAME, body)?;
    let Wish1 { name, nodes, each, price_max, gateway } = wish;
    let wish = Wish { name, nodes, each, storage_nodes: 0, price_max, gateway };
    Ok(Evdc { id, wish, picks, serial, gateway_told, removing })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::ByteCount;
    use atoll_wire::{decode, encode};

    use super::*;

    /// Version 1 as it was written: "hello" of three nodes, none chosen yet.
    const FIXTURE: &str = "0100090909090909090909090909090909090568656c6c6f03f4038002ac021e070000020100";

    #[test]
    fn an_evdc_of_version_1_is_read() {
        let bytes = data_encoding::HEXLOWER.decode(FIXTURE.as_bytes()).unwrap();
        let evdc: Evdc = decode(&bytes).unwrap();
        let each = Capacity { cpu_milli: 500, memory: ByteCount(256), storage: ByteCount(300), pods: 30 };
        let wish = Wish { name: "hello".into(), nodes: 3, each, storage_nodes: 0, price_max: 7, gateway: None };
        let id = EvdcId::from_bytes([9; EvdcId::BYTES]);
        assert_eq!(evdc, Evdc { id, wish, picks: Vec::new(), serial: 2, gateway_told: 1, removing: false });
        assert_eq!(decode::<Evdc>(&encode(&evdc)).unwrap(), evdc);
    }
}
