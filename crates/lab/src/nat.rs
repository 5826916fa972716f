//! Routers that translate IPv4 addresses, in the four ways that are met in the wild, as nftables rules.
//!
//! What a way does to UDP, in the words of RFC 4787 (and the older names of RFC 3489):
//!
//! | | outer port | who may answer to it |
//! |---|---|---|
//! | [`FullCone`](Nat::FullCone) | the same for all destinations | anybody |
//! | [`Restricted`](Nat::Restricted) | the same for all destinations | hosts that were sent to, from any port |
//! | [`PortRestricted`](Nat::PortRestricted) | the same for all destinations | hosts that were sent to, from that port |
//! | [`Symmetric`](Nat::Symmetric) | another one for each destination | hosts that were sent to, from that port |
//!
//! TCP is translated by all of them and never let in from outside. The kernel's own translation is the third, as it keeps a port that is free; with random
//! ports it is the fourth. The first two learn from what passes which inner host a port belongs to.

use crate::{LabError, Netns};

/// How long a port stays somebody's after the last packet out: what RFC 4787 (REQ-5) asks for at least.
const MAPPING: &str = "2m";

/// How a router translates the addresses of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// One outer port whatever the destination; anybody may send to it.
    FullCone,
    /// One outer port whatever the destination; hosts that were sent to may send to it.
    Restricted,
    /// One outer port whatever the destination; those ports of hosts that were sent to may send to it.
    PortRestricted,
    /// Another outer port for each destination, which alone may send to it.
    Symmetric,
}

impl Nat {
    /// All of them, from the most open.
    pub const ALL: [Self; 4] = [Self::FullCone, Self::Restricted, Self::PortRestricted, Self::Symmetric];

    /// Makes a router of a machine: what leaves by the interface `outside` gets its address.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn install(self, router: &Netns, outside: &str) -> Result<(), LabError> {
        router.set("ipv4/ip_forward", "1")?;
        router.nft(&self.rules(outside))
    }

    fn rules(self, outside: &str) -> String {
        let random = if self == Self::Symmetric { " fully-random" } else { "" };
        let learning = self.learning(outside);
        // What is meant for nobody inside must not be remembered as a conversation with the router: it would take the port from the inner
        // host that is about to use it. What is dropped on its way in is not.
        format!(
            "table ip nat {{
               chain input {{ type filter hook input priority 0; iifname \"{outside}\" drop; }}
               chain forward {{ type filter hook forward priority 0;
                 iifname \"{outside}\" ct status dnat accept
                 iifname \"{outside}\" ct state new drop
               }}
               chain translate {{ type nat hook postrouting priority 100;
                 oifname \"{outside}\" masquerade{random}
               }}
               {learning}
             }}\n"
        )
    }

    /// Lets in what the kernel's own translation would not.
    fn learning(self, outside: &str) -> String {
        let from = match self {
            Self::FullCone => "",
            Self::Restricted => "ip saddr . udp dport @met",
            Self::PortRestricted | Self::Symmetric => return String::new(),
        };
        format!(
            "map inner {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout {MAPPING}; size 65535; }}
             set met {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout {MAPPING}; size 65535; }}
             chain learn {{ type filter hook forward priority 10;
               oifname \"{outside}\" meta l4proto udp update @inner {{ udp sport : ip saddr }}
               oifname \"{outside}\" meta l4proto udp update @met {{ ip daddr . udp sport }}
             }}
             chain let_in {{ type nat hook prerouting priority -100;
               iifname \"{outside}\" meta l4proto udp {from} dnat to udp dport map @inner
             }}"
        )
    }
}
