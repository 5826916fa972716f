//! The client's calls about the cloud.

use hyper::Method;

use super::{Client, ClientError};
use crate::cloud::{EvdcRequest, EvdcStatus, GatewayStatus, ImageStatus, Kubeconfig, LoadRequest, OfferStatus};

impl Client {
    /// What the peers lend now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn offers(&self) -> Result<Vec<OfferStatus>, ClientError> {
        self.json(Method::GET, "/offers", &[], None::<&()>).await
    }

    /// All eVDCs of this node's owner.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn evdcs(&self) -> Result<Vec<EvdcStatus>, ClientError> {
        self.json(Method::GET, "/evdcs", &[], None::<&()>).await
    }

    /// One eVDC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn evdc(&self, name: &str) -> Result<EvdcStatus, ClientError> {
        self.json(Method::GET, &format!("/evdcs/{name}"), &[], None::<&()>).await
    }

    /// Makes an eVDC, or goes on with one of the same wish.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_evdc(&self, name: &str, request: &EvdcRequest) -> Result<EvdcStatus, ClientError> {
        self.json(Method::PUT, &format!("/evdcs/{name}"), &[], Some(request)).await
    }

    /// Gives an eVDC back, with everything in it; answers with what could not be done at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_evdc(&self, name: &str) -> Result<Vec<String>, ClientError> {
        self.json(Method::DELETE, &format!("/evdcs/{name}"), &[], None::<&()>).await
    }

    /// What kubectl needs for an eVDC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kubeconfig(&self, name: &str) -> Result<Kubeconfig, ClientError> {
        self.json(Method::GET, &format!("/evdcs/{name}/kubeconfig"), &[], None::<&()>).await
    }

    /// This node as a gateway.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn gateway(&self) -> Result<GatewayStatus, ClientError> {
        self.json(Method::GET, "/gateway", &[], None::<&()>).await
    }

    /// The images on this node.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<Vec<ImageStatus>, ClientError> {
        self.json(Method::GET, "/images", &[], None::<&()>).await
    }

    /// Takes in an archive of images.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn load_image(&self, request: &LoadRequest) -> Result<Vec<ImageStatus>, ClientError> {
        self.json(Method::POST, "/images", &[], Some(request)).await
    }

    /// Removes an image by its name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove_image(&self, name: &str) -> Result<(), ClientError> {
        self.json(Method::DELETE, "/images", &[("name", name)], None::<&()>).await
    }
}
