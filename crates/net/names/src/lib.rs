//! Names on the planetary network, `<node>.<owner>.atoll`: what they are, a DNS server on the node that answers for them, and the machine's
//! resolver told of it and put back afterwards.
//!
//! **The names.** Everything ends in `.atoll`; upper and lower case are the same.
//!
//! | name | stands for |
//! |---|---|
//! | `<node id>.node.atoll` | the address of that node, whether it is known here or not: it follows from the id |
//! | `<node>.<owner id>.atoll` | a node by the name on its card, below the owner that signed that the node is theirs |
//! | `<node>.mine.atoll` | the same for the owner of this node |
//! | `<node>.<petname>.atoll` | the same for an owner to whom this node's owner gave a name |
//! | `<alias>.mine.atoll` | the node to which this node's owner gave this name; it comes before a card that says the same |
//! | `….6.0.ip6.arpa` | the name of a known node by its address |
//!
//! A card's name becomes a host name by [`Label::of`]. Several nodes of one owner with the same name: the name stands for all of them, and each has one
//! of its own that ends in the first characters of its id.
//!
//! **Nobody takes somebody else's name.** The owner in a name is a whole public key or was given here by hand; it is never cut short (the first ten
//! characters of a key can be found again by trying). What lies below it comes only from cards on which that owner's signature over the node's id
//! was checked. An alias keeps a node's id, not a name that could come to stand for something else.
//!
//! **The server** ([`Listener`]) is on loopback only and answers with authority for `atoll` and for the reverse of `0600::/8`. Everything else it refuses, or hands to the
//! resolvers that the machine had before when it has become the machine's own resolver; a question about `atoll` is never handed on.
//!
//! **The machine's resolver**: where systemd-resolved runs it is told by [`Resolved`] that `atoll` is behind the planetary interface, and forgets it with the interface.
//! Where it does not, [`take`] writes `resolv.conf`, and [`give_back`] undoes that at the end or after a crash, and leaves alone what somebody else has changed since.
//!
//! Not here: where cards come from and how an owner's signature is checked (`atoll-node`); DNSSEC (the answers come from the node itself, over loopback);
//! names in an eVDC's own network.

mod answer;
mod forward;
mod label;
mod mark;
mod names;
mod namespaces;
mod resolv_conf;
mod resolved;
mod reverse;
mod server;
mod store;
mod takeover;
mod zone;

pub use answer::{Server, Step, Transport, step};
pub use forward::{Forward, question_end};
pub use label::{GivenName, Label, LabelError};
pub use names::Names;
pub use namespaces::is_of_first;
pub use resolv_conf::ResolvConf;
pub use resolved::Resolved;
pub use reverse::{nibbles, reverse_name};
pub use server::{Bind, BindError, Listener};
pub use store::{Store, StoreError};
pub use takeover::{GivenBack, TakeError, Taken, give_back, is_taken, take};
pub use zone::{Authority, Book, Found, Kind, KnownNode, Listed, Zone};
