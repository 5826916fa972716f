//! A chart and values to objects.

use std::collections::BTreeMap;
use std::rc::Rc;

use atoll_template::{Environment, Limits, Lookup, MapRef, MissingKey, Random, Set, Value, on_big_stack};
use serde_json::Value as Json;

use crate::chart::{Chart, Dependency, File};
use crate::files::{self, Files};
use crate::manifest::{self, Hook, Manifest};
use crate::values::{self, ValuesError};

/// What the cluster can do, as `.Capabilities` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Kubernetes' version, such as `v1.33.0`.
    pub kube_version: String,
    /// `group/version` and `group/version/Kind` for each that is served.
    pub api_versions: Vec<String>,
}

/// Fills a buffer with random bytes.
pub type RandomSource<'a> = &'a (dyn Fn(&mut [u8]) -> Result<(), String> + Sync);

/// How to render.
#[derive(Clone, Copy)]
pub struct RenderOptions<'a> {
    /// The release's name.
    pub name: &'a str,
    /// The namespace it goes to.
    pub namespace: &'a str,
    /// Its revision, from 1.
    pub revision: u64,
    /// Whether it exists already.
    pub upgrade: bool,
    /// What the cluster can do.
    pub capabilities: &'a Capabilities,
    /// Answers `lookup`; without it, lookups find nothing.
    pub lookup: Option<&'a (dyn Lookup + Sync)>,
    /// Answers `randAlphaNum`; without it, refused.
    pub random: Option<RandomSource<'a>>,
    /// What rendering may spend.
    pub limits: Limits,
    /// Whether a missing value is an error.
    pub strict: bool,
}

/// What became of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Objects in the order of installation.
    pub manifests: Vec<Manifest>,
    /// Hooks by kind, as a record keeps them; they run by weight and name.
    pub hooks: Vec<Hook>,
    /// `NOTES.txt`, rendered.
    pub notes: String,
    /// Custom resource definitions, applied first and never removed.
    pub crds: Vec<Json>,
    /// What was not done.
    pub warnings: Vec<String>,
}

impl Rendered {
    /// All objects as one text, as a release record keeps it.
    #[must_use]
    pub fn manifest(&self) -> String {
        self.manifests.iter().map(|it| format!("---\n# Source: {}\n{}\n", it.source, it.text)).collect()
    }
}

/// Why a chart cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A template fails; the message names file, line and column.
    #[error("{0}")]
    Template(String),
    /// What a template wrote is no object.
    #[error("{file} rendered to something that is no object: {message}")]
    Object {
        /// The template.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// The values do not fit the chart.
    #[error(transparent)]
    Values(#[from] ValuesError),
    /// A library is no application.
    #[error("chart {0} is a library: it can only be used by other charts")]
    Library(String),
    /// The chart does not want this cluster.
    #[error("chart {chart} wants Kubernetes {wanted}, this is {version}")]
    KubeVersion {
        /// The chart.
        chart: String,
        /// The constraint.
        wanted: String,
        /// The cluster's version.
        version: String,
    },
}

/// Renders a chart with the values that a user gives.
///
/// # Errors
/// A template fails or writes something else than objects, or the values do not fit.
pub fn render(chart: &Chart, given: &Json, options: &RenderOptions<'_>) -> Result<Rendered, RenderError> {
    if chart.metadata.kind == "library" {
        return Err(RenderError::Library(chart.metadata.name.clone()));
    }
    let chart = &switched(chart, given)?;
    let values = values::coalesce(chart, given)?;
    check_kube_version(chart, options)?;
    let work = || render_files(chart, &values, options);
    let mut files = on_big_stack(work).map_err(|it| RenderError::Template(it.as_helm()))??;
    let notes_file = format!("{}/templates/NOTES.txt", chart.metadata.name);
    let notes = files.remove(&notes_file).unwrap_or_default();
    files.retain(|name, text| {
        let base = name.rsplit('/').next().unwrap_or(name);
        !base.starts_with('_') && base != "NOTES.txt" && !text.trim().is_empty()
    });
    let object = |(file, message)| RenderError::Object { file, message };
    let (manifests, hooks) = manifest::sort(&files).map_err(object)?;
    Ok(Rendered { manifests, hooks, notes, crds: crds(chart)?, warnings: warnings(chart) })
}

fn crds(chart: &Chart) -> Result<Vec<Json>, RenderError> {
    let mut all = Vec::new();
    for file in chart.crds() {
        let text = String::from_utf8_lossy(&file.data);
        let documents = atoll_template::yaml::read_all(&text);
        let documents = documents.map_err(|message| RenderError::Object { file: file.name.clone(), message })?;
        all.extend(documents.into_iter().filter(|it| !it.is_null()));
    }
    Ok(all)
}

fn warnings(chart: &Chart) -> Vec<String> {
    let own =
        chart.schema.as_ref().map(|_| format!("chart {}: values.schema.json is not checked", chart.metadata.name));
    own.into_iter().chain(chart.dependencies.iter().flat_map(warnings)).collect()
}

fn check_kube_version(chart: &Chart, options: &RenderOptions<'_>) -> Result<(), RenderError> {
    let (wanted, version) = (&chart.metadata.kube_version, &options.capabilities.kube_version);
    if wanted.is_empty() || atoll_template::version_matches(wanted, version).unwrap_or(false) {
        return Ok(());
    }
    let chart = chart.metadata.name.clone();
    Err(RenderError::KubeVersion { chart, wanted: wanted.clone(), version: version.clone() })
}

/// The chart without the dependencies that conditions or tags switch off.
fn switched(chart: &Chart, given: &Json) -> Result<Chart, RenderError> {
    let values = values::coalesce(chart, given)?;
    let mut chart = chart.clone();
    prune(&mut chart, &values, &values);
    Ok(chart)
}

fn prune(chart: &mut Chart, values: &Json, top: &Json) {
    let wanted = std::mem::take(&mut chart.metadata.dependencies);
    chart.dependencies.retain(|it| {
        wanted.iter().find(|wanted| wanted.name == it.metadata.name).is_none_or(|it| is_on(it, values, top))
    });
    chart.metadata.dependencies = wanted;
    for dependency in &mut chart.dependencies {
        let own = values.get(&dependency.metadata.name).unwrap_or(&Json::Null);
        prune(dependency, own, top);
    }
}

/// Tags decide, and a condition overrules them.
fn is_on(dependency: &Dependency, values: &Json, top: &Json) -> bool {
    let at = |path: &str| path.split('.').try_fold(values, |it, key| it.get(key)).and_then(Json::as_bool);
    if let Some(on) = dependency.condition.split(',').map(str::trim).find_map(at) {
        return on;
    }
    let tags: Vec<bool> = dependency.tags.iter().filter_map(|it| top.get("tags")?.get(it)?.as_bool()).collect();
    tags.is_empty() || tags.contains(&true)
}

/// A template file and what it sees.
struct Page<'a> {
    name: String,
    base: String,
    file: &'a File,
    data: MapRef,
}

fn render_files(
    chart: &Chart,
    values: &Json,
    options: &RenderOptions<'_>,
) -> Result<BTreeMap<String, String>, RenderError> {
    let release = Value::map([
        ("Name".to_owned(), Value::str(options.name)),
        ("Namespace".to_owned(), Value::str(options.namespace)),
        ("Revision".to_owned(), Value::Int(i64::try_from(options.revision).unwrap_or(i64::MAX))),
        ("IsInstall".to_owned(), Value::Bool(!options.upgrade)),
        ("IsUpgrade".to_owned(), Value::Bool(options.upgrade)),
        ("Service".to_owned(), Value::str("Helm")),
    ]);
    let shared = [("Release", release), ("Capabilities", files::capabilities(options.capabilities))];
    let mut pages = Vec::new();
    collect(chart, &Value::from_json(values), &shared, &chart.metadata.name, true, &mut pages);
    // Deeper ones first, so that what a parent defines replaces what its subcharts do.
    pages.sort_by(|a, b| {
        let key = |it: &Page<'_>| (it.name.matches('/').count(), it.name.clone());
        key(b).cmp(&key(a))
    });
    let failed = |it: atoll_template::TemplateError| RenderError::Template(it.as_helm());
    let mut set = Set::default();
    for page in &pages {
        set.parse(&page.name, &String::from_utf8_lossy(&page.file.data)).map_err(failed)?;
    }
    let random =
        |buffer: &mut [u8]| options.random.map_or_else(|| Err("no source of randomness".into()), |it| it(buffer));
    let env = Environment {
        lookup: options.lookup.map(|it| it as &dyn Lookup),
        random: options.random.is_some().then_some(&random as Random<'_>),
        limits: options.limits,
        missing_key: if options.strict { MissingKey::Error } else { MissingKey::Zero },
    };
    let mut out = BTreeMap::new();
    for page in &pages {
        if page.name.rsplit('/').next().is_some_and(|it| it.starts_with('_')) {
            continue;
        }
        let template = [("Name", &page.name), ("BasePath", &page.base)];
        page.data.insert("Template", Value::map(template.map(|(key, it)| (key.to_owned(), Value::str(it)))));
        let text = set.render(&page.name, &Value::Map(page.data.clone()), &env).map_err(failed)?;
        out.insert(page.name.clone(), text.replace("<no value>", ""));
    }
    Ok(out)
}

fn collect<'a>(
    chart: &'a Chart,
    values: &Value,
    shared: &[(&str, Value)],
    path: &str,
    is_root: bool,
    pages: &mut Vec<Page<'a>>,
) -> MapRef {
    let data = MapRef::default();
    for (key, it) in shared {
        data.insert(*key, it.clone());
    }
    data.insert("Values", values.clone());
    data.insert("Chart", files::chart(&chart.metadata, is_root));
    data.insert("Files", Value::Object(Rc::new(Files::new(&chart.files))));
    let subcharts = MapRef::default();
    for dependency in &chart.dependencies {
        let name = &dependency.metadata.name;
        let own = match values {
            Value::Map(map) => map.get(name).unwrap_or_else(|| Value::map([])),
            _ => Value::map([]),
        };
        let below = format!("{path}/charts/{name}");
        subcharts.insert(name, Value::Map(collect(dependency, &own, shared, &below, false, pages)));
    }
    data.insert("Subcharts", Value::Map(subcharts));
    let library = chart.metadata.kind == "library";
    for file in &chart.templates {
        let partial = file.name.rsplit('/').next().is_some_and(|it| it.starts_with('_'));
        if !library || partial {
            let (name, base) = (format!("{path}/{}", file.name), format!("{path}/templates"));
            pages.push(Page { name, base, file, data: data.clone() });
        }
    }
    data
}
