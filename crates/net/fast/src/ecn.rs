//! Explicit congestion notification across a path, as for every tunnel (RFC 6040, "normal mode"): what a packet says of it is said outside, too, and where a router
//! on the way says that there is congestion, the packet says so when it comes out. The rest of the traffic class stays with the packet, inside.
//!
//! Whoever is on the way can so have senders slow down; by dropping packets he could as well.

/// Congestion was experienced (RFC 3168, section 5).
pub const CONGESTED: u8 = 0b11;

/// What an IPv6 packet says: 0 if its sender does not take part.
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 6 => second >> 4 & CONGESTED,
        _ => 0,
    }
}

/// Has a packet say that there was congestion. False if its sender does not take part: then it is to be lost, which he does understand.
#[must_use]
pub fn mark_congested(packet: &mut [u8]) -> bool {
    if ecn(packet) == 0 {
        return false;
    }
    packet[1] |= CONGESTED << 4;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_packet_says_and_comes_to_say() {
        // Version 6, all bits of the class and the flow label around the two set.
        for (what, packet, says, marked) in [
            ("takes no part", vec![0x6f, 0xcf], 0b00, None),
            ("ECT(1)", vec![0x6f, 0xdf], 0b01, Some(vec![0x6f, 0xff])),
            ("ECT(0)", vec![0x60, 0x20], 0b10, Some(vec![0x60, 0x30])),
            ("congestion", vec![0x60, 0x30], 0b11, Some(vec![0x60, 0x30])),
            ("IPv4", vec![0x4f, 0xff], 0b00, None),
            ("cut short", vec![0x6f], 0b00, None),
            ("nothing", vec![], 0b00, None),
        ] {
            assert_eq!(ecn(&packet), says, "{what}");
            let mut after = packet.clone();
            assert_eq!(mark_congested(&mut after).then_some(after), marked, "{what}");
        }
    }
}
