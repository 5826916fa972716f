//! What a rendering may use of the world, all of it handed in, and what it may spend.

use crate::value::{Failure, Value};

/// How much a rendering may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls, blocks and parentheses within each other. A level takes up to some kilobytes of stack: see [`crate::on_big_stack`].
    pub depth: usize,
    /// Nodes executed, functions called, rounds of loops.
    pub steps: u64,
    /// Bytes written, those of texts that `include` and `tpl` pass on counted too.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Large public charts (kube-prometheus-stack) take under a million steps and 5 MB, at a depth under 100.
        Self { depth: 1000, steps: 20_000_000, output_bytes: 64 << 20 }
    }
}

/// What a field that is not in a map yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingKey {
    /// Nil, printed as `<no value>`, which charts never show: Helm's way.
    #[default]
    Zero,
    /// An error: Helm's `--strict`.
    Error,
}

/// Answers `lookup`: objects that exist in the cluster.
pub trait Lookup {
    /// One object, or a list object if `name` is empty; `Ok(None)` if there is none.
    ///
    /// # Errors
    /// The text that the template's error shows.
    fn lookup(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<serde_json::Value>, Failure>;
}

/// Fills a buffer with random bytes.
pub type Random<'a> = &'a dyn Fn(&mut [u8]) -> Result<(), Failure>;

/// What a rendering may use.
#[derive(Default, Clone, Copy)]
pub struct Environment<'a> {
    /// Answers `lookup`; without it every lookup finds nothing, as with `helm template`.
    pub lookup: Option<&'a dyn Lookup>,
    /// Answers `randAlphaNum` and its like; without it they are refused.
    pub random: Option<Random<'a>>,
    /// What the rendering may spend.
    pub limits: Limits,
    /// What a field that is not in a map yields.
    pub missing_key: MissingKey,
}

impl Environment<'_> {
    pub(crate) fn find(&self, arguments: [&str; 4]) -> Result<Value, Failure> {
        let Some(lookup) = self.lookup else { return Ok(Value::map([])) };
        let [api_version, kind, namespace, name] = arguments;
        let found = lookup.lookup(api_version, kind, namespace, name)?;
        Ok(found.map_or_else(|| Value::map([]), |it| Value::from_json(&it)))
    }
}
