//! The files of configMap, secret, projected and downwardAPI volumes: what they hold (pure), and how a folder gets them in one step.
//!
//! A reader sees all old files or all new ones: they lie in a folder of their own, `..data` leads to it and is swung by a rename; each name in the
//! volume leads through `..data`. (Kubernetes' layout; programs that watch `..data` rely on it.)

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod};

use crate::env::{ConfigProblem, Facts, field_of, resource_of};

/// Kubernetes' default for all four.
pub const MODE_DEFAULT: u32 = 0o644;

const DATA: &str = "..data";

/// A file's content and mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by their path inside of the volume.
pub type Files = BTreeMap<String, File>;

/// Modes come as decimal numbers; more than permission bits is ignored.
#[must_use]
pub fn mode_of(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

/// The keys of an object as files: all, or the chosen ones under the chosen names.
///
/// # Errors
///
/// A chosen key that is absent, if that is not allowed; a path that leads out of the volume.
pub fn from_keys(
    files: &mut Files,
    what: &str,
    keys: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), ConfigProblem> {
    match items.filter(|items| !items.is_empty()) {
        None => {
            for (key, bytes) in keys {
                insert(files, key, File { bytes: bytes.clone(), mode })?;
            }
        }
        Some(items) => {
            for item in items {
                match keys.get(&item.key) {
                    Some(bytes) => {
                        let file = File { bytes: bytes.clone(), mode: mode_of(item.mode, mode) };
                        insert(files, &item.path, file)?;
                    }
                    None if optional => {}
                    None => {
                        return Err(ConfigProblem(format!("{what} references non-existent config key: {}", item.key)));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Fields of the pod as files.
///
/// # Errors
///
/// A field that cannot be referred to; a path that leads out of the volume.
pub fn from_fields(
    files: &mut Files,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    facts: &Facts,
) -> Result<(), ConfigProblem> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_of(pod, field, facts)?,
            (None, Some(resource)) => resource_of(pod, None, resource, facts)?,
            (None, None) => return Err(ConfigProblem(format!("the file {} names no field", item.path))),
        };
        insert(files, &item.path, File { bytes: text.into_bytes(), mode: mode_of(item.mode, mode) })?;
    }
    Ok(())
}

/// Adds a file whose path stays inside of the volume.
///
/// # Errors
///
/// A path that is absolute, empty, or has `..` in front of a name.
pub fn insert(files: &mut Files, path: &str, file: File) -> Result<(), ConfigProblem> {
    let inside = |component: Component<'_>| match component {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b".."),
        _ => false,
    };
    if path.is_empty() || !Path::new(path).components().all(inside) {
        return Err(ConfigProblem(format!(
            "{path:?} cannot be a file of a volume: it must be relative and without .."
        )));
    }
    files.insert(path.to_owned(), file);
    Ok(())
}

/// Makes the folder hold exactly these files. Blocking.
///
/// # Errors
///
/// What the file system refuses; readers then still see what was there before.
pub fn write(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
    let current = std::fs::read_link(folder.join(DATA)).ok();
    if current.as_ref().is_some_and(|current| same(&folder.join(current), files)) {
        return Ok(());
    }
    let fresh = (0..).map(|n| format!("..{n}")).find(|name| !folder.join(name).exists());
    let fresh = fresh.ok_or(io::ErrorKind::AlreadyExists)?;
    let root = folder.join(&fresh);
    std::fs::create_dir(&root)?;
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755))?;
    for (path, file) in files {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.bytes)?;
        let mode = if group.is_some() { file.mode | 0o040 } else { file.mode };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        if group.is_some() {
            chown(&path, None, group)?;
        }
    }
    let swing = folder.join("..data_tmp");
    let _ = std::fs::remove_file(&swing);
    symlink(&fresh, &swing)?;
    std::fs::rename(&swing, folder.join(DATA))?;
    link_names(folder, files)?;
    if let Some(old) = current {
        std::fs::remove_dir_all(folder.join(old))?;
    }
    Ok(())
}

/// The first part of every path leads through `..data`; names that are gone go.
fn link_names(folder: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &String| path.split('/').find(|part| !part.is_empty() && *part != ".").map(str::to_owned);
    let names: std::collections::BTreeSet<String> = files.keys().filter_map(first).collect();
    for name in &names {
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&*name) {
            std::fs::remove_file(folder.join(&*name))?;
        }
    }
    Ok(())
}

fn same(root: &Path, files: &Files) -> bool {
    let holds = |(path, file): (&String, &File)| std::fs::read(root.join(path)).is_ok_and(|bytes| bytes == file.bytes);
    files.iter().all(holds) && count(root).is_ok_and(|count| count == files.len())
}

fn count(root: &Path) -> io::Result<usize> {
    let mut sum = 0;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn files(of: &[(&str, &str)]) -> Files {
        let mut files = Files::new();
        for (path, text) in of {
            insert(&mut files, path, File { bytes: text.as_bytes().to_vec(), mode: MODE_DEFAULT }).unwrap();
        }
        files
    }

    #[test]
    fn a_volume_is_replaced_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("volume");
        write(&folder, &files(&[("a", "1"), ("deep/b", "2"), ("gone", "3")]), None).unwrap();
        let before = std::fs::read_link(folder.join(DATA)).unwrap();
        write(&folder, &files(&[("a", "1"), ("deep/b", "2"), ("gone", "3")]), None).unwrap();
        assert_eq!(std::fs::read_link(folder.join(DATA)).unwrap(), before, "nothing changed, nothing moved");
        write(&folder, &files(&[("a", "new"), ("deep/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(folder.join("deep/b")).unwrap(), "2");
        assert!(folder.join("gone").symlink_metadata().is_err());
        let hidden =
            std::fs::read_dir(&folder).unwrap().filter(|it| it.as_ref().unwrap().file_type().unwrap().is_dir());
        assert_eq!(hidden.count(), 1, "the old files are gone");
    }

    #[test]
    fn no_file_leaves_its_volume() {
        let check = |path: &str, good: bool| {
            let file = File { bytes: Vec::new(), mode: MODE_DEFAULT };
            assert_eq!(insert(&mut Files::new(), path, file).is_ok(), good, "{path:?}");
        };
        check("a", true);
        check("a/b.c", true);
        check("..data", false);
        check("../a", false);
        check("a/../../b", false);
        check("/etc/passwd", false);
        check("", false);
    }
}
