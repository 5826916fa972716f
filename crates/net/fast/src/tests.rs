//! Paths between two ends, and what everybody in between tries.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use proptest::prelude::*;

use crate::*;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn secret(number: u8) -> Secret {
    let export = |out: &mut [u8]| {
        out.fill(number);
        Ok::<(), ()>(())
    };
    Secret::export(export).unwrap()
}

struct End {
    sealer: Sealer,
    opener: Opener,
}

/// Two ends of one path: who dialled, and who was.
fn path_under(number: u8, dialler: NodeId, acceptor: NodeId) -> (End, End) {
    let halves = [Half::draw(10, Ports::default()), Half::draw(20, Ports::default())];
    let [theirs, ours] = halves.each_ref().map(|half| half.terms().clone());
    let [one, two] = halves;
    let (sealer, opener) = one.join(&secret(number), Side::Dialler, &dialler, &acceptor, &ours);
    let one = End { sealer, opener };
    let (sealer, opener) = two.join(&secret(number), Side::Acceptor, &acceptor, &dialler, &theirs);
    (one, End { sealer, opener })
}

fn path() -> (End, End) {
    path_under(7, node(1), node(2))
}

impl End {
    fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        let mut slot = [&[0; HEADER_BYTES][..], text, &[0; TAG_BYTES]].concat();
        self.sealer.seal(Kind::Packet, &mut slot).unwrap();
        slot
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.open_at(Instant::now(), sealed)
    }

    fn open_at(&mut self, now: Instant, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.opener.open(now, &mut sealed.to_vec()).map(|(_, text)| text.to_vec())
    }
}

#[test]
fn what_one_seals_the_other_opens_once() {
    let (mut one, mut two) = path();
    for text in [&b""[..], b"x", &[5; PACKET_BYTES_MAX]] {
        let there = one.seal(text);
        assert_eq!(two.open(&there).unwrap(), text);
        assert_eq!(two.open(&there), Err(OpenError::Replayed));
        let back = two.seal(text);
        assert_eq!(one.open(&back).unwrap(), text);
    }
}

#[test]
fn both_ciphers_do_it_and_both_ends_choose_the_same() {
    for (ours, theirs, expect) in [
        (true, true, Cipher::Aes256Gcm),
        (true, false, Cipher::ChaCha20Poly1305),
        (false, true, Cipher::ChaCha20Poly1305),
        (false, false, Cipher::ChaCha20Poly1305),
    ] {
        assert_eq!(Cipher::for_both(ours, theirs), expect);
    }
    // A peer that says it has no AES, and one that has it.
    for aes in [true, false] {
        let (one, two) = (Half::draw(10, Ports::default()), Half::draw(20, Ports::default()).with_aes(aes));
        let (ours, theirs) = (one.terms().clone(), two.terms().clone());
        let (mut sealer, _) = one.join(&secret(1), Side::Dialler, &node(1), &node(2), &theirs);
        let (_, mut opener) = two.join(&secret(1), Side::Acceptor, &node(2), &node(1), &ours);
        let mut slot = [&[0; HEADER_BYTES][..], b"text", &[0; TAG_BYTES]].concat();
        sealer.seal(Kind::Probe, &mut slot).unwrap();
        let (kind, text) = opener.open(Instant::now(), &mut slot).unwrap();
        assert_eq!((kind, &*text), (Kind::Probe, &b"text"[..]));
    }
}

#[test]
fn what_was_changed_anywhere_is_refused_and_does_no_harm() {
    let (mut one, mut two) = path();
    let genuine = one.seal(b"a packet");
    for at in 0..genuine.len() {
        for change in [1, 0x80] {
            let mut changed = genuine.clone();
            changed[at] ^= change;
            assert!(two.open(&changed).is_err(), "byte {at}");
        }
    }
    for length in 0..genuine.len() {
        assert!(two.open(&genuine[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(two.open(&genuine).unwrap(), b"a packet");
}

#[test]
fn what_comes_back_to_its_sender_is_refused() {
    let (mut one, mut two) = path();
    let mut sealed = one.seal(b"a packet");
    assert_eq!(one.open(&sealed), Err(OpenError::Malformed));
    // With the index that the sender is called by.
    sealed[4..8].copy_from_slice(&two.seal(b"")[4..8]);
    assert_eq!(one.open(&sealed), Err(OpenError::Forged));
}

#[test]
fn what_belongs_to_another_path_is_refused() {
    let (mut one, _) = path();
    let sealed = one.seal(b"a packet");
    for (what, (_, mut other)) in [
        ("another connection", path_under(8, node(1), node(2))),
        ("another path on the same connection", path()),
        ("another dialler", path_under(7, node(3), node(2))),
        ("another acceptor", path_under(7, node(1), node(3))),
        ("the same two the other way round", path_under(7, node(2), node(1))),
    ] {
        assert_eq!(other.open(&sealed), Err(OpenError::Forged), "{what}");
    }
}

/// The very same exporter, as after a restored snapshot or a stream that is opened twice: other keys all the same.
#[test]
fn the_same_secret_never_makes_the_same_key() {
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let (mut one, mut two) = path();
        assert!(seen.insert(one.seal(&[0; 32])) && seen.insert(two.seal(&[0; 32])));
    }
}

#[test]
fn keys_follow_each_other_by_time_once_they_are_confirmed() {
    let (mut one, mut two) = path();
    let start = Instant::now();
    one.sealer.turn(start);
    let early = one.seal(b"early");
    one.sealer.turn(start + EPOCH_TIME);
    assert_eq!(one.sealer.epoch(), 0, "nobody confirmed it");
    one.sealer.confirm(1);
    one.sealer.turn(start + EPOCH_TIME);
    assert_eq!(one.sealer.epoch(), 0, "nobody confirmed this one");
    one.sealer.confirm(0);
    one.sealer.turn(start + EPOCH_TIME - Duration::from_millis(1));
    assert_eq!(one.sealer.epoch(), 0, "it is not old");
    let (late, later) = (one.seal(b"late"), one.seal(b"too late"));
    one.sealer.turn(start + EPOCH_TIME);
    assert_eq!(one.sealer.epoch(), 1);
    let new = one.seal(b"new");
    one.sealer.turn(start + 2 * EPOCH_TIME);
    assert_eq!(one.sealer.epoch(), 1, "nobody confirmed the new one");

    let at = Instant::now();
    assert_eq!(two.open_at(at, &early).unwrap(), b"early");
    assert_eq!(two.open_at(at, &new).unwrap(), b"new");
    assert_eq!(two.opener.epoch(), 1);
    assert_eq!(two.open_at(at, &late).unwrap(), b"late");
    for (sealed, refused) in [(&early, "early"), (&late, "late"), (&new, "new")] {
        assert_eq!(two.open_at(at, sealed), Err(OpenError::Replayed), "{refused}");
    }
    assert_eq!(two.open_at(at + OLD_EPOCH, &later), Err(OpenError::Stale));
    assert_eq!(two.open_at(at, &later), Err(OpenError::Stale), "the key is gone");
}

#[test]
fn keys_follow_each_other_by_volume_and_end() {
    let (mut one, mut two) = path();
    let now = Instant::now();
    one.sealer.skip_to(EPOCH_PACKETS - 1);
    one.sealer.confirm(0);
    one.sealer.turn(now);
    let last = one.seal(b"last");
    one.sealer.turn(now);
    let first = one.seal(b"first");
    assert_eq!((Header::read(&last).unwrap().counter, Header::read(&first).unwrap().counter), (EPOCH_PACKETS - 1, 0));
    assert_eq!((two.open(&last).unwrap(), two.open(&first).unwrap()), (b"last".to_vec(), b"first".to_vec()));
    // Without a word from the other end it goes on for a while, and then no further.
    one.sealer.skip_to(EPOCH_PACKETS_MAX - 1);
    one.sealer.turn(now);
    assert_eq!(one.sealer.left(), 1);
    one.seal(b"the very last");
    let mut slot = [0; HEADER_BYTES + TAG_BYTES];
    assert_eq!(one.sealer.seal(Kind::Packet, &mut slot), Err(SealError::UsedUp));
    assert_eq!(slot, [0; HEADER_BYTES + TAG_BYTES]);
    assert_eq!(one.sealer.seal(Kind::Packet, &mut slot[1..]), Err(SealError::NoRoom));
}

/// Somebody claims that the next key is in use: nothing changes.
#[test]
fn an_epoch_begins_with_something_genuine() {
    let (mut one, mut two) = path();
    let mut forged = one.seal(b"text");
    for (epoch, expect) in [(1, OpenError::Forged), (2, OpenError::Stale), (0xff_ffff, OpenError::Stale)] {
        forged[1..4].copy_from_slice(&u32::to_be_bytes(epoch)[1..]);
        assert_eq!(two.open(&forged), Err(expect));
        assert_eq!(two.opener.epoch(), 0);
    }
}

#[test]
fn ports_are_by_family() {
    let ports = Ports { v4: 1, v6: 0 };
    assert_eq!(ports.at("192.0.2.1:9".parse().unwrap()), Some("192.0.2.1:1".parse().unwrap()));
    assert_eq!(ports.at("[::ffff:192.0.2.1]:9".parse().unwrap()), Some("192.0.2.1:1".parse().unwrap()));
    assert_eq!(ports.at("[2001:db8::1]:9".parse().unwrap()), None);
}

/// The first version, as it is sent. A change of it is another version.
#[test]
fn terms_stay_as_they_are() {
    let bytes = [&[1, 0][..], &[7; 16], &[0x84, 0x02, 0xd2, 0x09, 0, 1]].concat();
    let terms = Terms { fresh: [7; 16], index: 260, ports: Ports { v4: 1234, v6: 0 }, aes: true };
    assert_eq!(atoll_wire::encode(&terms), bytes);
    assert_eq!(decode_terms(&bytes).unwrap(), terms);
    let largest = Terms { fresh: [255; 16], index: u32::MAX, ports: Ports { v4: u16::MAX, v6: u16::MAX }, aes: true };
    assert!(atoll_wire::encode(&largest).len() <= TERMS_BYTES_MAX as usize);
}

/// What a run of sealed packets opens to, datagram by datagram.
fn opened(end: &mut End, bytes: &[u8], runs: &[Run]) -> Vec<Vec<u8>> {
    let datagrams = runs.iter().flat_map(|run| bytes[run.at.clone()].chunks(run.segment));
    datagrams.map(|datagram| end.open(datagram).unwrap()).collect()
}

proptest! {
    #[test]
    fn whatever_happens_on_the_way_nothing_opens_twice(
        steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..300),
    ) {
        let (mut one, mut two) = path();
        let (mut now, mut sent, mut got) = (Instant::now(), Vec::new(), HashSet::new());
        for (number, (step, which)) in steps.iter().enumerate() {
            match step {
                0..=3 => sent.push((now, one.seal(&number.to_be_bytes()))),
                4..=7 if !sent.is_empty() => {
                    let (_, sealed) = &sent[which.index(sent.len())];
                    if let Ok(text) = two.open_at(now, sealed) {
                        prop_assert!(got.insert(text), "twice");
                        one.sealer.confirm(two.opener.epoch());
                    }
                }
                8 => now += Duration::from_secs(3),
                _ => now += EPOCH_TIME,
            }
            one.sealer.turn(now);
        }
        // What is sealed now opens, whatever was lost before.
        let fresh = one.seal(b"fresh");
        prop_assert_eq!(two.open_at(now, &fresh).unwrap(), b"fresh");
    }

    #[test]
    fn a_burst_arrives_as_it_was(
        sizes in prop::collection::vec(prop_oneof![Just(PACKET_BYTES_MAX), 0..=PACKET_BYTES_MAX], 0..130),
        segments_max in prop_oneof![Just(64usize), 1usize..64],
    ) {
        let (mut one, mut two) = path();
        let mut buffer = vec![0; sizes.len() * SLOT_BYTES];
        let packets: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
        for (slot, packet) in buffer.chunks_mut(SLOT_BYTES).zip(&packets) {
            slot[HEADER_BYTES..][..packet.len()].copy_from_slice(packet);
        }
        let burst = Burst::new(&mut buffer, &sizes);
        prop_assert!(burst.packets().eq(packets.iter().map(Vec::as_slice)));
        let mut runs = Vec::new();
        let bytes = burst.seal(&mut one.sealer, segments_max, &mut runs).unwrap();
        for run in &runs {
            prop_assert!(run.count <= segments_max && run.at.len() <= 65_507);
            prop_assert_eq!(run.at.len().div_ceil(run.segment), run.count);
        }
        prop_assert_eq!(opened(&mut two, bytes, &runs), packets);
    }
}

#[test]
fn a_read_of_the_interface_is_two_system_calls() {
    // 64 KiB of a TCP conversation in segments of 1,420 bytes.
    let (mut one, _) = path();
    let sizes = [[PACKET_BYTES_MAX; 48].as_slice(), &[700]].concat();
    let (mut buffer, mut runs) = (vec![0; 49 * SLOT_BYTES], Vec::new());
    Burst::new(&mut buffer, &sizes).seal(&mut one.sealer, 64, &mut runs).unwrap();
    assert_eq!(runs.iter().map(|run| run.count).collect::<Vec<_>>(), [45, 4]);
}

/// A TCP packet over IPv6 with options, as the kernel hands it over: its checksum is not there yet.
fn long_packet(payload: usize, flags: u8) -> Vec<u8> {
    let mut packet = [&[0x60, 0, 0, 0, 0, 0, 6, 64][..], &[6; 16], &[7; 16]].concat();
    packet.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x80, flags, 1, 1, 0, 0, 0, 0]);
    packet.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.extend((0..payload).map(|at| (at * 7 + at / 256) as u8));
    let length = packet.len() - 40;
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

/// Packets that say different things of congestion are not sent as one: the kernel says the same of all.
#[test]
fn what_is_said_of_congestion_is_said_outside() {
    let (mut one, _) = path();
    let classes = [0x00, 0x20, 0x20, 0x30, 0x10, 0xc0];
    let (mut buffer, mut runs) = (vec![0; classes.len() * SLOT_BYTES], Vec::new());
    for (slot, class) in buffer.chunks_mut(SLOT_BYTES).zip(classes) {
        slot[HEADER_BYTES..][..2].copy_from_slice(&[0x60, class]);
    }
    Burst::new(&mut buffer, &[100; 6]).seal(&mut one.sealer, 64, &mut runs).unwrap();
    let says: Vec<_> = runs.iter().map(|run| (run.ecn, run.count)).collect();
    assert_eq!(says, [(0b00, 1), (0b10, 2), (0b11, 1), (0b01, 1), (0b00, 1)]);
    let (mut packet, mut room) = (long_packet(3000, 0x10), vec![0; 4 * SLOT_BYTES]);
    packet[1] = 0x20;
    Cut::new(&mut packet, 1000, &mut room).unwrap().seal(&mut one.sealer, 64, &mut runs).unwrap();
    assert_eq!(runs.iter().map(|run| (run.ecn, run.count)).collect::<Vec<_>>(), [(0b10, 3)]);
}

proptest! {
    #[test]
    fn a_long_packet_arrives_in_segments(payload in 1usize..60_000, size in prop_oneof![Just(1348usize), 500usize..1348]) {
        let (mut one, mut two) = path();
        let (mut packet, mut room) = (long_packet(payload, 0x19), vec![0; 128 * SLOT_BYTES]);
        let (mut same, mut same_room) = (packet.clone(), room.clone());
        let cut = Cut::new(&mut packet, size, &mut room).unwrap();
        let count = cut.count();
        let mut runs = Vec::new();
        let bytes = cut.seal(&mut one.sealer, 64, &mut runs).unwrap();
        let mut opened = opened(&mut two, bytes, &runs);
        prop_assert_eq!(opened.len(), count);
        for segment in &mut opened {
            finish_checksum(segment);
        }
        let split = Cut::new(&mut same, size, &mut same_room).unwrap().split();
        prop_assert_eq!(&opened, &split);
        let contents: Vec<u8> = opened.iter().flat_map(|segment| segment[72..].to_vec()).collect();
        prop_assert_eq!(&contents, &long_packet(payload, 0)[72..]);
        for (at, segment) in opened.iter().enumerate() {
            prop_assert_eq!(segment[53], if at + 1 == count { 0x19 } else { 0x10 });
        }
    }
}

#[test]
fn only_a_long_packet_is_cut() {
    let mut room = vec![0; 2 * SLOT_BYTES];
    let good = long_packet(2000, 0x10);
    let changed = |at: usize, to: u8| {
        let mut packet = good.clone();
        packet[at] = to;
        packet
    };
    for (what, mut packet, size, expect) in [
        ("it is", good.clone(), 1000, true),
        ("no size", good.clone(), 0, false),
        ("too large a size", good.clone(), 1349, false),
        ("more segments than room", good.clone(), 999, false),
        ("not IPv6", changed(0, 0x45), 1000, false),
        ("not TCP", changed(6, 17), 1000, false),
        ("another length", changed(5, 0), 1000, false),
        ("headers beyond its end", long_packet(0, 0x10)[..60].to_vec(), 1000, false),
        ("nothing in it", long_packet(0, 0x10), 1000, false),
        ("nothing", Vec::new(), 1000, false),
    ] {
        assert_eq!(Cut::new(&mut packet, size, &mut room).is_ok(), expect, "{what}");
    }
}

#[test]
fn a_checksum_is_finished() {
    // Checked by hand: the sum over pseudo-header and segment is all ones.
    for payload in [0, 1, 2, 3, 1347] {
        let mut packet = long_packet(payload, 0x10);
        finish_checksum(&mut packet);
        let mut covered = packet[8..40].to_vec();
        covered.extend(((packet.len() - 40) as u32).to_be_bytes());
        covered.extend([0, 0, 0, 6]);
        covered.extend(&packet[40..]);
        let words = covered.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff, "{payload} bytes");
    }
}
