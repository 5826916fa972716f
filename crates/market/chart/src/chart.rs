//! A chart: its metadata, templates, default values and other files, from a directory, a `.tgz` or files in memory.
//!
//! Charts are foreign: sizes and counts are limited, and no name of a file ever leads out of the chart (links in archives are left
//! out, `..` is refused).

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Largest file of a chart, as Helm allows it.
const FILE_BYTES_MAX: u64 = 5 << 20;
/// Largest chart unpacked; Helm allows 100 MiB.
const CHART_BYTES_MAX: usize = 100 << 20;
/// Most files; the largest public charts have some hundreds.
const FILES_MAX: usize = 10_000;
/// Deepest nesting of subcharts and folders; real charts stay under 5.
const DEPTH_MAX: usize = 32;

/// Why a chart cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// The file system said no.
    #[error("cannot read {path}: {source}")]
    Io {
        /// What was to be read.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that every chart has is not there.
    #[error("{chart} is no chart: {file} is missing")]
    Missing {
        /// The chart or where it was looked for.
        chart: String,
        /// The file.
        file: &'static str,
    },
    /// A file does not parse.
    #[error("chart {chart}: {file}: {message}")]
    Invalid {
        /// The chart.
        chart: String,
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// Larger than is allowed.
    #[error("chart {chart} is too large: {what}")]
    TooLarge {
        /// The chart.
        chart: String,
        /// Which limit was met.
        what: String,
    },
    /// It asks for something that is not supported here.
    #[error("chart {chart} uses {what}, which is not supported")]
    Unsupported {
        /// The chart.
        chart: String,
        /// What it uses.
        what: String,
    },
}

/// One file; its name is the path below the chart, with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path below the chart.
    pub name: String,
    /// Content; base64 in JSON, as Go encodes bytes.
    #[serde(with = "base64")]
    pub data: Vec<u8>,
}

/// `Chart.yaml`. What is not read here is kept in `other`, so that a release record loses nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The chart's name.
    #[serde(default)]
    pub name: String,
    /// The chart's version.
    #[serde(default)]
    pub version: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `v2`.
    #[serde(default)]
    pub api_version: String,
    /// The version of what it installs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app_version: String,
    /// `application` or `library`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Which versions of Kubernetes it wants.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kube_version: String,
    /// Charts it consists of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// Everything else.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Json>,
}

/// A chart within a chart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dependency {
    /// Its name.
    pub name: String,
    /// Versions wanted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Where it comes from.
    #[serde(default)]
    pub repository: String,
    /// Paths of values, by comma; the first that is a truth value switches it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub condition: String,
    /// `tags.NAME` among the values switches it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Another name for it: not supported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Values taken from it: not supported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_values: Vec<Json>,
    /// Everything else.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Json>,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// `Chart.yaml`.
    pub metadata: Metadata,
    /// Files below `templates/`.
    pub templates: Vec<File>,
    /// `values.yaml`.
    pub values: Json,
    /// `values.schema.json`, if there is one.
    pub schema: Option<Vec<u8>>,
    /// All other files, those of `crds/` among them.
    pub files: Vec<File>,
    /// Charts below `charts/`.
    pub dependencies: Vec<Chart>,
}

impl Chart {
    /// From files in memory, named by their paths below the chart.
    ///
    /// # Errors
    /// It is no chart, too large, or uses what is not supported.
    pub fn from_files(files: Vec<File>) -> Result<Self, ChartError> {
        build(files, 0)
    }

    /// From a directory.
    ///
    /// # Errors
    /// As [`Self::from_files`], and what the file system says.
    pub fn from_dir(dir: &Path) -> Result<Self, ChartError> {
        let mut files = Vec::new();
        let mut bytes = 0;
        collect(dir, "", &mut files, &mut bytes, 0)?;
        build(files, 0)
    }

    /// From a `.tgz`, whose files lie in one folder.
    ///
    /// # Errors
    /// As [`Self::from_files`], and if the archive is damaged.
    pub fn from_tgz(archive: &[u8]) -> Result<Self, ChartError> {
        build(unpack(archive, "archive")?, 0)
    }

    /// Objects of `crds/`, which are applied before all else and never templated; those of dependencies first.
    #[must_use]
    pub fn crds(&self) -> Vec<&File> {
        let own = self.files.iter().filter(|it| it.name.starts_with("crds/") && is_yaml(&it.name));
        self.dependencies.iter().flat_map(Self::crds).chain(own).collect()
    }
}

fn is_yaml(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|it| name.ends_with(it))
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<File>, bytes: &mut usize, depth: usize) -> Result<(), ChartError> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| ChartError::Io { path, source }
    };
    let too_large = |what: String| ChartError::TooLarge { chart: dir.display().to_string(), what };
    if depth > DEPTH_MAX {
        return Err(too_large(format!("folders nest deeper than {DEPTH_MAX}")));
    }
    let mut entries: Vec<_> = std::fs::read_dir(dir).map_err(io(dir))?.collect::<Result<_, _>>().map_err(io(dir))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == ".git" || name == ".helmignore" {
            continue;
        }
        let kind = entry.file_type().map_err(io(&path))?;
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if kind.is_dir() {
            collect(&path, &name, files, bytes, depth + 1)?;
        } else if kind.is_file() {
            let size = entry.metadata().map_err(io(&path))?.len();
            if size > FILE_BYTES_MAX {
                return Err(too_large(format!("{name} has {size} bytes, at most {FILE_BYTES_MAX} are allowed")));
            }
            let data = std::fs::read(&path).map_err(io(&path))?;
            *bytes += data.len();
            files.push(File { name, data });
            if *bytes > CHART_BYTES_MAX || files.len() > FILES_MAX {
                return Err(too_large(format!("more than {CHART_BYTES_MAX} bytes or {FILES_MAX} files")));
            }
        }
    }
    Ok(())
}

/// Files of an archive without their first folder.
fn unpack(archive: &[u8], chart: &str) -> Result<Vec<File>, ChartError> {
    let damaged = |message: String| ChartError::Invalid { chart: chart.into(), file: "archive".into(), message };
    let limit = u64::try_from(CHART_BYTES_MAX).unwrap_or(u64::MAX);
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive).take(limit));
    let mut files = Vec::new();
    for entry in tar.entries().map_err(|it| damaged(it.to_string()))? {
        let mut entry = entry.map_err(|it| damaged(it.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).replace('\\', "/");
        let name = path.trim_start_matches("./").split_once('/').map(|(_, name)| name.to_owned());
        let Some(name) = name.filter(|it| !it.is_empty()) else {
            return Err(damaged(format!("{path} does not lie in the chart's folder")));
        };
        if name.split('/').any(|it| it == "..") || name.starts_with('/') {
            return Err(damaged(format!("{path} leads out of the chart")));
        }
        if entry.size() > FILE_BYTES_MAX || files.len() >= FILES_MAX {
            let what = format!("{name} has {} bytes, or there are more than {FILES_MAX} files", entry.size());
            return Err(ChartError::TooLarge { chart: chart.into(), what });
        }
        let mut data = Vec::new();
        entry.read_to_end(&mut data).map_err(|it| damaged(it.to_string()))?;
        files.push(File { name, data });
    }
    Ok(files)
}

fn build(files: Vec<File>, depth: usize) -> Result<Chart, ChartError> {
    let metadata = metadata(&files)?;
    let chart = metadata.name.clone();
    if depth > DEPTH_MAX {
        return Err(ChartError::TooLarge { chart, what: format!("charts nest deeper than {DEPTH_MAX}") });
    }
    let mut built = Chart {
        metadata,
        templates: Vec::new(),
        values: Json::Object(serde_json::Map::new()),
        schema: None,
        files: Vec::new(),
        dependencies: Vec::new(),
    };
    let mut nested: Vec<(String, Vec<File>)> = Vec::new();
    for file in files {
        if let Some(rest) = file.name.strip_prefix("charts/") {
            match rest.split_once('/') {
                Some((name, _)) if name.starts_with(['_', '.']) => {}
                Some((name, inner)) => {
                    let inner = File { name: inner.to_owned(), data: file.data };
                    match nested.iter_mut().find(|(known, _)| known == name) {
                        Some((_, files)) => files.push(inner),
                        None => nested.push((name.to_owned(), vec![inner])),
                    }
                }
                None if rest.ends_with(".tgz") => nested.push((rest.to_owned(), unpack(&file.data, rest)?)),
                None => {}
            }
        } else if file.name == "values.yaml" {
            let text = text(&chart, &file)?;
            built.values = crate::values::parse(text).map_err(|it| invalid(&chart, &file.name, it))?;
        } else if file.name == "values.schema.json" {
            built.schema = Some(file.data);
        } else if file.name.starts_with("templates/") {
            built.templates.push(file);
        } else if file.name != "Chart.yaml" && file.name != "Chart.lock" {
            built.files.push(file);
        }
    }
    for (_, files) in nested {
        built.dependencies.push(build(files, depth + 1)?);
    }
    built.dependencies.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    check_dependencies(&built)?;
    Ok(built)
}

fn invalid(chart: &str, file: &str, message: impl ToString) -> ChartError {
    ChartError::Invalid { chart: chart.into(), file: file.into(), message: message.to_string() }
}

fn text<'a>(chart: &str, file: &'a File) -> Result<&'a str, ChartError> {
    std::str::from_utf8(&file.data).map_err(|it| invalid(chart, &file.name, it))
}

fn metadata(files: &[File]) -> Result<Metadata, ChartError> {
    const FILE: &str = "Chart.yaml";
    let Some(file) = files.iter().find(|it| it.name == FILE) else {
        return Err(ChartError::Missing { chart: "this".into(), file: FILE });
    };
    let json = atoll_template::yaml::read(text("", file)?).map_err(|it| invalid("", FILE, it))?;
    let metadata: Metadata = serde_json::from_value(json).map_err(|it| invalid("", FILE, it))?;
    let name = &metadata.name;
    let plain = |it: &str| !it.is_empty() && it.chars().all(|it| it.is_ascii_alphanumeric() || "-_.+".contains(it));
    if !plain(name) || name.starts_with('.') {
        return Err(invalid(name, FILE, "name is missing or has other characters than letters, digits, `-`, `_`, `.`"));
    }
    if !plain(&metadata.version) {
        return Err(invalid(name, FILE, "version is missing or is no version"));
    }
    if metadata.api_version != "v2" {
        let what = format!("apiVersion {:?} (only v2 is read)", metadata.api_version);
        return Err(ChartError::Unsupported { chart: name.clone(), what });
    }
    Ok(metadata)
}

fn check_dependencies(chart: &Chart) -> Result<(), ChartError> {
    let name = &chart.metadata.name;
    for wanted in &chart.metadata.dependencies {
        let unsupported = |what: &str| {
            let what = format!("{what} of its dependency {}", wanted.name);
            Err(ChartError::Unsupported { chart: name.clone(), what })
        };
        if !wanted.alias.is_empty() {
            return unsupported("the alias");
        }
        if !wanted.import_values.is_empty() {
            return unsupported("import-values");
        }
        if !chart.dependencies.iter().any(|it| it.metadata.name == wanted.name) {
            let message = format!("dependency {} is not in charts/: add it there", wanted.name);
            return Err(invalid(name, "Chart.yaml", message));
        }
    }
    Ok(())
}

/// Bytes as Go's JSON has them.
mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
