//! What a node says about itself to the peers it knows: name, what it lends, whose it is.
//!
//! Protocol `atoll/status/1`: the asking side sends one empty frame, the other answers with one [`Card`] and closes. Asking is
//! also how reachability and round trip are measured.
//!
//! A card's claims about the node are the node's own word, given over a connection that proves who it is. The owner it names is
//! proven by that owner's signature, so that two nodes cannot pass for the same owner's to weaken a failure domain, nor one claim
//! somebody else's.

use std::time::Duration;

use atoll_control::StorageStatus;
use atoll_ids::{ByteCount, Domain, NodeId, OwnerId};
use atoll_keys::{OwnerKey, Signed, Statement};
use atoll_link::BoxStream;
use atoll_wire::{DecodeError, Versioned, decode, decode_body, encode, read_frame, write_frame};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "atoll/status/1";

/// A card is a few hundred bytes; names and labels are bounded.
const CARD_BYTES_MAX: u32 = 4096;

/// A peer that does not take our question within this is not worth a task.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The longest domain (RFC 1035, section 2.3.4).
const DOMAIN_CHARS_MAX: usize = 253;

/// The longest name of a node that is shown; longer ones are cut.
const NAME_CHARS_MAX: usize = 64;

/// An owner's word that a node is theirs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ownership {
    /// Whose node it is.
    pub owner: OwnerId,
    /// Which node.
    pub node: NodeId,
}

impl Versioned for Ownership {
    const VERSION: u16 = 1;
    const NAME: &'static str = "ownership";
}

impl Statement for Ownership {
    const DOMAIN: &'static str = "atoll/ownership";
}

/// What a node shows of itself to one that does not know it.
#[derive(Serialize, Deserialize)]
struct Credentials {
    ownership: Signed<Ownership>,
}

impl Versioned for Credentials {
    const VERSION: u16 = 1;
    const NAME: &'static str = "credentials";
}

/// What a node shows of itself to one that does not know it: whose it is.
pub(crate) fn to_show(ownership: Signed<Ownership>) -> Vec<u8> {
    encode(&Credentials { ownership })
}

/// Whose a node is, by what it [shows](to_show); `None` if that proves nothing.
pub(crate) fn shown_owner(credentials: &[u8], node: NodeId) -> Option<OwnerId> {
    let credentials: Credentials = decode(credentials).ok()?;
    proven_owner(&credentials.ownership, node).ok()
}

/// The owner, if it signed for this node.
fn proven_owner(ownership: &Signed<Ownership>, node: NodeId) -> Result<OwnerId, CardError> {
    let (ownership, signer) = ownership.verify().map_err(|_| CardError::NotOwned)?;
    if ownership.node != node || ownership.owner.as_bytes() != &signer {
        return Err(CardError::NotOwned);
    }
    Ok(ownership.owner)
}

/// What a node says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card {
    name: Option<String>,
    version: String,
    storage: Option<CardStorage>,
    site: String,
    country: String,
    ownership: Signed<Ownership>,
    gateway: Option<String>,
}

/// Version 1, before gateways named their domain.
#[derive(Serialize, Deserialize)]
struct CardV1 {
    name: Option<String>,
    version: String,
    storage: Option<CardStorage>,
    site: String,
    country: String,
    ownership: Signed<Ownership>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct CardStorage {
    capacity_bytes: u64,
    used_bytes: u64,
    shards: u64,
}

impl Versioned for Card {
    const VERSION: u16 = 2;
    const NAME: &'static str = "card";

    fn from_older(_: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let CardV1 { name, version, storage, site, country, ownership } = decode_body(Self::NAME, body)?;
        Ok(Self { name, version, storage, site, country, ownership, gateway: None })
    }
}

impl Card {
    /// This node's card.
    pub(crate) fn new(
        name: Option<String>,
        (site, country): (String, String),
        storage: Option<StorageStatus>,
        gateway: Option<String>,
        ownership: Signed<Ownership>,
    ) -> Self {
        let storage = storage.map(|storage| CardStorage {
            capacity_bytes: storage.capacity.0,
            used_bytes: storage.used.0,
            shards: storage.shards,
        });
        Self { name, version: env!("CARGO_PKG_VERSION").to_owned(), storage, site, country, ownership, gateway }
    }

    /// The owner's signature under "this node is mine".
    pub(crate) fn own(owner: &OwnerKey, node: NodeId) -> Signed<Ownership> {
        Signed::sign(&Ownership { owner: owner.id(), node }, owner)
    }
}

/// A card that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What the node calls itself, in printable characters.
    pub name: Option<String>,
    /// What it lends.
    pub storage: Option<StorageStatus>,
    /// Whose it is and where it stands.
    pub domain: Domain,
    /// The domain below which it gives names, if it is a gateway.
    pub gateway: Option<String>,
}

/// Why a card is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The peer did not answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Not a card of a version known here.
    #[error(transparent)]
    Malformed(#[from] atoll_wire::DecodeError),
    /// The owner did not sign for this node.
    #[error("the owner's signature is not good for this node")]
    NotOwned,
    /// Site or country is not a label.
    #[error(transparent)]
    Domain(#[from] atoll_ids::DomainError),
}

/// Reads and checks a card that came from `node`.
///
/// # Errors
/// [`CardError`].
pub fn check(bytes: &[u8], node: NodeId) -> Result<Checked, CardError> {
    let card: Card = decode(bytes)?;
    let owner = proven_owner(&card.ownership, node)?;
    let printable = |name: String| name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect::<String>();
    Ok(Checked {
        name: card.name.map(printable).filter(|name| !name.is_empty()),
        storage: card.storage.map(|storage| StorageStatus {
            capacity: ByteCount(storage.capacity_bytes),
            used: ByteCount(storage.used_bytes),
            shards: storage.shards,
        }),
        domain: Domain::new(Some(owner), &card.site, &card.country)?,
        gateway: card.gateway.filter(|domain| is_domain(domain)),
    })
}

/// Letters, digits, dashes and dots (RFC 1035, section 2.3): nothing that disturbs a terminal or a page.
fn is_domain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (1..=DOMAIN_CHARS_MAX).contains(&text.len()) && text.chars().all(plain)
}

/// Asks the node at the other end of `stream` for its card.
pub(crate) async fn ask(mut stream: BoxStream, node: NodeId) -> Result<Checked, CardError> {
    let no_answer = |error: &dyn std::fmt::Display| CardError::NoAnswer(error.to_string());
    write_frame(&mut stream, &[], CARD_BYTES_MAX).await.map_err(|error| no_answer(&error))?;
    stream.flush().await.map_err(|error| no_answer(&error))?;
    let frame = read_frame(&mut stream, CARD_BYTES_MAX).await.map_err(|error| no_answer(&error))?;
    check(&frame.ok_or_else(|| no_answer(&"it closed the stream"))?, node)
}

/// Answers one question.
pub(crate) async fn answer(mut stream: BoxStream, card: &Card) -> Result<(), CardError> {
    let exchange = async {
        let failed = |error: &dyn std::fmt::Display| CardError::NoAnswer(error.to_string());
        read_frame(&mut stream, CARD_BYTES_MAX).await.map_err(|error| failed(&error))?;
        write_frame(&mut stream, &encode(card), CARD_BYTES_MAX).await.map_err(|error| failed(&error))?;
        stream.shutdown().await.map_err(|error| failed(&error))
    };
    timeout(ANSWER_WITHIN, exchange).await.map_err(|_| CardError::NoAnswer("it took too long".into()))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;

    use super::*;

    fn card(owner: &OwnerKey, node: NodeId) -> Card {
        Card::new(
            Some("attic\n".into()),
            ("site".into(), "BE".into()),
            None,
            Some("cloud.example".into()),
            Card::own(owner, node),
        )
    }

    #[tokio::test]
    async fn a_card_travels_and_is_checked() {
        let (owner, node) = (OwnerKey::generate(), NodeKey::generate().id());
        let (here, there) = tokio::io::duplex(1024);
        let card = card(&owner, node);
        let (asked, answered) = tokio::join!(ask(Box::new(here), node), answer(Box::new(there), &card));
        answered.unwrap();
        let checked = asked.unwrap();
        assert_eq!(checked.name.as_deref(), Some("attic"));
        assert_eq!(checked.domain.owner, Some(owner.id()));
        assert_eq!(checked.gateway.as_deref(), Some("cloud.example"));
    }

    #[test]
    fn a_card_of_version_1_is_read() {
        let card = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/card_v1.hex")).unwrap();
        let bytes = data(card.trim());
        let card: Card = decode(&bytes).unwrap();
        let (ownership, _) = card.ownership.verify().unwrap();
        let checked = check(&bytes, ownership.node).unwrap();
        assert_eq!(checked.name.as_deref(), Some("attic"));
        assert_eq!(checked.storage.map(|storage| storage.shards), Some(7));
        assert_eq!(checked.gateway, None);
    }

    fn data(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_is_no_domain_is_not_shown() {
        let check = |domain: &str, expect: bool| assert_eq!(is_domain(domain), expect, "{domain}");
        check("cloud.example", true);
        check("", false);
        check("a b", false);
        check("\u{1b}[2J", false);
        check(&"a".repeat(254), false);
    }

    #[test]
    fn what_is_shown_proves_the_owner_of_one_node() {
        let (owner, thief, node) = (OwnerKey::generate(), OwnerKey::generate(), NodeKey::generate().id());
        let shown = to_show(Card::own(&owner, node));
        assert!(shown.len() <= atoll_link::CREDENTIALS_BYTES_MAX, "{} bytes", shown.len());
        assert_eq!(shown_owner(&shown, node), Some(owner.id()));
        assert_eq!(shown_owner(&shown, NodeKey::generate().id()), None);
        let forged = Signed::sign(&Ownership { owner: owner.id(), node }, &thief);
        for bytes in [&to_show(forged)[..], &shown[1..], b""] {
            assert_eq!(shown_owner(bytes, node), None);
        }
    }

    #[test]
    fn a_card_for_another_node_or_by_another_owner_is_refused() {
        let (owner, thief) = (OwnerKey::generate(), OwnerKey::generate());
        let (node, other) = (NodeKey::generate().id(), NodeKey::generate().id());
        assert!(matches!(check(&encode(&card(&owner, node)), other), Err(CardError::NotOwned)));
        let mut forged = card(&owner, node);
        forged.ownership = Signed::sign(&Ownership { owner: owner.id(), node }, &thief);
        assert!(matches!(check(&encode(&forged), node), Err(CardError::NotOwned)));
        assert!(matches!(check(b"garbage", node), Err(CardError::Malformed(_))));
    }
}
