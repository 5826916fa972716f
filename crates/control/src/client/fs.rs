//! The client's calls about file systems and healing.

use hyper::Method;

use super::{Client, ClientError};
use crate::fs::{FsMountRequest, FsRemoved, FsRequest, FsStatus, HealingStatus};

impl Client {
    /// How whole the owner's data is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn healing(&self) -> Result<HealingStatus, ClientError> {
        self.json(Method::GET, "/healing", &[], None::<&()>).await
    }

    /// All file systems.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn filesystems(&self) -> Result<Vec<FsStatus>, ClientError> {
        self.json(Method::GET, "/fs", &[], None::<&()>).await
    }

    /// One file system.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn filesystem(&self, name: &str) -> Result<FsStatus, ClientError> {
        self.json(Method::GET, &format!("/fs/{name}"), &[], None::<&()>).await
    }

    /// Makes a file system.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_filesystem(&self, name: &str, request: &FsRequest) -> Result<FsStatus, ClientError> {
        self.json(Method::PUT, &format!("/fs/{name}"), &[], Some(request)).await
    }

    /// Removes a file system with everything in it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_filesystem(&self, name: &str) -> Result<FsRemoved, ClientError> {
        self.json(Method::DELETE, &format!("/fs/{name}"), &[], None::<&()>).await
    }

    /// Mounts a file system on a directory of this machine, now and whenever the node starts.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn mount_filesystem(&self, name: &str, request: &FsMountRequest) -> Result<FsStatus, ClientError> {
        self.json(Method::PUT, &format!("/fs/{name}/mount"), &[], Some(request)).await
    }

    /// Stores what was written and unmounts a file system.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unmount_filesystem(&self, name: &str) -> Result<(), ClientError> {
        self.json(Method::DELETE, &format!("/fs/{name}/mount"), &[], None::<&()>).await
    }
}
