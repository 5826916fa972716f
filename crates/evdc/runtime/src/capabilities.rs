//! Which of root's powers a container has.

use std::collections::BTreeSet;

use crate::spec::Capabilities;

/// Names by their number in the kernel.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's less MKNOD; see [`Capabilities`] for why.
const DEFAULT: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Powers over the whole machine rather than the container: never given.
const NEVER: [&str; 8] =
    ["MKNOD", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "MAC_ADMIN", "MAC_OVERRIDE", "BPF"];

/// The set that a wish comes to, as `CAP_…`, of those that this process can give (`available`, a bit each).
pub(crate) fn resolve(wish: &Capabilities, available: u64) -> Result<Vec<String>, String> {
    let mut set: BTreeSet<&str> = DEFAULT.into();
    for name in &wish.drop {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        if name == "ALL" {
            set.clear();
        } else {
            set.remove(name);
        }
    }
    for name in &wish.add {
        let upper = name.to_ascii_uppercase();
        let known = NAMES.iter().find(|known| **known == upper.strip_prefix("CAP_").unwrap_or(&upper));
        match known {
            Some(known) if NEVER.contains(known) => {
                return Err(format!("capability {name} reaches beyond the container and is not given"));
            }
            Some(known) if available & bit(known) == 0 => {
                return Err(format!("capability {name} cannot be given: Atoll itself does not have it here"));
            }
            Some(known) => drop(set.insert(known)),
            None => return Err(format!("there is no capability {name} that could be added")),
        }
    }
    // Of the default ones, those that are not there are left out: nobody asked for them.
    Ok(set.into_iter().filter(|name| available & bit(name) != 0).map(|name| format!("CAP_{name}")).collect())
}

/// The bit of a capability in the masks of `/proc/self/status`.
pub(crate) fn bit(name: &str) -> u64 {
    NAMES.iter().position(|known| *known == name).map_or(0, |number| 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_followed_within_reason() {
        let check = |add: &[&str], drop: &[&str], available: u64, expected: Result<usize, &str>| {
            let [add, drop] = [add, drop].map(|names| names.iter().map(|&name| name.to_owned()).collect());
            match (resolve(&Capabilities { add, drop }, available), expected) {
                (Ok(set), Ok(count)) => assert_eq!(set.len(), count, "{set:?}"),
                (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            }
        };
        let all = u64::MAX;
        check(&[], &[], all, Ok(13));
        check(&[], &["ALL"], all, Ok(0));
        check(&["NET_BIND_SERVICE"], &["all"], all, Ok(1));
        check(&["CAP_NET_ADMIN"], &["chown", "unknown"], all, Ok(13));
        check(&["ALL"], &[], all, Err("no capability ALL"));
        check(&["MKNOD"], &[], all, Err("beyond the container"));
        check(&["SYS_RESOURCE"], &[], all & !bit("SYS_RESOURCE"), Err("does not have it"));
        check(&[], &[], all & !bit("CHOWN"), Ok(12));
        assert_eq!(bit("SYS_RESOURCE"), 1 << 24);
    }
}
