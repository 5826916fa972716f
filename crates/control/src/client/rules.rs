//! The client's calls about rules and grants.

use hyper::Method;

use super::{Client, ClientError};
use crate::rules::{AllowRequest, CheckAnswer, CheckRequest, DenyRequest, NetRule};

impl Client {
    /// What may pass the planetary interface.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_rules(&self) -> Result<Vec<NetRule>, ClientError> {
        self.json(Method::GET, "/net/rules", &[], None::<&()>).await
    }

    /// Gives a grant.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_allow(&self, request: &AllowRequest) -> Result<NetRule, ClientError> {
        self.json(Method::POST, "/net/allow", &[], Some(request)).await
    }

    /// Takes grants back; gives those that were.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_deny(&self, request: &DenyRequest) -> Result<Vec<NetRule>, ClientError> {
        self.json(Method::POST, "/net/deny", &[], Some(request)).await
    }

    /// Asks whether something would pass, and why.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn net_check(&self, request: &CheckRequest) -> Result<CheckAnswer, ClientError> {
        self.json(Method::POST, "/net/check", &[], Some(request)).await
    }
}
