//! A long TCP packet, as the kernel hands it over for a network card to cut into segments: cut and sealed in one go.
//!
//! Each segment is sealed from where its contents lie into where it is sent from. Its headers are put right in front of them, over the end of the segment before,
//! which is sealed by then. So every byte is read once and written once.

use bytes::Bytes;

use crate::burst::{Run, SLOT_BYTES, note_run};
use crate::ecn::ecn;
use crate::header::{HEADER_BYTES, Kind, PACKET_BYTES_MAX, TAG_BYTES};
use crate::seal::{SealError, Sealer};
use crate::sum::{IP_BYTES, begin, finish_checksum, tcp_headers};

/// Both headers with the most options that TCP can have.
const HEADERS_BYTES_MAX: usize = IP_BYTES + 60;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A TCP packet over IPv6 that is to be cut into segments with so many bytes each, and room for them.
#[derive(Debug)]
pub struct Cut<'a> {
    packet: &'a mut [u8],
    headers: usize,
    size: usize,
    room: &'a mut [u8],
}

impl<'a> Cut<'a> {
    /// A packet to be cut.
    ///
    /// # Errors
    ///
    /// Both back if it is no such packet, the segments would be too large, or there is no room for all of them in slots.
    pub fn new(packet: &'a mut [u8], size: usize, room: &'a mut [u8]) -> Result<Self, (&'a mut [u8], &'a mut [u8])> {
        match tcp_headers(packet) {
            Some(headers)
                if size > 0
                    && headers + size <= PACKET_BYTES_MAX
                    && headers < packet.len()
                    && (packet.len() - headers).div_ceil(size) * SLOT_BYTES <= room.len() =>
            {
                Ok(Self { packet, headers, size, room })
            }
            _ => Err((packet, room)),
        }
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.packet
    }

    /// How many segments there are.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.packet.len() - self.headers).div_ceil(self.size)
    }

    /// The bytes of the largest.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.packet.len().min(self.headers + self.size)
    }

    /// Seals all segments. `runs` gets what to send; it lies in the room that was given.
    ///
    /// # Errors
    ///
    /// [`SealError`], with nothing to be sent.
    pub fn seal(self, sealer: &mut Sealer, segments_max: usize, runs: &mut Vec<Run>) -> Result<&'a [u8], SealError> {
        runs.clear();
        let Self { packet, headers, size, room } = self;
        let (says, mut end) = (ecn(packet), 0);
        let outcome = each_segment(packet, headers, size, |segment| {
            let sealed = HEADER_BYTES + segment.len() + TAG_BYTES;
            sealer.seal_into(Kind::Segment, segment, &mut room[end..end + sealed])?;
            note_run(runs, end, sealed, segments_max, says);
            end += sealed;
            Ok(())
        });
        if let Err(error) = outcome {
            runs.clear();
            return Err(error);
        }
        Ok(room)
    }

    /// Cuts it for another way of sending: each segment in memory of its own and with its checksum.
    #[must_use]
    pub fn split(self) -> Vec<Bytes> {
        let mut segments = Vec::with_capacity(self.count());
        let outcome: Result<(), std::convert::Infallible> =
            each_segment(self.packet, self.headers, self.size, |segment| {
                let mut segment = segment.to_vec();
                finish_checksum(&mut segment);
                segments.push(Bytes::from(segment));
                Ok(())
            });
        let Ok(()) = outcome;
        segments
    }
}

/// Makes each segment in turn, with its checksum begun.
fn each_segment<E>(
    packet: &mut [u8],
    headers: usize,
    size: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut template = [0; HEADERS_BYTES_MAX];
    let template = &mut template[..headers];
    template.copy_from_slice(&packet[..headers]);
    let sequence = u32::from_be_bytes([template[44], template[45], template[46], template[47]]);
    let flags = template[IP_BYTES + 13];
    let mut at = 0;
    while headers + at < packet.len() {
        let end = (headers + at + size).min(packet.len());
        let is_last = end == packet.len();
        let length = end - at - IP_BYTES;
        template[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        template[44..48].copy_from_slice(&sequence.wrapping_add(at as u32).to_be_bytes());
        // An end and a push are the last one's, "window reduced" is the first one's (RFC 3168, section 6.1.2).
        let without = if is_last { 0 } else { FIN | PSH } | if at == 0 { 0 } else { CWR };
        template[IP_BYTES + 13] = flags & !without;
        begin(template, length);
        packet[at..at + headers].copy_from_slice(template);
        take(&packet[at..end])?;
        at += size;
    }
    Ok(())
}
