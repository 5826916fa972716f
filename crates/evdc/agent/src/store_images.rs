//! Images out of the node's [`Store`]: the [`ImageSource`] that the node uses. Where an image that is not here comes from is a [`Fetch`]'s to say: a
//! registry, or another node first.

use std::path::PathBuf;
use std::sync::Arc;

use atoll_images::{Auth, Image, ImageError, ParseReferenceError, PullOptions, Reference, Store};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use crate::seams::{ImageFacts, ImageProblem, ImageSource, Problem, Pull, UserIds};

/// Brings an image into the store.
pub trait Fetch: Send + Sync + 'static {
    /// Fetches it; signs in at its registry, if it is fetched from there, in one of these ways, the best first.
    fn fetch<'a>(
        &'a self,
        store: &'a Store,
        reference: &'a Reference,
        auth: &'a [Auth],
    ) -> BoxFuture<'a, Result<(), Problem>>;
}

/// Fetches from the registry that the reference names.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Certificates of private registries besides the public ones, as PEM.
    pub extra_roots_pem: Option<Vec<u8>>,
}

impl Fetch for Registry {
    fn fetch<'a>(
        &'a self,
        store: &'a Store,
        reference: &'a Reference,
        auth: &'a [Auth],
    ) -> BoxFuture<'a, Result<(), Problem>> {
        async move {
            let mut last = None;
            for auth in auth.iter().cloned().chain([Auth::Anonymous]) {
                let options =
                    PullOptions { auth, extra_roots_pem: self.extra_roots_pem.clone(), ..PullOptions::default() };
                match store.pull(reference, &options).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = last.or(Some(Problem(error.to_string()))),
                }
            }
            Err(last.unwrap_or_else(|| Problem("no way to fetch it".to_owned())))
        }
        .boxed()
    }
}

/// The store and where it is filled from.
#[derive(Clone)]
pub struct StoreImages {
    store: Store,
    fetch: Arc<dyn Fetch>,
}

impl StoreImages {
    /// Of this store.
    #[must_use]
    pub fn new(store: Store, fetch: Arc<dyn Fetch>) -> Self {
        Self { store, fetch }
    }

    async fn get(&self, reference: &Reference) -> Result<Option<Image>, ImageProblem> {
        let (store, wanted) = (self.store.clone(), reference.clone());
        let found = blocking(move || store.get(&wanted)).await;
        found.map_err(|problem| ImageProblem::Pull(problem.0))
    }
}

impl ImageSource for StoreImages {
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        pull: Pull,
        auth: &'a [Vec<u8>],
    ) -> BoxFuture<'a, Result<ImageFacts, ImageProblem>> {
        async move {
            let wanted: Reference =
                reference.parse().map_err(|error: ParseReferenceError| ImageProblem::InvalidName(error.to_string()))?;
            let here = self.get(&wanted).await?;
            // What is named by its digest cannot have changed.
            let settled = pull != Pull::Always || wanted.digest().is_some();
            if let Some(image) = here.as_ref().filter(|_| settled) {
                return Ok(facts(image));
            }
            if pull == Pull::Never {
                return Err(ImageProblem::NeverPull(reference.to_owned()));
            }
            let auth: Vec<Auth> = auth.iter().filter_map(|document| auth_for(document, wanted.registry())).collect();
            let fetched = self.fetch.fetch(&self.store, &wanted, &auth).await;
            match (fetched, self.get(&wanted).await?) {
                (Ok(()), Some(image)) => Ok(facts(&image)),
                (Ok(()), None) => Err(ImageProblem::Pull(format!("{reference} was fetched and is not there"))),
                (Err(problem), _) => Err(ImageProblem::Pull(problem.0)),
            }
        }
        .boxed()
    }

    fn rootfs<'a>(
        &'a self,
        image: &'a ImageFacts,
        id: &'a str,
        user: &'a str,
    ) -> BoxFuture<'a, Result<(PathBuf, UserIds), Problem>> {
        async move {
            let reference: Reference =
                image.reference.parse().map_err(|error: ParseReferenceError| Problem(error.to_string()))?;
            let (store, id, user) = (self.store.clone(), id.to_owned(), user.to_owned());
            blocking(move || {
                let Some(image) = store.get(&reference)? else { return Ok(None) };
                let rootfs = store.rootfs(&image, &id)?;
                let user = rootfs.user(&user)?;
                let ids = UserIds { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids };
                Ok(Some((rootfs.path, ids)))
            })
            .await?
            .ok_or_else(|| Problem(format!("the image {} was removed in between", image.reference)))
        }
        .boxed()
    }

    fn remove_rootfs<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Problem>> {
        async move {
            let (store, id) = (self.store.clone(), id.to_owned());
            blocking(move || store.remove_rootfs(&id)).await
        }
        .boxed()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Problem(error.to_string()))?;
    done.map_err(|error| Problem(error.to_string()))
}

fn facts(image: &Image) -> ImageFacts {
    let config = image.config.clone();
    ImageFacts {
        reference: image.reference.to_string(),
        id: image.id.to_string(),
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        user: config.user,
        working_dir: config.working_dir,
        stop_signal: config.stop_signal,
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// The name and password that a docker `config.json` has for this registry.
fn auth_for(document: &[u8], registry: &str) -> Option<Auth> {
    let config: DockerConfig = serde_json::from_slice(document).ok()?;
    let bare = |name: &str| {
        let name = name.trim_start_matches("https://").trim_start_matches("http://");
        name.split('/').next().unwrap_or_default().to_owned()
    };
    // Docker Hub goes by several names.
    let same =
        |name: &str| bare(name) == registry || (registry.ends_with("docker.io") && bare(name).ends_with("docker.io"));
    let (_, entry) = config.auths.into_iter().find(|(name, _)| same(name))?;
    if let (Some(user), Some(password)) = (entry.username, entry.password) {
        return Some(Auth::Basic { user, password });
    }
    let decoded = data_encoding::BASE64.decode(entry.auth?.trim().as_bytes()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Auth::Basic { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_secrets_are_found_by_registry() {
        let document = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},
            "registry.example:5000":{"username":"you","password":"p:w"}}}"#;
        let check = |registry: &str, expected: Option<(&str, &str)>| {
            let found = match auth_for(document, registry) {
                Some(Auth::Basic { user, password }) => Some((user, password)),
                _ => None,
            };
            assert_eq!(found, expected.map(|(user, password)| (user.to_owned(), password.to_owned())), "{registry}");
        };
        check("docker.io", Some(("me", "secret")));
        check("registry.example:5000", Some(("you", "p:w")));
        check("other.example", None);
        assert!(auth_for(b"no json", "docker.io").is_none());
    }
}
