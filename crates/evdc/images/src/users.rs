//! Who a container runs as: `USER` of an image and `/etc/passwd` within it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use serde::{Deserialize, Serialize};

use crate::error::{ImageError, sys_error};

/// More than any account file in use, and little enough to hold in memory.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// A user as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    /// Home directory, where an account says one.
    #[serde(default)]
    pub home: Option<PathBuf>,
}

/// Finds `user[:group]`, each a number or a name, in the accounts under `root`. Empty is root.
pub(crate) fn find(root: &Path, wanted: &str) -> Result<User, ImageError> {
    let passwd = read_inside(root, "etc/passwd")?;
    let group = read_inside(root, "etc/group")?;
    lookup(wanted, &passwd, &group)
        .ok_or_else(|| ImageError::refused(format!("user {wanted:?}"), "the image has no such account"))
}

/// The pure part of [`find`].
fn lookup(wanted: &str, passwd: &str, group: &str) -> Option<User> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let account = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6
            && if number.is_some() { fields[2].parse() == Ok(number.unwrap_or(0)) } else { fields[0] == user }
    });
    let uid = match (number, &account) {
        (Some(uid), _) => uid,
        (None, Some(fields)) => fields[2].parse().ok()?,
        (None, None) => return None,
    };
    let primary = account.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0);
    let name = account.as_ref().map(|fields| fields[0]);
    let home = account.as_ref().map(|fields| PathBuf::from(fields[5])).filter(|home| home.is_absolute());
    let groups = group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    let (gid, additional_gids) = match wanted_group {
        Some(text) => match text.parse() {
            Ok(gid) => (gid, Vec::new()),
            Err(_) => (groups.into_iter().find(|fields| fields[0] == text)?[2].parse().ok()?, Vec::new()),
        },
        None => {
            let member = |fields: &Vec<&str>| name.is_some_and(|name| fields[3].split(',').any(|it| it == name));
            let gids = groups.filter(member).filter_map(|fields| fields[2].parse().ok());
            (primary, gids.filter(|&gid| gid != primary).take(64).collect())
        }
    };
    Some(User { uid, gid, additional_gids, home })
}

/// A text file inside an image; links in it cannot lead out. Empty if there is none.
fn read_inside(root: &Path, path: &str) -> Result<String, ImageError> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::open(root, directory, Mode::empty()).map_err(sys_error("open", root))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Not blocking: a FIFO by this name must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(fd) = openat2(&root_fd, path, flags, Mode::empty(), resolve) else { return Ok(String::new()) };
    let stat = fstat(&fd).map_err(sys_error("look at", root))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    let read = File::from(fd).take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(crate::error::io_error("read", &root.join(path)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\nbad line\n";
        let group = "root:x:0:\nwww:x:34:\nadm:x:4:web,other\n";
        let check = |wanted: &str, expected: Option<(u32, u32, &[u32])>| {
            let found = lookup(wanted, passwd, group);
            let found = found.as_ref().map(|user| (user.uid, user.gid, user.additional_gids.as_slice()));
            assert_eq!(found, expected, "{wanted}");
        };
        check("", Some((0, 0, &[])));
        check("web", Some((33, 34, &[4])));
        check("33", Some((33, 34, &[4])));
        check("web:adm", Some((33, 4, &[])));
        check("1000", Some((1000, 0, &[])));
        check("1000:2000", Some((1000, 2000, &[])));
        check("nobody", None);
        check("web:nogroup", None);
        check("4294967296", None);
    }
}
