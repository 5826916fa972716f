//! Types about messages between nodes.

use atoll_ids::{MessageId, NodeId, OwnerId};
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ApiError;

/// Bytes, as Base64 with padding (RFC 4648, section 4) in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `POST /v1/bus/send`, `POST /v1/bus/ask`: a message to be sent. The first answers with a [`SendReport`], the second with [`BusEvent`]s: the report, then the answers to
/// the message as they come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRequest {
    /// A node's id, or `owner:` and an owner's id for all known nodes of that owner.
    pub to: String,
    /// What it is about.
    pub topic: String,
    /// The payload.
    pub payload: Base64,
    /// How long it may wait; a day unless it is said.
    pub ttl_seconds: Option<u64>,
}

/// `POST /v1/bus/reply`: an answer to a message that arrived. Answers with a [`SendReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyRequest {
    /// The message.
    pub id: MessageId,
    /// The payload.
    pub payload: Base64,
    /// How long it may wait; a day unless it is said.
    pub ttl_seconds: Option<u64>,
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReport {
    /// Its id.
    pub id: MessageId,
    /// What became of it so far, for each node that it goes to.
    pub recipients: Vec<SentMessage>,
}

/// A message on its way to one node, or what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentMessage {
    /// Its id.
    pub id: MessageId,
    /// Where it goes.
    pub to: NodeId,
    /// What it is about.
    pub topic: String,
    /// The message that it answers.
    pub answers: Option<MessageId>,
    /// Bytes of its payload.
    pub bytes: u64,
    /// When it was accepted (RFC 3339).
    pub accepted: String,
    /// `waiting`, `delivered`, `expired` or `refused`.
    pub state: String,
    /// Why it is refused, or what was in the way the last time.
    pub why: Option<String>,
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedMessage {
    /// Its id.
    pub id: MessageId,
    /// The node that sent it.
    pub from: NodeId,
    /// Whose node that was, if that was known.
    pub owner: Option<OwnerId>,
    /// What it is about.
    pub topic: String,
    /// The message that it answers.
    pub answers: Option<MessageId>,
    /// Bytes of its payload.
    pub bytes: u64,
    /// When it arrived (RFC 3339).
    pub received: String,
    /// `unread`, `taken`, or `expired` before somebody took it.
    pub state: String,
}

/// `GET /v1/bus/messages`: what waits, and the last of what does not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusMessages {
    /// The outbox, in the order of sending.
    pub sent: Vec<SentMessage>,
    /// The inbox, in the order of arrival.
    pub received: Vec<ReceivedMessage>,
}

/// `POST /v1/bus/receive`: messages, one after the other. Answers with [`BusEvent`]s; the next comes once the one before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveRequest {
    /// Which topics: a pattern.
    pub topics: String,
    /// From whom: `own`, `peers`, `owner:ID` or `node:ID`; from anybody unless it is said.
    pub from: Option<String>,
    /// Whether to wait for more when there are none.
    pub follow: bool,
}

/// `POST /v1/bus/ack`: a consumer is done with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRequest {
    /// Of [`BusEvent::Message`].
    pub tag: String,
}

/// What is said to somebody who receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum BusEvent {
    /// The question is accepted; answers follow.
    Sent {
        /// What became of it so far.
        report: SendReport,
    },
    /// A message. It is given to somebody else if this stream ends before it is acknowledged.
    Message {
        /// By which it is acknowledged.
        tag: String,
        /// The message.
        message: ReceivedMessage,
        /// What was sent.
        payload: Base64,
    },
    /// Nothing more will come.
    Failed {
        /// Why.
        error: ApiError,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn bytes_are_base64() {
        let bytes = Base64(vec![0, 255, b'a']);
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"AP9h\"");
        assert_eq!(serde_json::from_str::<Base64>("\"AP9h\"").unwrap(), bytes);
        assert!(serde_json::from_str::<Base64>("\"AP9\"").is_err());
    }
}
