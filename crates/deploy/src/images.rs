//! The image of the catalogue's own servers: made here, of the program that runs, when an application asks for it. No registry is needed.

use std::collections::BTreeSet;

use atoll_apps::sample::VERSION;
use atoll_images::{Builder, Compression, Image, ImageError, Reference, Store};
use serde_json::Value as Json;

use crate::error::DeployError;
use crate::tell::{Note, Tell};

/// The image's name; every tag of it is made here.
pub const SAMPLE: &str = "atoll-sample";

/// Where the program lies in it; the charts name it.
const PROGRAM: &str = "/atoll";

/// Makes the built-in image with this tag, or finds it.
pub(crate) async fn sample(store: &Store, tag: &str) -> Result<Image, DeployError> {
    let name = reference(&format!("{SAMPLE}:{tag}"))?;
    make(store, name).await
}

/// Makes the built-in images that these objects run and that are not here.
pub(crate) async fn provide(store: &Store, objects: &[Json], tell: &Tell) -> Result<(), DeployError> {
    for name in names(objects) {
        let name = reference(&name)?;
        if is_sample(&name)? && find(store, &name).await?.is_none() {
            tell(Note::Waiting(format!("the image {name}, which is made of this program")));
            make(store, name).await?;
        }
    }
    Ok(())
}

fn reference(name: &str) -> Result<Reference, DeployError> {
    name.parse().map_err(|source| DeployError::ImageName { name: name.to_owned(), source })
}

fn is_sample(name: &Reference) -> Result<bool, DeployError> {
    let built_in = reference(SAMPLE)?;
    let same = name.registry() == built_in.registry() && name.repository() == built_in.repository();
    Ok(same && name.digest().is_none())
}

async fn find(store: &Store, name: &Reference) -> Result<Option<Image>, DeployError> {
    let (store, wanted) = (store.clone(), name.clone());
    blocking(name, move || store.get(&wanted)).await
}

async fn make(store: &Store, name: Reference) -> Result<Image, DeployError> {
    let (store, wanted) = (store.clone(), name.clone());
    blocking(&name, move || {
        let version = wanted.tag().unwrap_or("latest").to_owned();
        let builder = Builder::current_executable(PROGRAM)?.compression(Compression::Zstd);
        builder.env(VERSION, &version).build(&store, &wanted)
    })
    .await
}

async fn blocking<T, F>(name: &Reference, work: F) -> Result<T, DeployError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ImageError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await.map_err(|it| DeployError::Broken(it.to_string()))?;
    done.map_err(|source| DeployError::Image { name: name.to_string(), source })
}

/// The images that objects run: of pods, and of what makes pods.
fn names(objects: &[Json]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for object in objects {
        let spec = &object["spec"];
        for pod in [spec, &spec["template"]["spec"], &spec["jobTemplate"]["spec"]["template"]["spec"]] {
            for list in ["containers", "initContainers"] {
                let containers = pod[list].as_array().into_iter().flatten();
                found.extend(containers.filter_map(|it| it["image"].as_str()).map(ToOwned::to_owned));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use serde_json::json;

    #[test]
    fn images_are_found_wherever_pods_are_made() {
        let pod = |image: &str| json!({"containers": [{"image": image}], "initContainers": [{"image": "init"}]});
        let objects = [
            json!({"kind": "Pod", "spec": pod("a")}),
            json!({"kind": "Deployment", "spec": {"template": {"spec": pod("b")}}}),
            json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": pod("c")}}}}}),
            json!({"kind": "Service", "spec": {"selector": {}}}),
        ];
        assert_eq!(names(&objects).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "init"]);
    }

    #[test]
    fn only_the_built_in_name_is_made() {
        let check =
            |name: &str, expect: bool| assert_eq!(is_sample(&reference(name).unwrap()).unwrap(), expect, "{name}");
        check("atoll-sample:1.0", true);
        check("docker.io/library/atoll-sample:2", true);
        check("example.org/atoll-sample:1", false);
        check("other/atoll-sample:1", false);
        check("nginx", false);
        check(&format!("atoll-sample@sha256:{}", "0".repeat(64)), false);
    }
}
