//! SPDY frames, as any client of a Kubernetes API may send them: heads, control frames, and headers whose compression goes on from frame to frame.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fuzz::fuzz;
use atoll_kubelet::spdy::{CONTROL_BYTES_MAX, Control, Decoder, Head, head};

/// Most bytes of a stream's headers after inflating.
const HEADERS_BYTES_MAX: usize = 16 << 10;

/// Two streams' headers as zlib writes them with the protocol's dictionary.
const FIRST: &[u8] =
    b"\x78\xf9\xe3\xc6\xa7\xc2\x02\x25\x3a\x70\x3a\x2b\x29\x4a\x4d\xcc\x85\x16\x25\xac\xa9\xa0\x80\x86\x14\xcb\x45\
    \xe0\x1c\x60\x61\x60\x61\x00\xa4\x39\x8b\x20\xd1\x98\x09\x4a\xde\x8c\x06\0\0\0\0\xff\xff";
const SECOND: &[u8] = b"\xc2\xaa\x19\x54\x0e\x25\x12\xd6\x0b\0\0\0\xff\xff";

fn frame(kind: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind][..], &length, &content].concat()
}

#[test]
fn frames() {
    let open = |stream: u8, headers| frame(1, &[&[0, 0, 0, stream, 0, 0, 0, 0, 0, 0], headers]);
    let data = [&[0, 0, 0, 1, 1, 0, 0, 5][..], b"bytes"].concat();
    let others = [frame(6, &[&[0, 0, 0, 1]]), frame(3, &[&[0, 0, 0, 1, 0, 0, 0, 5]]), frame(4, &[&[0; 12]])].concat();
    let session = [open(1, FIRST), data, open(3, SECOND), others].concat();
    assert_eq!(streams(&session), ["error", "data"], "the valid session is valid");
    // Stored parts that hold more than is taken.
    let stored = [&[0x78, 1][..], &[0, 0, 0x40, 0xff, 0xbf].repeat(3)].concat();
    fuzz!(30_000, vec![session, open(1, FIRST), open(1, &stored)], |bytes: &[u8]| {
        streams(bytes);
    });
}

/// Reads a session until it breaks off or is refused: which types of streams it opens.
fn streams(mut bytes: &[u8]) -> Vec<String> {
    let (mut decoder, mut types) = (Decoder::default(), Vec::new());
    while let Some((first, rest)) = bytes.split_first_chunk() {
        let Ok(head) = head(*first) else { break };
        let (Head::Data { bytes: length, .. } | Head::Control { bytes: length, .. }) = head;
        let Some((content, rest)) = rest.split_at_checked(length as usize) else { break };
        bytes = rest;
        if let Head::Control { kind, flags, bytes: length } = head {
            assert!(length <= CONTROL_BYTES_MAX);
            let Ok(control) = decoder.control(kind, flags, content) else { break };
            if let Control::Open { stream, headers, .. } = control {
                assert!(stream >> 31 == 0);
                let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(bytes <= HEADERS_BYTES_MAX);
                types.extend(headers.into_iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value));
            }
        }
    }
    types
}
