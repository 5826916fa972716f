//! The Internet checksum of TCP over IPv6 (RFC 9293, RFC 8200 section 8.1), begun and finished apart: between two nodes that seal, nobody needs it.

/// IPv6's header.
pub(crate) const IP_BYTES: usize = 40;

/// TCP's header without options.
pub(crate) const TCP_BYTES: usize = 20;

const TCP_NUMBER: u8 = 6;

/// Where the checksum is in TCP's header.
const SUM_AT: usize = 16;

/// The bytes of both headers, if this is a whole TCP segment right behind an IPv6 header.
#[must_use]
pub fn tcp_headers(packet: &[u8]) -> Option<usize> {
    let is_tcp = packet.len() >= IP_BYTES + TCP_BYTES && packet[0] >> 4 == 6 && packet[6] == TCP_NUMBER;
    if !is_tcp || usize::from(u16::from_be_bytes([packet[4], packet[5]])) != packet.len() - IP_BYTES {
        return None;
    }
    let tcp = usize::from(packet[IP_BYTES + 12] >> 4) * 4;
    (tcp >= TCP_BYTES && IP_BYTES + tcp <= packet.len()).then_some(IP_BYTES + tcp)
}

/// The sum over what TCP's checksum covers of the IPv6 header: addresses, protocol, and the length of what follows.
pub(crate) fn begun(headers: &[u8], length: usize) -> u16 {
    fold(add(&headers[8..IP_BYTES]) + length as u64 + u64::from(TCP_NUMBER))
}

/// Finishes the checksum of a segment in which it is only begun. Nothing happens to what is none.
pub fn finish_checksum(packet: &mut [u8]) {
    if tcp_headers(packet).is_none() {
        return;
    }
    let length = packet.len() - IP_BYTES;
    let begun = begun(packet, length);
    let tcp = &mut packet[IP_BYTES..];
    tcp[SUM_AT..SUM_AT + 2].fill(0);
    let sum = !fold(add(tcp) + u64::from(begun));
    tcp[SUM_AT..SUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the begun checksum into a segment's headers.
pub(crate) fn begin(headers: &mut [u8], length: usize) {
    let sum = begun(headers, length);
    headers[IP_BYTES + SUM_AT..IP_BYTES + SUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
}

fn add(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder().iter().zip([24, 16, 8]).map(|(byte, shift)| u64::from(*byte) << shift).sum::<u64>();
    words.map(|word| u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]))).sum::<u64>() + rest
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
