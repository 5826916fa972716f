//! Names of images, with Docker's rules for what may be left out.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Where images without a registry in their name come from.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest repository name, as the distribution specification has it.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag, as the distribution specification has it.
const TAG_BYTES_MAX: usize = 128;

/// A name of an image: registry, repository and a tag or a digest.
///
/// `nginx` is `docker.io/library/nginx:latest`; a first part with a dot or a port, or `localhost`, is a registry. Displayed in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text does not name an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} does not name an image: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Host and port of the registry as written, such as `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where requests go: Docker's registry has another name than its images.
    pub(crate) fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { &self.registry }
    }

    /// Path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where a digest stands alone.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the manifest must have, where one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What the registry is asked for: the digest if there is one, the tag else.
    pub(crate) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseReferenceError { text: text.chars().take(200).collect(), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| wrong("what follows @ is not a sha256 digest"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has 1 to 128 letters, digits, underscores, dots and hyphens"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{name}")),
        };
        let begins = registry.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
        if !begins || !registry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte)) {
            return Err(wrong("its registry is not a host name with an optional port"));
        }
        if repository.len() > REPOSITORY_BYTES_MAX || !repository.split('/').all(is_component) {
            return Err(wrong("a repository has lower-case letters and digits, separated by . _ - and /"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_BYTES_MAX
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_component(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = part.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
    let edges = part.bytes().next().is_some_and(plain) && part.bytes().last().is_some_and(plain);
    allowed && edges && !part.contains("..") && !part.contains("___")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = Digest::of(b"");
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.29", "docker.io/library/nginx:1.29"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("quay.io/x/y", "quay.io/x/y:latest"),
            (&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}")),
            (&format!("quay.io/a:b@{digest}"), &format!("quay.io/a:b@{digest}")),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), long);
            assert_eq!(long.parse::<Reference>().unwrap(), reference);
        }
        for wrong in
            ["", "/", "a//b", "A b", "nginx:", "nginx:-a", "nginx@sha256:00", "../x", "a/../b", "x/UP", "host.x/"]
        {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong}");
        }
    }
}
