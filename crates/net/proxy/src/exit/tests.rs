//! Tables of rules, and that no rule but an exact one leads to what is special.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const NODE: NodeId = NodeId::from_bytes([7; 32]);
const OWNER: OwnerId = OwnerId::from_bytes([8; 32]);

fn rules(texts: &[&str]) -> Vec<ExitRule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn rules_are_written_as_they_are_read() {
    for text in [
        "peers internet tcp".to_owned(),
        "peers internet tcp/443".to_owned(),
        format!("owner:{OWNER} 10.1.0.0/16 tcp/443"),
        format!("node:{NODE} 2001:db8::/32 tcp/80-90"),
        "peers 127.0.0.1/32 tcp/80".to_owned(),
    ] {
        assert_eq!(text.parse::<ExitRule>().unwrap().to_string(), text);
    }
    assert_eq!("peers internet".parse::<ExitRule>().unwrap().to_string(), "peers internet tcp");
    assert_eq!("peers 192.168.1.2".parse::<ExitRule>().unwrap().to_string(), "peers 192.168.1.2/32 tcp");
}

#[test]
fn what_is_wrong_is_told() {
    #[track_caller]
    fn check(text: &str, expect: &str) {
        let error = text.parse::<ExitRule>().unwrap_err().to_string();
        assert!(error.contains(expect), "{expect:?} is not in {error:?}");
    }
    check("", "who and where");
    check("peers", "who and where");
    check("everybody internet", "is nobody");
    check("peers tcp/443", "neither `internet` nor a network");
    check("node:x internet", "characters");
    check("peers internet tcp/70000", "not a port");
    check("peers internet tcp/9-8", "the first port is above the last");
    check("peers internet udp/53", "only TCP");
    check("peers internet icmp", "only TCP");
    check("peers 10.1.2.3/16", "is 10.1.0.0/16 meant?");
    check("peers 0.0.0.0/0", "is `internet` meant?");
    check("peers ::/0", "is `internet` meant?");
    check("peers ::ffff:127.0.0.1/128", "write 127.0.0.1");
    check("peers internet tcp/1 more", "one word too many");
}

#[test]
fn who_may_reach_what() {
    #[track_caller]
    fn check(rule: &str, to: &str, port: u16, expect: bool) {
        assert_eq!(judge(&rules(&[rule]), NODE, Some(OWNER), to.parse().unwrap(), port, false), expect, "{rule} {to}");
    }
    check("peers internet", "1.1.1.1", 443, true);
    check("peers internet", "2606:4700::1111", 443, true);
    check("peers internet tcp/443", "1.1.1.1", 80, false);
    check("peers internet", "10.0.0.1", 443, false);
    check("peers internet", "fd00::1", 443, false);
    check("peers internet", "::ffff:10.0.0.1", 443, false);
    check("peers internet", "::ffff:1.1.1.1", 443, true);
    check("peers 10.1.0.0/16", "10.1.2.3", 443, true);
    check("peers 10.1.0.0/16", "10.2.2.3", 443, false);
    check("peers 127.0.0.0/8", "127.0.0.1", 80, false);
    check("peers 127.0.0.1/32 tcp/80", "127.0.0.1", 80, true);
    check("peers 127.0.0.1/32 tcp/80", "::ffff:127.0.0.1", 80, true);
    check("peers 127.0.0.1/32 tcp/80", "127.0.0.2", 80, false);
    check("peers 127.0.0.1/32 tcp/80", "127.0.0.1", 81, false);
    check("peers 169.254.0.0/16", "169.254.169.254", 80, false);
    check("peers 169.254.169.254", "169.254.169.254", 80, true);
    check("peers 600::/8", "600::1", 80, false);
    check("peers fe80::/10", "fe80::1", 80, false);
    check("peers 0.0.0.0/32", "0.0.0.0", 80, false);
    check("peers 0.0.0.0/1", "0.0.0.0", 80, false);
    check("peers 224.0.0.1", "224.0.0.1", 80, false);
    check(&format!("owner:{OWNER} internet"), "1.1.1.1", 1, true);
    check(&format!("node:{NODE} internet"), "1.1.1.1", 1, true);
    check(&format!("node:{} internet", NodeId::from_bytes([9; 32])), "1.1.1.1", 1, false);
    assert!(!judge(&[], NODE, Some(OWNER), "1.1.1.1".parse().unwrap(), 1, false));
}

#[test]
fn this_machines_own_addresses_are_reached_by_their_own_name_only() {
    #[track_caller]
    fn check(rule: &str, expect: bool) {
        let ip = "10.1.2.3".parse().unwrap();
        assert_eq!(judge(&rules(&[rule]), NODE, None, ip, 80, true), expect, "{rule}");
    }
    check("peers 10.1.0.0/16", false);
    check("peers 10.1.2.3", true);
    check("peers 10.1.2.3 tcp/81", false);
}

proptest! {
    /// Whatever network a rule names: as long as it is more than one address, it leads to nothing special.
    #[test]
    fn no_wide_rule_leads_to_what_is_special(bits: u32, length in 1u8..32, to: u32) {
        let network = ipnet::Ipv4Net::new(Ipv4Addr::from(bits), length).unwrap().trunc();
        let rules = [ExitRule { who: Who::Peers, to: Where::Network(network.into()), ports: ALL_PORTS }];
        // Half of the time close to the network, else nothing would ever be inside.
        let inside = Ipv4Addr::from(u32::from(network.network()) | (to & u32::from(network.hostmask())));
        for ip in [IpAddr::V4(inside), IpAddr::V4(Ipv4Addr::from(to))] {
            let allowed = judge(&rules, NODE, None, ip, 1, false);
            prop_assert_eq!(allowed, network.contains(&match ip { IpAddr::V4(v4) => v4, IpAddr::V6(_) => unreachable!() })
                && matches!(Special::of(ip), Special::No { .. }));
        }
    }

    /// IPv4 in whatever clothes is judged as IPv4.
    #[test]
    fn clothes_do_not_matter(bits: u32) {
        let v4 = Ipv4Addr::from(bits);
        let rules = rules(&["peers internet", "peers 10.0.0.0/8", "peers 127.0.0.1"]);
        let plain = judge(&rules, NODE, None, v4.into(), 1, false);
        prop_assert_eq!(judge(&rules, NODE, None, v4.to_ipv6_mapped().into(), 1, false), plain);
        prop_assert!(!judge(&rules, NODE, None, Ipv6Addr::from(u128::from(bits)).into(), 1, false));
    }
}
