//! What comes on connections for relaying: frames of users and relays, and the parcels that the far end put into them.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_relay::{Cargo, Frame, Halves, Parcel, Pass, Refusal};
use bytes::Bytes;

fn node() -> NodeId {
    NodeId::from_bytes([7; 32])
}

#[test]
fn frames() {
    let payload = Bytes::from_static(b"opaque");
    let valid = [
        Frame::Forward { to: node(), payload: payload.clone() },
        Frame::Deliver { from: node(), payload },
        Frame::Refused { to: node(), refusal: Refusal::Budget },
        Frame::Await { node: node(), pass: Pass::from_bytes([3; 32]), seconds: 60 },
        Frame::Show { to: node(), proof: [4; 32] },
    ];
    fuzz!(30_000, valid.iter().map(|frame| frame.encode().to_vec()).collect(), |bytes: &[u8]| {
        if let Ok(frame) = Frame::decode(Bytes::copy_from_slice(bytes)) {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    });
}

#[test]
fn parcels() {
    let bytes = Bytes::from_static(b"opaque");
    let half = |cargo, second| Parcel::Half { cargo, number: 9, second, bytes: bytes.clone() };
    let whole = |cargo| Parcel::Whole { cargo, bytes: bytes.clone() };
    let valid = [
        whole(Cargo::Quic),
        whole(Cargo::Sealed),
        half(Cargo::Quic, false),
        half(Cargo::Sealed, true),
        Parcel::Probe(1),
        Parcel::Echo(2),
    ];
    fuzz!(30_000, valid.iter().map(|parcel| parcel.encode().to_vec()).collect(), |bytes: &[u8]| {
        let Ok(parcel) = Parcel::decode(Bytes::copy_from_slice(bytes)) else { return };
        assert_eq!(parcel.encode(), bytes);
        if let Parcel::Half { number, second, bytes, .. } = parcel {
            let mut halves = Halves::default();
            assert_eq!(halves.join(number, second, bytes.clone()), None);
            assert_eq!(halves.join(number, second, bytes), None, "twice the same half is no whole");
        }
    });
}
