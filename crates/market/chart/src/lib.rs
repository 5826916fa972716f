//! Helm charts without Helm: load a chart, merge values into it, render it, and keep releases of it in a cluster exactly as Helm does,
//! so that `helm list` and `helm rollback` work on what this crate installed and the other way round.
//!
//! Everything but [`lifecycle`] is a function of its arguments. [`lifecycle`] speaks to the cluster through the narrow trait
//! [`Cluster`]; the caller implements it over its Kubernetes client. [`Chart::from_dir`] reads files.
//!
//! Refused with one clear line: charts of `apiVersion: v1`, `alias` and `import-values` of dependencies, dependencies that are not in
//! `charts/`. Not checked, and said so in [`Rendered::warnings`]: `values.schema.json`.

mod chart;
mod cluster;
mod files;
pub mod lifecycle;
mod manifest;
mod release;
mod render;
mod values;

pub use chart::{Chart, ChartError, Dependency, File, Metadata};
pub use cluster::{Cluster, ClusterError, ObjectRef};
pub use manifest::{Hook, HookEvent, Manifest};
pub use release::{Release, ReleaseError, Status};
pub use render::{Capabilities, RandomSource, RenderError, RenderOptions, Rendered, render};
pub use values::{ValuesError, coalesce, parse as parse_values, set as set_value};
