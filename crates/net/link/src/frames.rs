//! What nodes say to each other about themselves: when one joins, and when two that know each other meet.
//!
//! Every message is one frame. Both decoders take bytes of strangers, so they check limits before anything else and never
//! panic; they are public for the fuzzer.

use atoll_keys::Signed;
use atoll_wire::{DecodeError, FrameError, Versioned};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::address::AddressRecord;
use crate::invite::JoinRefusal;

/// The most bytes of one message: a record with every address and room for a hybrid signature is below 16 KiB.
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// "Let me in": the first and only thing a joining node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinHello {
    /// Where the joining node is.
    pub record: Signed<AddressRecord>,
    /// That it knows the ticket's secret.
    pub proof: [u8; 32],
}

impl Versioned for JoinHello {
    const VERSION: u16 = 1;
    const NAME: &'static str = "request to join";
}

/// The answer to a [`JoinHello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// The two know each other from now on.
    Welcome {
        /// Where the inviting node is now.
        record: Signed<AddressRecord>,
    },
    /// They do not.
    Refused(JoinRefusal),
}

impl Versioned for JoinAnswer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "answer to a request to join";
}

/// What two nodes that know each other tell when they meet, and when where they are changes. The answer is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Where the sender is.
    pub record: Signed<AddressRecord>,
    /// The sequence of the newest record of the *receiver* that the sender knows. A node whose clock went back hears in this
    /// way what its next record has to exceed.
    pub known: u64,
    /// Drawn at each start of the sender, so that a restart is noticed even when addresses stay.
    pub instance: u64,
}

impl Versioned for Hello {
    const VERSION: u16 = 1;
    const NAME: &'static str = "greeting";
}

/// Reads a request to join.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_join_hello(bytes: &[u8]) -> Result<JoinHello, DecodeError> {
    atoll_wire::decode(bytes)
}

/// Reads an answer to a request to join.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_join_answer(bytes: &[u8]) -> Result<JoinAnswer, DecodeError> {
    atoll_wire::decode(bytes)
}

/// Reads a greeting.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode_hello(bytes: &[u8]) -> Result<Hello, DecodeError> {
    atoll_wire::decode(bytes)
}

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the other end said nothing")]
    Nothing,
}

pub(crate) async fn send<T: Versioned>(stream: &mut (impl AsyncWrite + Unpin), value: &T) -> Result<(), MessageError> {
    Ok(atoll_wire::write_frame(stream, &atoll_wire::encode(value), FRAME_BYTES_MAX).await?)
}

pub(crate) async fn receive<T: Versioned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, MessageError> {
    let frame = atoll_wire::read_frame(stream, FRAME_BYTES_MAX).await?.ok_or(MessageError::Nothing)?;
    Ok(atoll_wire::decode(&frame)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let key = NodeKey::generate();
        let place = "192.0.2.1:4000".parse().unwrap();
        let record = AddressRecord { node: key.id(), sequence: 1, quic: vec![place], lane: vec![place], relay: None };
        let record = Signed::sign(&record, &key);
        let hello = JoinHello { record: record.clone(), proof: [3; 32] };
        assert_eq!(decode_join_hello(&atoll_wire::encode(&hello)).unwrap(), hello);
        for answer in [JoinAnswer::Welcome { record: record.clone() }, JoinAnswer::Refused(JoinRefusal::UsedUp)] {
            assert_eq!(decode_join_answer(&atoll_wire::encode(&answer)).unwrap(), answer);
        }
        let hello = Hello { record, known: 7, instance: 8 };
        assert_eq!(decode_hello(&atoll_wire::encode(&hello)).unwrap(), hello);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, version in any::<bool>()) {
            if version {
                bytes.splice(0..0, [1, 0]);
            }
            let _: Result<JoinHello, _> = decode_join_hello(&bytes);
            let _: Result<JoinAnswer, _> = decode_join_answer(&bytes);
            let _: Result<Hello, _> = decode_hello(&bytes);
        }
    }
}
