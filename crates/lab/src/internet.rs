//! A small internet: sites around one core, each a machine with a public address or behind routers that translate.
//!
//! ```text
//!              core ──198.18.N.0/24── site N with a public address
//!                └────198.18.M.0/24── router ──10.M.0.0/24── router ──10.M.1.0/24── machine of site M
//! ```
//!
//! Sites share no segment, so nobody hears the multicast of another; there is no IPv6 but link-local. Every machine and router has its way out on `eth0`
//! and, if it is a router, the site below on `lan`.

use std::net::Ipv4Addr;

use crate::{End, LabError, Nat, Netns, Wires};

/// Sites that an internet can have: they are numbered by one byte of their addresses.
const SITES_MAX: usize = 200;

/// What the core says to whom its packets are too large for (`ip_forward` sends it).
const SILENT: &str = "table inet silent {
  chain output { type filter hook output priority 0;
    icmp type destination-unreachable drop
  }
}\n";

/// One machine and what it is behind.
#[derive(Debug, Clone)]
pub struct Site {
    name: String,
    behind: Vec<Nat>,
}

impl Site {
    /// A machine with a public address.
    #[must_use]
    pub fn public(name: &str) -> Self {
        Self::behind(name, &[])
    }

    /// A machine behind routers, the one nearest to the core first: `[carrier's, own]`.
    #[must_use]
    pub fn behind(name: &str, routers: &[Nat]) -> Self {
        Self { name: name.to_owned(), behind: routers.to_vec() }
    }

    /// What the machine `level` steps from the core is called; the last is the site's machine.
    fn step(&self, level: usize) -> String {
        if level == self.behind.len() { self.name.clone() } else { format!("{}-router{level}", self.name) }
    }
}

/// Sites around a core. See the [module](self).
#[derive(Debug)]
pub struct Internet {
    wires: Wires,
    sites: Vec<Site>,
}

impl Internet {
    /// Builds it.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is left behind.
    pub fn new(sites: &[Site]) -> Result<Self, LabError> {
        if sites.len() > SITES_MAX {
            return Err(LabError::TooMany { wanted: sites.len() });
        }
        let steps = sites.iter().flat_map(|site| (0..=site.behind.len()).map(|level| site.step(level)));
        let names: Vec<String> = std::iter::once("core".to_owned()).chain(steps).collect();
        let internet = Self { wires: Wires::new(&names)?, sites: sites.to_vec() };
        internet.wires.at("core").set("ipv4/ip_forward", "1")?;
        for (number, site) in sites.iter().enumerate() {
            internet.build(number + 1, site)?;
        }
        Ok(internet)
    }

    fn build(&self, number: usize, site: &Site) -> Result<(), LabError> {
        let (mut above, mut interface) = ("core".to_owned(), format!("to{number}"));
        for level in 0..=site.behind.len() {
            let net = segment(number, level);
            let (up, own) = (format!("{net}.1"), format!("{net}.2"));
            let below = site.step(level);
            let upper = End { at: &above, interface: &interface, addresses: &[&format!("{up}/24")] };
            self.wires.cable(upper, End { at: &below, interface: "eth0", addresses: &[&format!("{own}/24")] })?;
            self.wires.at(&below).ip(&["route", "add", "default", "via", &up])?;
            if let Some(nat) = site.behind.get(level) {
                nat.install(self.wires.at(&below), "eth0")?;
            }
            (above, interface) = (below, "lan".to_owned());
        }
        Ok(())
    }

    fn number(&self, name: &str) -> usize {
        let found = self.sites.iter().position(|site| site.name == name);
        found.unwrap_or_else(|| panic!("there is no site {name} in this lab")) + 1
    }

    /// A site's machine.
    ///
    /// # Panics
    ///
    /// If there is no such site.
    #[must_use]
    pub fn machine(&self, site: &str) -> &Netns {
        self.wires.at(site)
    }

    /// A router of a site, that nearest to the core being number 0.
    ///
    /// # Panics
    ///
    /// If there is no such site or router.
    #[must_use]
    pub fn router(&self, site: &str, level: usize) -> &Netns {
        self.wires.at(&format!("{site}-router{level}"))
    }

    /// The machine that all packets between sites pass.
    #[must_use]
    pub fn core(&self) -> &Netns {
        self.wires.at("core")
    }

    /// The core's interface to a site.
    ///
    /// # Panics
    ///
    /// If there is no such site.
    #[must_use]
    pub fn port(&self, site: &str) -> String {
        format!("to{}", self.number(site))
    }

    /// The public address of a site: its machine's, or that of its outermost router.
    ///
    /// # Panics
    ///
    /// If there is no such site.
    #[must_use]
    pub fn public_address(&self, site: &str) -> Ipv4Addr {
        address(self.number(site), 0)
    }

    /// The address that a site's machine has.
    ///
    /// # Panics
    ///
    /// If there is no such site.
    #[must_use]
    pub fn own_address(&self, site: &str) -> Ipv4Addr {
        let number = self.number(site);
        address(number, self.sites[number - 1].behind.len())
    }

    /// Gives whoever has a site's public address another one, and takes the old one away, as a provider does at night.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn renumber(&self, site: &str, last_byte: u8) -> Result<(), LabError> {
        let number = self.number(site);
        let outermost = self.wires.at(&self.sites[number - 1].step(0));
        let net = segment(number, 0);
        outermost.ip(&["address", "flush", "dev", "eth0", "scope", "global"])?;
        outermost.ip(&["address", "add", &format!("{net}.{last_byte}/24"), "dev", "eth0"])?;
        outermost.ip(&["route", "add", "default", "via", &format!("{net}.1")])
    }

    /// Divides the internet in two: nothing passes between these sites and the others.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn part(&self, sites: &[&str]) -> Result<(), LabError> {
        let ports: Vec<String> = sites.iter().map(|site| format!("\"{}\"", self.port(site))).collect();
        let these = format!("{{ {} }}", ports.join(", "));
        self.core().nft(&format!(
            "table inet parted {{
               chain forward {{ type filter hook forward priority 0;
               iifname {these} oifname != {these} drop
               iifname != {these} oifname {these} drop
               }}
             }}\n"
        ))
    }

    /// Ends a [`part`](Self::part).
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn heal(&self) -> Result<(), LabError> {
        self.core().nft("delete table inet parted\n")
    }

    /// Makes the way to a site carry less than its ends believe, and nobody tells them: larger packets vanish.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn narrow(&self, site: &str, mtu: u16) -> Result<(), LabError> {
        self.core().ip(&["link", "set", &self.port(site), "mtu", &mtu.to_string()])?;
        self.core().nft(SILENT)
    }
}

/// The first three bytes of a segment: the public one, or one of a site's own.
fn segment(number: usize, level: usize) -> String {
    match level {
        0 => format!("198.18.{number}"),
        _ => format!("10.{number}.{}", level - 1),
    }
}

fn address(number: usize, level: usize) -> Ipv4Addr {
    format!("{}.2", segment(number, level)).parse().expect("bytes and dots")
}
