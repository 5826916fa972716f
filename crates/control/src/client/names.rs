//! The client's calls about names.

use hyper::Method;

use super::{Client, ClientError};
use crate::names::{NameRequest, NamesStatus, ResolvedName};

impl Client {
    /// The names that the node answers for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn names(&self) -> Result<NamesStatus, ClientError> {
        self.json(Method::GET, "/net/names", &[], None::<&()>).await
    }

    /// Gives an owner or a node a name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn give_name(&self, name: &str, request: &NameRequest) -> Result<(), ClientError> {
        self.json(Method::PUT, "/net/name", &[("name", name)], Some(request)).await
    }

    /// Takes a name back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn take_name_back(&self, name: &str) -> Result<(), ClientError> {
        self.json(Method::DELETE, "/net/name", &[("name", name)], None::<&()>).await
    }

    /// What a name or an address stands for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resolve(&self, name: &str) -> Result<ResolvedName, ClientError> {
        self.json(Method::GET, "/net/resolve", &[("name", name)], None::<&()>).await
    }
}
