//! Namespaces with nothing in them, and the cables that a test lays between them: lines, triangles, routers, islands.

use std::process::Child;

use crate::netns::ip;
use crate::{LabError, Netns, check_machine, guard, unique_name};

/// Machines without a network, each known by a name, gone afterwards as those of a [`Lab`](crate::Lab) are.
#[derive(Debug)]
pub struct Wires {
    machines: Vec<(String, Netns)>,
    guardian: Child,
}

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The machine's name.
    pub at: &'a str,
    /// What the interface is called there: up to 15 characters.
    pub interface: &'a str,
    /// Its addresses with the lengths of their prefixes (`10.1.0.1/24`).
    pub addresses: &'a [&'a str],
}

impl Wires {
    /// Makes the machines.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is left behind.
    pub fn new<Name: AsRef<str>>(names: &[Name]) -> Result<Self, LabError> {
        Self::with_last_words(names, "")
    }

    /// The same, with a shell script that is run at the end, when nothing runs on the machines any more.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is left behind.
    pub fn with_last_words<Name: AsRef<str>>(names: &[Name], last_words: &str) -> Result<Self, LabError> {
        check_machine()?;
        let lab = unique_name();
        let machine = |name: &str| (name.to_owned(), Netns::called(format!("{lab}-{name}")));
        let machines: Vec<_> = names.iter().map(|name| machine(name.as_ref())).collect();
        let guardian = guard(last_words, machines.iter().map(|(_, netns)| netns.name()))?;
        // From here on, dropping it removes what there is.
        let wires = Self { machines, guardian };
        for (_, netns) in &wires.machines {
            ip(&["netns", "add", netns.name()])?;
            netns.ip(&["link", "set", "lo", "up"])?;
        }
        Ok(wires)
    }

    /// A machine.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    pub fn at(&self, name: &str) -> &Netns {
        let found = self.machines.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("there is no machine {name} in this lab")).1
    }

    /// Lays a cable between two machines; both ends are up with their addresses when it returns.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn cable(&self, one: End<'_>, other: End<'_>) -> Result<(), LabError> {
        let far = ["peer", "name", other.interface, "netns", self.at(other.at).name()];
        self.at(one.at).ip(&[&["link", "add", one.interface, "type", "veth"][..], &far].concat())?;
        for end in [one, other] {
            let machine = self.at(end.at);
            for address in end.addresses {
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                machine.ip(&[&["address", "add", address, "dev", end.interface], nodad].concat())?;
            }
            machine.ip(&["link", "set", end.interface, "up"])?;
        }
        Ok(())
    }

    /// Makes a machine pass packets on between its interfaces.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn forwards(&self, name: &str) -> Result<(), LabError> {
        self.at(name).set("ipv4/ip_forward", "1")?;
        self.at(name).set("ipv6/conf/all/forwarding", "1")
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        // Nothing of it is left once this returns.
        let _: std::io::Result<_> = self.guardian.wait();
    }
}
