//! A ticket: what somebody hands to a node so that it can join theirs.
//!
//! It says where the inviting node is (its signed address record), carries a secret that shows that the bearer was
//! invited, and ends. As text it is `atoll1` and lower-case base32 with a checksum, so that a ticket cut short or
//! mistyped is told from a wrong one. Whoever holds a ticket can use it: treat it like a key to the door.

use std::fmt;
use std::str::FromStr;

use atoll_ids::NodeId;
use atoll_keys::Signed;
use atoll_wire::{DecodeError, Versioned};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::address::{AddressRecord, RecordError, open_record};
use crate::invite::Secret;

/// What every ticket starts with. Not part of the base32.
const PREFIX: &str = "atoll1";

/// The longest text that is looked at: a record with all its addresses takes less than 2,200 characters.
pub const TICKET_CHARS_MAX: usize = 4096;

/// Bytes of the checksum behind the ticket's bytes. Against accidents only: authenticity is the signature's business.
const CHECKSUM_BYTES: usize = 4;

/// BLAKE3 context of the checksum.
const CHECKSUM_CONTEXT: &str = "atoll 2026-11 ticket checksum v1";

/// An invitation to a node. See the [module](self).
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    body: Body,
    record: AddressRecord,
}

/// Version 1 of the encoding.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    record: Signed<AddressRecord>,
    secret: Secret,
    expires: u64,
}

impl Versioned for Body {
    const VERSION: u16 = 1;
    const NAME: &'static str = "ticket";
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
}

impl Ticket {
    pub(crate) fn new(record: Signed<AddressRecord>, secret: Secret, expires: u64) -> Result<Self, TicketError> {
        let opened = open_record(&record)?;
        Ok(Self { body: Body { record, secret, expires }, record: opened })
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
            .finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key(CHECKSUM_CONTEXT, bytes);
    *hash.first_chunk().expect("a hash is longer than a checksum")
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = atoll_wire::encode(&self.body);
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
        let Body { record, secret, expires } = atoll_wire::decode(bytes)?;
        Self::new(record, secret, expires)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;
    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    fn ticket() -> Ticket {
        let key = NodeKey::from_secret_bytes(&[7; 32]);
        let quic = vec!["192.0.2.1:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()];
        let record = AddressRecord { node: key.id(), sequence: 5, quic, lane: Vec::new(), relay: None };
        Ticket::new(Signed::sign(&record, &key), Secret::from_bytes([9; 16]), 1_800_000_000).unwrap()
    }

    /// Version 1, as it stands on paper somewhere. This may never change.
    #[test]
    fn an_old_ticket_is_read() {
        let old = include_str!("../tests/fixtures/ticket-v1.txt");
        assert_eq!(old.trim_end(), ticket().to_string());
        assert_eq!(old.parse::<Ticket>().unwrap(), ticket());
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
        let mut body = ticket().body;
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
        fn any_bytes_with_a_good_checksum_are_read_or_refused(mut bytes: Vec<u8>, version in any::<bool>()) {
            if version {
                bytes.splice(0..0, [1, 0]);
            }
            bytes.extend(checksum(&bytes));
            let _: Result<Ticket, TicketError> = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes)).parse();
        }
    }
}
