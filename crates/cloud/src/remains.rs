//! What a member leaves on its machine, noted where it lies, so that it is cleared up even if the node is killed while it does that, or is down when the lease ends:
//! containers and networks live on without it.

use std::io::ErrorKind;
use std::path::Path;

use crate::assignment::Assignment;

/// The note in a member's folder.
const FILE: &str = "assignment";

/// Notes for what a member's folder is, before anything is made in it.
pub(crate) async fn note(dir: &Path, assignment: &Assignment) -> Result<(), String> {
    let told = |error: std::io::Error| format!("cannot note what {} is for: {error}", dir.display());
    tokio::fs::create_dir_all(dir).await.map_err(told)?;
    let fresh = dir.join("assignment.new");
    tokio::fs::write(&fresh, atoll_wire::encode(assignment)).await.map_err(told)?;
    tokio::fs::rename(&fresh, dir.join(FILE)).await.map_err(told)
}

/// Every note below the folder of members.
pub(crate) async fn of(members: &Path) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut entries = match tokio::fs::read_dir(members).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return found,
        Err(error) => {
            tracing::warn!(dir = %members.display(), %error, "what members left cannot be looked for");
            return found;
        }
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path().join(FILE);
        match tokio::fs::read(&path).await {
            Ok(bytes) => match atoll_wire::decode(&bytes) {
                Ok(assignment) => found.push(assignment),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a note of a member cannot be read"),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "a note of a member cannot be read"),
        }
    }
    found
}
