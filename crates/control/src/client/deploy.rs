//! The client's calls about applications and stacks.

use hyper::Method;

use super::{Client, ClientError, Events};
use crate::cloud::ImageStatus;
use crate::deploy::{
    AppStatus, CatalogueApp, InstallRequest, RollbackRequest, SampleRequest, StackDrift, StackPlan, StackRequest,
    UninstallRequest,
};

impl Client {
    /// The applications whose name or description has this word; all for an empty one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn catalogue(&self, word: &str) -> Result<Vec<CatalogueApp>, ClientError> {
        self.json(Method::GET, "/catalogue", &[("word", word)], None::<&()>).await
    }

    /// The releases of an eVDC.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apps(&self, evdc: &str) -> Result<Vec<AppStatus>, ClientError> {
        self.json(Method::GET, &format!("/evdcs/{evdc}/apps"), &[], None::<&()>).await
    }

    /// One release, with what it consists of.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn app(&self, evdc: &str, namespace: &str, release: &str) -> Result<AppStatus, ClientError> {
        let path = format!("/evdcs/{evdc}/apps/{release}");
        self.json(Method::GET, &path, &[("namespace", namespace)], None::<&()>).await
    }

    /// Installs or upgrades an application.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn install(&self, evdc: &str, release: &str, request: &InstallRequest) -> Result<Events, ClientError> {
        self.events(&format!("/evdcs/{evdc}/apps/{release}/install"), request).await
    }

    /// Returns a release to an earlier revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn roll_back(&self, evdc: &str, release: &str, request: &RollbackRequest) -> Result<Events, ClientError> {
        self.events(&format!("/evdcs/{evdc}/apps/{release}/rollback"), request).await
    }

    /// Removes a release.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn uninstall(
        &self,
        evdc: &str,
        release: &str,
        request: &UninstallRequest,
    ) -> Result<Events, ClientError> {
        self.events(&format!("/evdcs/{evdc}/apps/{release}/remove"), request).await
    }

    /// What would be done for a stack.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn plan_stack(&self, request: &StackRequest) -> Result<StackPlan, ClientError> {
        self.json(Method::POST, "/stacks/plan", &[], Some(request)).await
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn apply_stack(&self, request: &StackRequest) -> Result<Events, ClientError> {
        self.events("/stacks/apply", request).await
    }

    /// What has moved since a stack was written.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stack_drift(&self, request: &StackRequest) -> Result<StackDrift, ClientError> {
        self.json(Method::POST, "/stacks/drift", &[], Some(request)).await
    }

    /// The stacks that have made something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stacks(&self) -> Result<Vec<String>, ClientError> {
        self.json(Method::GET, "/stacks", &[], None::<&()>).await
    }

    /// Makes the image of the catalogue's own servers.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sample_image(&self, request: &SampleRequest) -> Result<ImageStatus, ClientError> {
        self.json(Method::POST, "/images/sample", &[], Some(request)).await
    }
}
