//! The JSON of images: manifests, indexes and configurations, OCI's and Docker's alike.
//!
//! Only the fields that matter here are read, leniently where writers differ and strictly where safety depends on it (digests, sizes).
//! [`parse_manifest`] and [`parse_config`] are the entries for foreign bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::ImageError;
use crate::limits::Limits;

/// OCI's manifest of one image.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index of manifests per platform.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's manifest of one image.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index of manifests per platform.
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's configuration.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's layer without compression; a suffix names a compression.
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What a descriptor of an archive's index calls its image, by OCI.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, as containerd and Docker write it into archives.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of blob.
    #[serde(default)]
    pub media_type: String,
    /// Which.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: for which machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A kind of machine, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn current() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "riscv64" => "riscv64",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// Whether an image for `self` runs on this kind of machine. A variant does not exclude: arm64 has one in use.
    pub(crate) fn runs_on(&self, machine: &Self) -> bool {
        self.architecture == machine.architecture && self.os == machine.os
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// A manifest of one image, or an index of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// One image per platform, or several images.
    Index(Index),
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST`] or Docker's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// From the lowest to the topmost.
    pub layers: Vec<Descriptor>,
}

/// Manifests to choose from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX`] or Docker's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// One per platform or name.
    pub manifests: Vec<Descriptor>,
}

/// What an image says about how it wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// What is always run.
    #[serde(rename = "Entrypoint", deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the command where there is no entry point.
    #[serde(rename = "Cmd", deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    #[serde(rename = "Env", deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `uid`, `uid:gid`, `name` or `name:group`; empty is root.
    #[serde(rename = "User", deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Where it starts; empty is `/`.
    #[serde(rename = "WorkingDir", deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text.
    #[serde(rename = "Labels", deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `8080/tcp` each.
    #[serde(rename = "ExposedPorts", deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Paths that want a volume.
    #[serde(rename = "Volumes", deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Such as `SIGTERM` or `15`.
    #[serde(rename = "StopSignal", skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// The value of a set written as a JSON object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The configuration blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// For which machines.
    #[serde(flatten)]
    pub platform: Platform,
    /// How to run it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ImageConfig,
    /// What its layers contain.
    pub rootfs: Layers,
}

/// Digests of the layers' content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the tar files without compression, from the lowest to the topmost.
    pub diff_ids: Vec<Digest>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a manifest or an index.
pub fn parse_manifest(bytes: &[u8], limits: &Limits) -> Result<Manifest, ImageError> {
    let wrong = |reason: String| ImageError::refused("a manifest", reason);
    check_size(bytes, limits, "a manifest")?;
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
        return Err(wrong("its schemaVersion is not 2; older forms have had no writer for years".to_owned()));
    }
    if value.get("manifests").is_some() {
        return serde_json::from_value(value).map(Manifest::Index).map_err(|error| wrong(error.to_string()));
    }
    let manifest: ImageManifest = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    check_manifest(&manifest, limits)?;
    Ok(Manifest::Image(manifest))
}

fn check_manifest(manifest: &ImageManifest, limits: &Limits) -> Result<(), ImageError> {
    if manifest.layers.len() > limits.layers_max {
        let reason = format!("{} layers, the most are {}", manifest.layers.len(), limits.layers_max);
        return Err(ImageError::refused("a manifest", reason));
    }
    if manifest.config.size > limits.manifest_bytes_max.0 {
        return Err(ImageError::refused("a configuration", format!("longer than {}", limits.manifest_bytes_max)));
    }
    for layer in &manifest.layers {
        if layer.size > limits.blob_bytes_max.0 {
            let reason = format!("{} bytes, the most are {}", layer.size, limits.blob_bytes_max);
            return Err(ImageError::refused(format!("layer {}", layer.digest), reason));
        }
    }
    Ok(())
}

/// Reads a configuration.
pub fn parse_config(bytes: &[u8], limits: &Limits) -> Result<Configuration, ImageError> {
    check_size(bytes, limits, "a configuration")?;
    serde_json::from_slice(bytes).map_err(|error| ImageError::refused("a configuration", error.to_string()))
}

fn check_size(bytes: &[u8], limits: &Limits, what: &str) -> Result<(), ImageError> {
    if bytes.len() as u64 > limits.manifest_bytes_max.0 {
        return Err(ImageError::refused(what, format!("longer than {}", limits.manifest_bytes_max)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn configurations_of_all_writers_are_read() {
        let digest = Digest::of(b"");
        let rootfs = format!(r#""rootfs":{{"type":"layers","diff_ids":["{digest}"]}}"#);
        let docker = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","history":[{{"created_by":"x"}}],
            "config":{{"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Labels":null,"ExposedPorts":{{"80/tcp":{{}}}}}},{rootfs}}}"#
        );
        let config = parse_config(docker.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(config.platform.to_string(), "linux/amd64");
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
        parse_config(format!("{{{rootfs}}}").as_bytes(), &Limits::default()).unwrap();
    }

    #[test]
    fn manifests_have_limits() {
        let digest = Digest::of(b"");
        let check = |text: String, expected: &str| match parse_manifest(text.as_bytes(), &Limits::default()) {
            Ok(manifest) => assert_eq!(expected, "", "{manifest:?}"),
            Err(error) => assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}"),
        };
        let layer = |size: u64| format!(r#"{{"digest":"{digest}","size":{size}}}"#);
        let manifest = |layers: String| format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, layer(2));
        check(manifest(layer(1)), "");
        check(manifest(vec![layer(1); 128].join(",")), "128 layers");
        check(manifest(layer(1 << 50)), "the most are");
        check(manifest(layer(1)).replace("sha256", "md5"), "not a digest");
        check(r#"{"schemaVersion":1}"#.to_owned(), "schemaVersion");
        check(" ".repeat(5 << 20), "longer than");
        check(r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), "");
    }
}
