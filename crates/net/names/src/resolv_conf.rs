//! `resolv.conf` (resolv.conf(5)): whom programs ask for names. Read to know whom to ask for the rest, and written so that they ask this node first. No I/O.

use std::net::{IpAddr, SocketAddr};

/// Where resolvers answer.
const DNS_PORT: u16 = 53;

/// Resolvers that programs read, at most (MAXNS); what stands behind is never asked.
const NAMESERVERS_MAX: usize = 3;

/// An option that has programs ask the resolvers in turn: only one of them knows about `atoll`.
const ROTATE: &str = "rotate";

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Whom to ask, in order. One that is written with an interface (`fe80::1%eth0`) is left out.
    pub nameservers: Vec<IpAddr>,
    /// The lines with `search`, `domain`, `options` and `sortlist`, and any others that are no comments.
    others: Vec<String>,
}

impl ResolvConf {
    /// Reads a file; what is not understood is kept, as programs skip it too.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            match line.split_once(char::is_whitespace) {
                Some(("nameserver", address)) => {
                    let address: Option<IpAddr> = address.split_whitespace().next().and_then(|it| it.parse().ok());
                    if conf.nameservers.len() < NAMESERVERS_MAX {
                        conf.nameservers.extend(address);
                    }
                }
                _ => conf.others.push(line.to_owned()),
            }
        }
        conf
    }

    /// Whom to ask for the rest: everyone but `own`.
    #[must_use]
    pub fn upstreams(&self, own: IpAddr) -> Vec<SocketAddr> {
        let others = self.nameservers.iter().filter(|address| **address != own);
        others.map(|address| (*address, DNS_PORT).into()).collect()
    }

    /// The same with `own` before the others, below `heading` as a comment.
    ///
    /// The others stay: when the node has died, programs get "connection refused" from its address at once and ask the next. They are not asked before, for there is
    /// no name that this node does not answer for. (So it is with glibc. musl asks all at the same time and takes what comes first: there a name below `atoll` may be
    /// reported not to exist.)
    #[must_use]
    pub fn with_first(&self, own: IpAddr, heading: &str) -> String {
        let comment = heading.lines().map(|line| format!("# {line}"));
        let others = self.nameservers.iter().filter(|address| **address != own);
        let nameservers = std::iter::once(&own).chain(others).take(NAMESERVERS_MAX);
        let nameservers = nameservers.map(|address| format!("nameserver {address}"));
        let kept = self.others.iter().filter_map(|line| without_rotate(line));
        comment.chain(nameservers).chain(kept).map(|line| line + "\n").collect()
    }
}

/// The line without the option [`ROTATE`]; `None` if nothing is left.
fn without_rotate(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    if words.next() != Some("options") {
        return Some(line.to_owned());
    }
    let options: Vec<&str> = words.filter(|word| *word != ROTATE).collect();
    (!options.is_empty()).then(|| format!("options {}", options.join(" ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    const FILE: &str = "# made by hand\n; so\nnameserver 192.0.2.1 # the router\nnameserver\t2001:db8::53\n\nsearch example.org lan\noptions rotate timeout:1 edns0\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver 127.64.0.53\nnameserver 192.0.2.9\noption typo\n";

    fn own() -> IpAddr {
        "127.64.0.53".parse().unwrap()
    }

    #[test]
    fn it_is_read_as_programs_read_it() {
        let conf = ResolvConf::parse(FILE);
        assert_eq!(
            conf.nameservers,
            ["192.0.2.1", "2001:db8::53", "127.64.0.53"].map(|it| it.parse::<IpAddr>().unwrap())
        );
        let upstreams: Vec<String> = conf.upstreams(own()).iter().map(ToString::to_string).collect();
        assert_eq!(upstreams, ["192.0.2.1:53", "[2001:db8::53]:53"], "never itself");
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }

    #[test]
    fn it_is_written_with_this_node_first_and_the_rest_as_it_was() {
        let written = ResolvConf::parse(FILE).with_first(own(), "two\nlines");
        let expect = "# two\n# lines\nnameserver 127.64.0.53\nnameserver 192.0.2.1\nnameserver 2001:db8::53\nsearch example.org lan\noptions timeout:1 edns0\noption typo\n";
        assert_eq!(written, expect);
        let alone = ResolvConf::parse("options rotate\n").with_first(own(), "x");
        assert_eq!(alone, "# x\nnameserver 127.64.0.53\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(text in any::<String>(), near in "((nameserver|options|search|#)?[ \\t]?[a-z0-9.: ]{0,12}\n?){0,8}") {
            for text in [text, near] {
                let conf = ResolvConf::parse(&text);
                prop_assert!(conf.nameservers.len() <= 3);
                let written = ResolvConf::parse(&conf.with_first(own(), "heading"));
                prop_assert_eq!(written.nameservers[0], own());
                prop_assert_eq!(ResolvConf::parse(&written.with_first(own(), "heading")), written);
            }
        }
    }
}
