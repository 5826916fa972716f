//! A ticket: what somebody hands to a node so that it can join theirs.
//!
//! It says where the inviting node is (its signed address record), carries a secret that shows that the bearer was
//! invited, and ends. It may name a few nodes that relay for the inviting one, where a joining node that cannot reach that directly asks to be let through. As text it is `atoll1` and lower-case base32 with a checksum, so that a ticket cut short or
//! mistyped is told from a wrong one. Whoever holds a ticket can use it: treat it like a key to the door.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use atoll_ids::NodeId;
use atoll_keys::Signed;
use atoll_wire::{DecodeError, Versioned, decode_body};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::address::{AddressRecord, RecordError, is_dialable, open_record};
use crate::invite::Secret;

/// What every ticket starts with. Not part of the base32.
const PREFIX: &str = "atoll1";

/// The longest text that is looked at: a record with all its addresses takes less than 2,200 characters, relays less than 800.
pub const TICKET_CHARS_MAX: usize = 4096;

/// Bytes of the checksum behind the ticket's bytes. Against accidents only: authenticity is the signature's business.
const CHECKSUM_BYTES: usize = 4;

/// BLAKE3 context of the checksum.
const CHECKSUM_CONTEXT: &str = "atoll 2026-11 ticket checksum v1";

/// Relays that a ticket names: one that is gone does not matter then, and the text stays short enough to be sent by hand.
pub const TICKET_RELAYS_MAX: usize = 3;

/// Addresses of each kind that a ticket names of a relay: one of each family and one to spare.
const RELAY_ADDRESSES_MAX: usize = 3;

/// A node through which the inviting one can be reached, and where it is. Nobody signed that: the handshake shows whether it is that node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketRelay {
    pub(crate) node: NodeId,
    pub(crate) quic: Vec<SocketAddr>,
    pub(crate) lane: Vec<SocketAddr>,
}

impl TicketRelay {
    /// Of these addresses the first ones.
    pub(crate) fn new(node: NodeId, quic: &[SocketAddr], lane: &[SocketAddr]) -> Self {
        let few = |addresses: &[SocketAddr]| addresses.iter().copied().take(RELAY_ADDRESSES_MAX).collect();
        Self { node, quic: few(quic), lane: few(lane) }
    }

    fn is_within_limits(&self) -> bool {
        self.quic.len() <= RELAY_ADDRESSES_MAX && self.lane.len() <= RELAY_ADDRESSES_MAX
    }

    /// Where it is, in the form in which nodes are dialled.
    pub(crate) fn record(&self) -> AddressRecord {
        let dialable = |addresses: &[SocketAddr]| addresses.iter().copied().filter(is_dialable).collect();
        let (quic, lane) = (dialable(&self.quic), dialable(&self.lane));
        AddressRecord { node: self.node, sequence: 0, quic, lane, relay: None }
    }
}

/// An invitation to a node. See the [module](self).
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    body: Body,
    record: AddressRecord,
}

/// Version 2 of the encoding. One that names no relays is written in version 1, so that older programs read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    record: Signed<AddressRecord>,
    secret: Secret,
    expires: u64,
    relays: Vec<TicketRelay>,
}

impl Versioned for Body {
    const VERSION: u16 = 2;
    const NAME: &'static str = "ticket";

    fn from_older(_: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let BodyWithoutRelays { record, secret, expires } = decode_body(Self::NAME, body)?;
        Ok(Self { record, secret, expires, relays: Vec::new() })
    }
}

/// Version 1 of the encoding.
#[derive(Serialize, Deserialize)]
struct BodyWithoutRelays {
    record: Signed<AddressRecord>,
    secret: Secret,
    expires: u64,
}

impl Versioned for BodyWithoutRelays {
    const VERSION: u16 = 1;
    const NAME: &'static str = Body::NAME;
}

/// Why a text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else.
    #[error("this is not a ticket: a ticket starts with {PREFIX}")]
    NotATicket,
    /// Much too long.
    #[error("this is not a ticket: {chars} characters are more than the {TICKET_CHARS_MAX} a ticket can have")]
    TooLong {
        /// How long it is.
        chars: usize,
    },
    /// Cut short, mistyped, or something slipped in.
    #[error("this ticket is incomplete or was changed on the way: copy all of it again")]
    Damaged,
    /// Whole, but of another version or malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Whole, but the inviting node did not sign it.
    #[error("this ticket is not genuine: {0}")]
    Record(#[from] RecordError),
    /// Whole, and names more relays or addresses of them than a ticket does, or says that it names some and does not.
    #[error("this ticket does not name relays as tickets do: ask for a new one")]
    Relays,
}

impl Ticket {
    /// As many of the relays are named as may be.
    pub(crate) fn new(
        record: Signed<AddressRecord>,
        secret: Secret,
        expires: u64,
        mut relays: Vec<TicketRelay>,
    ) -> Result<Self, TicketError> {
        let opened = open_record(&record)?;
        relays.truncate(TICKET_RELAYS_MAX);
        let mut ticket = Self { body: Body { record, secret, expires, relays }, record: opened };
        // A record as long as may be, with signatures still to come, leaves less room.
        while !ticket.body.relays.is_empty() && ticket.to_string().len() > TICKET_CHARS_MAX {
            ticket.body.relays.pop();
        }
        Ok(ticket)
    }

    /// The nodes that the ticket names as relays for the one that invites.
    pub fn relays(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.body.relays.iter().map(|relay| relay.node)
    }

    pub(crate) fn named_relays(&self) -> &[TicketRelay] {
        &self.body.relays
    }

    /// The node that invites.
    pub fn node(&self) -> NodeId {
        self.record.node
    }

    /// Where that node is, or was when it made the ticket.
    pub fn record(&self) -> &AddressRecord {
        &self.record
    }

    /// When the ticket ends, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.body.expires
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.body.secret
    }
}

impl fmt::Debug for Ticket {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("record", &self.record)
            .field("expires", &self.body.expires)
            .field("relays", &self.body.relays)
            .finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key(CHECKSUM_CONTEXT, bytes);
    *hash.first_chunk().expect("a hash is longer than a checksum")
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Body { record, secret, expires, relays } = &self.body;
        let mut bytes = if relays.is_empty() {
            let (record, secret, expires) = (record.clone(), secret.clone(), *expires);
            atoll_wire::encode(&BodyWithoutRelays { record, secret, expires })
        } else {
            atoll_wire::encode(&self.body)
        };
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket; blanks around it do not matter, nor does the case of its letters.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > TICKET_CHARS_MAX {
            return Err(TicketError::TooLong { chars: text.chars().count() });
        }
        let upper = text.to_ascii_uppercase();
        let base32 = upper.strip_prefix(&PREFIX.to_ascii_uppercase()).ok_or(TicketError::NotATicket)?;
        let bytes = BASE32_NOPAD.decode(base32.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (bytes, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Damaged)?;
        if checksum(bytes) != *found {
            return Err(TicketError::Damaged);
        }
        let body: Body = atoll_wire::decode(bytes)?;
        let named = (1..=TICKET_RELAYS_MAX).contains(&body.relays.len())
            && body.relays.iter().all(TicketRelay::is_within_limits);
        let says_so = atoll_wire::version_of(bytes) == Some(Body::VERSION);
        if says_so != named {
            return Err(TicketError::Relays);
        }
        Ok(Self { record: open_record(&body.record)?, body })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;
    use proptest::prelude::proptest;
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    fn ticket() -> Ticket {
        let key = NodeKey::from_secret_bytes(&[7; 32]);
        let quic = vec!["192.0.2.1:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()];
        let record = AddressRecord { node: key.id(), sequence: 5, quic, lane: Vec::new(), relay: None };
        Ticket::new(Signed::sign(&record, &key), Secret::from_bytes([9; 16]), 1_800_000_000, Vec::new()).unwrap()
    }

    fn with_relays() -> Ticket {
        let place = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (quic, lane) = ([place("198.51.100.1:5771"), place("[2001:db8::5]:5771")], [place("198.51.100.1:443")]);
        let relays = [3, 4].map(|number| TicketRelay::new(NodeId::from_bytes([number; 32]), &quic, &lane));
        let Body { record, secret, expires, .. } = ticket().body;
        Ticket::new(record, secret, expires, relays.into()).unwrap()
    }

    /// Version 1, as it stands on paper somewhere. This may never change.
    #[test]
    fn an_old_ticket_is_read() {
        let old = include_str!("../tests/fixtures/ticket-v1.txt");
        assert_eq!(old.trim_end(), ticket().to_string());
        assert_eq!(old.parse::<Ticket>().unwrap(), ticket());
    }

    /// Version 2, the same.
    #[test]
    fn a_ticket_that_names_relays_is_read() {
        let old = include_str!("../tests/fixtures/ticket-v2.txt");
        assert_eq!(old.trim_end(), with_relays().to_string());
        assert_eq!(old.parse::<Ticket>().unwrap(), with_relays());
    }

    #[test]
    fn a_ticket_names_few_relays_and_few_addresses_of_each() {
        let text = |relays: Vec<TicketRelay>| {
            let mut bytes = atoll_wire::encode(&Body { relays, ..ticket().body });
            bytes.extend(checksum(&bytes));
            format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes))
        };
        let relay = &with_relays().body.relays[0];
        let too_long = TicketRelay { quic: vec![relay.quic[0]; RELAY_ADDRESSES_MAX + 1], ..relay.clone() };
        for relays in [Vec::new(), vec![relay.clone(); TICKET_RELAYS_MAX + 1], vec![too_long]] {
            assert_eq!(text(relays).parse::<Ticket>().unwrap_err(), TicketError::Relays);
        }
    }

    #[test]
    fn the_longest_ticket_is_read() {
        let key = NodeKey::from_secret_bytes(&[7; 32]);
        let six: SocketAddr = "[2001:db8:1111:2222:3333:4444:5555:6666]:50000".parse().unwrap();
        let all = vec![six; crate::ADDRESSES_MAX];
        let record =
            AddressRecord { node: key.id(), sequence: u64::MAX, quic: all.clone(), lane: all.clone(), relay: None };
        let relays = vec![TicketRelay::new(NodeId::from_bytes([3; 32]), &all, &all); 9];
        let secret = Secret::from_bytes([9; 16]);
        let ticket = Ticket::new(Signed::sign(&record, &key), secret, u64::MAX, relays).unwrap();
        assert_eq!(ticket.relays().count(), TICKET_RELAYS_MAX, "{}", ticket.to_string().len());
        assert_eq!(ticket.to_string().parse::<Ticket>().unwrap(), ticket);
    }

    #[test]
    fn what_is_not_a_ticket_is_told_apart() {
        let good = ticket().to_string();
        #[track_caller]
        fn check(text: &str, expect: &str) {
            assert_eq!(text.parse::<Ticket>().unwrap_err().to_string(), expect);
        }
        check("", "this is not a ticket: a ticket starts with atoll1");
        check("https://example.com", "this is not a ticket: a ticket starts with atoll1");
        check(&"a".repeat(5000), "this is not a ticket: 5000 characters are more than the 4096 a ticket can have");
        let damaged = "this ticket is incomplete or was changed on the way: copy all of it again";
        check("atoll1", damaged);
        check("atoll1!!", damaged);
        check(&good[..good.len() - 1], damaged);
        check(&good[..good.len() / 2], damaged);
        check(&format!("{PREFIX}{}", good[PREFIX.len()..].replacen('a', "b", 1)), damaged);
    }

    #[test]
    fn blanks_and_capitals_do_no_harm() {
        assert_eq!(format!(" \n{}\t", ticket().to_string().to_uppercase()).parse::<Ticket>().unwrap(), ticket());
    }

    #[test]
    fn a_forged_ticket_with_a_good_checksum_is_refused() {
        let mut body = with_relays().body;
        let other = NodeKey::generate();
        body.record = Signed::sign(&ticket().record, &other);
        let mut bytes = atoll_wire::encode(&body);
        bytes.extend(checksum(&bytes));
        let text = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes));
        assert!(matches!(text.parse::<Ticket>(), Err(TicketError::Record(RecordError::Foreign { .. }))));
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", ticket()).contains("9, 9"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _: Result<Ticket, TicketError> = text.parse();
        }

        #[test]
        fn one_wrong_character_is_noticed(at in 6usize..300, with in "[a-z2-7]") {
            let mut text = ticket().to_string();
            prop_assert!(text.len() > 300);
            text.replace_range(at..=at, &with);
            if text == ticket().to_string() {
                prop_assert_eq!(text.parse::<Ticket>().unwrap(), ticket());
            } else {
                prop_assert_eq!(text.parse::<Ticket>().unwrap_err(), TicketError::Damaged);
            }
        }

        #[test]
        fn any_bytes_with_a_good_checksum_are_read_or_refused(mut bytes: Vec<u8>, version in 0u8..3) {
            if version > 0 {
                bytes.splice(0..0, [version, 0]);
            }
            bytes.extend(checksum(&bytes));
            let _: Result<Ticket, TicketError> = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes)).parse();
        }
    }
}
