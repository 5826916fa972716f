//! The protocol `atoll/bus/1`: one question frame, one answer frame, on a stream that proves who each side is.
//!
//! A sender first asks what the receiver has of it ([`Question::Hello`]), once in each of its runs, and then hands over messages in batches. Foreign questions are
//! checked while they are decoded: nobody sees one that breaks a limit.

use std::fmt;
use std::time::Duration;

use atoll_ids::MessageId;
use atoll_wire::Versioned;
use atoll_wire::exchange::Terms;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, MESSAGE_OVERHEAD_BYTES, PAYLOAD_BYTES_MAX, TTL_MS_MAX};
use crate::topic::Topic;

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/bus/1";

/// A batch and what surrounds it. At 150 kbit/s the largest takes a minute; that a node has gone the connection notices long before.
pub const TERMS: Terms = Terms {
    frame_bytes_max: (BATCH_BYTES_MAX + BATCH_MESSAGES_MAX * MESSAGE_OVERHEAD_BYTES) as u32,
    within: Duration::from_secs(60),
};

/// What a sender says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Foreign")]
pub enum Question {
    /// What do you have of me?
    Hello,
    /// Take these, in this order.
    Deliver(Vec<Envelope>),
}

impl Versioned for Question {
    const VERSION: u16 = 1;
    const NAME: &'static str = "question of the message bus";
}

/// One message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Its place in the order of everything the sender has sent to anybody.
    pub position: u64,
    /// Its id.
    pub id: MessageId,
    /// What it is about.
    pub topic: Topic,
    /// The message of the receiver that it answers.
    pub answers: Option<MessageId>,
    /// How long it may still wait, in milliseconds: a duration, so that the clocks of two nodes need not agree.
    pub ttl: u64,
    /// The payload.
    pub payload: Payload,
}

/// Bytes that are encoded as bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Payload;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

/// What a receiver answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a greeting: the last position taken from you, 0 for none.
    Known(u64),
    /// To a batch: so many from its beginning are on the disk here, and why it went no further.
    Heard {
        /// How many.
        taken: u32,
        /// Why the next one is not taken; `None` if there is no next one.
        stop: Option<Stop>,
    },
}

impl Versioned for Answer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "answer of the message bus";
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Never.
    Refused(Refusal),
    /// There is no room for more of this sender now.
    Full,
    /// It is not known yet whose node the sender is, or the disk does not take it now.
    Later,
}

/// Why a message will not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No rule lets this sender send on this topic.
    Topic,
    /// It answers a message that the receiver does not remember having sent there.
    NoQuestion,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "it does not take this topic from this node (its setting bus.allow)",
            Self::NoQuestion => "it does not remember the message that this one answers",
        })
    }
}

/// A question as it comes.
#[derive(Deserialize)]
#[serde(rename = "Question")]
enum Foreign {
    Hello,
    Deliver(Vec<Envelope>),
}

impl TryFrom<Foreign> for Question {
    type Error = &'static str;

    fn try_from(foreign: Foreign) -> Result<Self, &'static str> {
        let Foreign::Deliver(batch) = foreign else { return Ok(Self::Hello) };
        if batch.is_empty() || batch.len() > BATCH_MESSAGES_MAX {
            return Err("a batch has 1 to 64 messages");
        }
        let mut before = 0;
        for envelope in &batch {
            if envelope.position <= before {
                return Err("positions rise from 1");
            }
            before = envelope.position;
            if envelope.payload.0.len() > PAYLOAD_BYTES_MAX {
                return Err("a payload has at most 256 KiB");
            }
            if !(1..=TTL_MS_MAX).contains(&envelope.ttl) {
                return Err("a message waits for 1 ms to 30 days");
            }
        }
        Ok(Self::Deliver(batch))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_wire::{decode, encode};

    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            position: 7,
            id: MessageId::from_bytes([3; 16]),
            topic: "backup.done".parse().unwrap(),
            answers: None,
            ttl: 1000,
            payload: Payload(Bytes::from_static(b"\x00\xffhello")),
        }
    }

    /// What version 1 looks like on the wire; these bytes never change.
    #[test]
    fn version_1_is_read_for_ever() {
        let question = Question::Deliver(vec![envelope()]);
        let fixture =
            [&[1, 0, 1, 1, 7][..], &[3; 16], b"\x0bbackup.done", &[0, 0xe8, 0x07, 7], b"\x00\xffhello"].concat();
        assert_eq!(encode(&question), fixture);
        assert_eq!(decode::<Question>(&fixture).unwrap(), question);
        assert_eq!(decode::<Question>(&[1, 0, 0]).unwrap(), Question::Hello);
        for (answer, bytes) in [
            (Answer::Known(300), &[1, 0, 0, 0xac, 0x02][..]),
            (Answer::Heard { taken: 2, stop: None }, &[1, 0, 1, 2, 0]),
            (Answer::Heard { taken: 0, stop: Some(Stop::Refused(Refusal::NoQuestion)) }, &[1, 0, 1, 0, 1, 0, 1]),
            (Answer::Heard { taken: 0, stop: Some(Stop::Full) }, &[1, 0, 1, 0, 1, 1]),
        ] {
            assert_eq!(encode(&answer), bytes);
            assert_eq!(decode::<Answer>(bytes).unwrap(), answer);
        }
    }

    #[test]
    fn the_largest_batch_fits_a_frame() {
        let topic: Topic = "t".repeat(crate::TOPIC_BYTES_MAX).parse().unwrap();
        let each = BATCH_BYTES_MAX / BATCH_MESSAGES_MAX;
        let largest = |position| Envelope {
            position,
            topic: topic.clone(),
            answers: Some(MessageId::from_bytes([1; 16])),
            ttl: TTL_MS_MAX,
            payload: Payload(vec![0; each].into()),
            ..envelope()
        };
        let from = u64::MAX - BATCH_MESSAGES_MAX as u64;
        let batch = (0..BATCH_MESSAGES_MAX as u64).map(|at| largest(from + at)).collect();
        let bytes = encode(&Question::Deliver(batch));
        assert!(bytes.len() <= TERMS.frame_bytes_max as usize, "{}", bytes.len());
        decode::<Question>(&bytes).unwrap();
    }

    #[test]
    fn what_breaks_a_limit_is_not_decoded() {
        #[track_caller]
        fn check(batch: Vec<Envelope>, expected: &str) {
            let bytes = encode(&Question::Deliver(batch));
            // postcard does not pass on what a type says about itself.
            assert!(decode::<Question>(&bytes).is_err(), "{expected}");
        }
        check(Vec::new(), "no message at all");
        check((1..=65).map(|position| Envelope { position, ..envelope() }).collect(), "too many");
        check(vec![Envelope { position: 0, ..envelope() }], "position 0");
        check(vec![envelope(), envelope()], "the same position twice");
        check(vec![Envelope { ttl: 0, ..envelope() }], "over already");
        check(vec![Envelope { ttl: TTL_MS_MAX + 1, ..envelope() }], "too long");
        check(vec![Envelope { payload: Payload(vec![0; PAYLOAD_BYTES_MAX + 1].into()), ..envelope() }], "too large");
    }
}
