//! Messages from node to node: a topic, a payload, and the promise that they arrive once, in order, also when a node is away for a while.
//!
//! A [`Bus`] keeps an outbox and an inbox on the disk. Its [`BusHandle`] sends, subscribes, replies and asks; what other nodes say comes in over streams of
//! [`PROTOCOL`], each authenticated by NodeId. Who the nodes are and how they are reached is handed in ([`BusLink`]).
//!
//! # What a message is
//!
//! It goes from a node to a node, or to several (all known nodes of an owner): each of these gets it, or does not, for itself. It has a [`Topic`] (words joined by dots,
//! 128 bytes at most), a payload of at most [`PAYLOAD_BYTES_MAX`], a random id of 128 bits by which people and answers name it, a time to live, and possibly the id of
//! the message that it answers.
//!
//! # What is promised
//!
//! - **Accepted is durable.** [`BusHandle::send`] returns once the message is in the outbox on the sender's disk, synced. It stays there until the receiver's node has said that it is in the
//!   inbox on *its* disk, synced, or until it comes to another end; both are looked up by [`BusHandle::fate`]:
//!   *delivered*, *refused* (and why), *expired* (no acknowledgement came in time: it may still have arrived), or *waiting* (and what was in the way the last time).
//! - **At least once between nodes, once in the inbox.** What is not acknowledged is sent again. Every message has a position, which rises through everything that a node
//!   ever sends; the receiver keeps the last position that it took from each peer, and takes only higher ones. So a duplicate is recognised for ever, by eight bytes for each peer: no window of ids, and no clock. A sender whose memory is gone or restored from a copy finds out by the greeting
//!   with which each of its runs begins, and goes on above what the receiver has seen.
//! - **Once for a consumer who acknowledges.** A message is given to one consumer at a time and is gone once that has [acknowledged](Delivery::ack) it. A consumer that ends before it does (and may have acted on it already)
//!   leaves it to the next one: who must not act twice remembers the id until the acknowledgement is through.
//! - **In order from each node to each node**, over all topics. Messages are few and small, so a stream for each topic would buy little, and what is said on one topic often explains what is
//!   said on another. The price: a message that finds no room holds up those behind it for the same node (one that is refused or expires does not). A consumer sees the messages that it wants in the
//!   order in which they arrived.
//! - **Time to live** counts until a consumer has taken the message, on the way and in the inbox. On the way it is told as a duration, so clocks need not agree. While a node runs its steady clock counts; over a restart
//!   the machine's clock does, and one that went back prolongs nothing beyond the whole time to live.
//!
//! # Who may send
//!
//! Rules ([`Rule`]) name nodes and topics; by default the nodes of the same owner may send everything and nobody else anything. An answer is let in from the node that was asked as long as the question is remembered (the
//! last 1,000 are), whatever the rules say; nobody else can answer it. A peer may fill [a share](Limits::peer_messages) of the inbox and never more than is free for all others: one that
//! floods, and several that do, are told *full* and wait while others go on.
//!
//! # Deliberately absent
//!
//! - Encryption and authentication: the stream's. No signature travels with a message, so it cannot be shown to a third node as proof.
//! - Passing messages on for others, storing them on a third node: both ends have to be up at some moment within the time to live.
//! - Fan-out to several consumers on one node: a message is for one. Whoever wants copies subscribes once and copies.
//! - Exactly-once effects: they need the consumer's help, see above.
//!
//! # How it is made
//!
//! [`Core`] is a state machine without I/O; property tests and a seeded simulation (losses, repetitions, reordering, crashes between any two steps, clocks that jump) run it. [`Bus`] drives it: steps, commits, and only then speaks.

mod bus;
mod frames;
mod handle;
mod limits;
mod machine;
mod records;
mod rule;
mod store;
mod topic;

pub use bus::{Bus, BusConfig, BusLink, Stream};
pub use frames::{Answer, Envelope, PROTOCOL, Payload, Question, Refusal, Stop, TERMS};
pub use handle::{BusError, BusHandle, Delivery, Message, NewMessage, Subscription};
pub use limits::{
    BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, Limits, MESSAGE_OVERHEAD_BYTES, PAYLOAD_BYTES_MAX, RECIPIENTS_MAX,
    TTL_MS_DEFAULT, TTL_MS_MAX, TTL_MS_MIN,
};
pub use machine::{
    Ask, Core, CoreConfig, Counts, Effect, Filter, Hold, Input, Now, OutStatus, Outgoing, Outputs, SendRefusal,
};
pub use records::{InRecord, InState, Mark, OutRecord, OutState, Stored, Write};
pub use rule::{Rule, RuleError, Rules, Verdict, Who};
pub use store::StoreError;
pub use topic::{Pattern, TOPIC_BYTES_MAX, Topic, TopicError};
