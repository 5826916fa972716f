//! The metric registry: a handle that is passed to whoever measures something, and the text a scraper reads.
//!
//! Names are checked when registered, because a scraper's rules and dashboards are written against them: they start with `atoll_`, say
//! their unit last (`_bytes`, `_seconds`), and a counter, and only a counter, ends in `_total`. [`Metrics::catalogue`] lists them all, for a test that
//! compares the list with the documentation.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Metric, Registry},
};

/// The content type of [`Metrics::encode`], for the HTTP answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name of ours starts with, so that they are found among those of other programs.
const PREFIX: &str = "atoll_";

/// What the name of every counter, and of nothing else, ends with.
const COUNTER_SUFFIX: &str = "_total";

/// Why a metric was not registered: a mistake in the program, found when it starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// The name breaks a rule.
    #[error("\"{name}\" cannot name this metric: {rule}")]
    Name {
        /// The name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Something else has this name.
    #[error("two metrics are called \"{name}\"")]
    Duplicate {
        /// The name.
        name: String,
    },
}

/// A cheap-clone handle to the metrics of one node.
#[derive(Clone, Default)]
pub struct Metrics {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    registry: Registry,
    /// Name and help of everything registered.
    catalogue: BTreeMap<String, String>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// An empty registry. [`crate::process::register`] adds what concerns the process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metric under exactly this name; keep a clone of it to change its value.
    ///
    /// # Errors
    /// [`MetricError`] when the name breaks the rules of this module or is taken.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) -> Result<(), MetricError> {
        if !name.starts_with(PREFIX) {
            return Err(MetricError::Name { name: name.to_owned(), rule: "it must start with \"atoll_\"" });
        }
        self.add(name, help, metric)
    }

    /// Adds a value that is read at every scrape. It is a counter when the name ends in `_total`, else a gauge.
    ///
    /// # Errors
    /// Those of [`Metrics::register`].
    pub fn register_computed(
        &self,
        name: &str,
        help: &str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        self.register(name, help, Computed::new(name, read))
    }

    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.lock().registry).expect("writing to a String does not fail");
        text
    }

    /// Name and help of every metric, ordered by name.
    pub fn catalogue(&self) -> Vec<(String, String)> {
        self.lock().catalogue.clone().into_iter().collect()
    }

    /// As `register`, for names that convention gives, which need not carry the prefix.
    pub(crate) fn add(&self, name: &str, help: &str, metric: impl Metric) -> Result<(), MetricError> {
        let is_counter = matches!(metric.metric_type(), MetricType::Counter);
        check_name(name, is_counter).map_err(|rule| MetricError::Name { name: name.to_owned(), rule })?;
        let help = help.trim_end_matches('.');
        let mut inner = self.lock();
        if inner.catalogue.insert(name.to_owned(), help.to_owned()).is_some() {
            return Err(MetricError::Duplicate { name: name.to_owned() });
        }
        // The registry adds the suffix of a counter, and the full stop of the help, itself.
        let base = if is_counter { name.trim_end_matches(COUNTER_SUFFIX) } else { name };
        inner.registry.register(base, help, metric);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding it leaves at worst one metric out.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_name(name: &str, is_counter: bool) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.bytes().all(allowed) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err("it must consist of a-z, 0-9 and _ and start with a letter");
    }
    match (is_counter, name.ends_with(COUNTER_SUFFIX)) {
        (true, false) => Err("a counter must end in \"_total\""),
        (false, true) => Err("only a counter may end in \"_total\""),
        _ => Ok(()),
    }
}

/// A value that is read when it is asked for.
pub(crate) struct Computed<F> {
    read: F,
    is_counter: bool,
}

impl<F: Fn() -> f64> Computed<F> {
    pub(crate) fn new(name: &str, read: F) -> Self {
        Self { read, is_counter: name.ends_with(COUNTER_SUFFIX) }
    }
}

impl<F> fmt::Debug for Computed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed").field("is_counter", &self.is_counter).finish_non_exhaustive()
    }
}

impl<F: Fn() -> f64> EncodeMetric for Computed<F> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let value = (self.read)();
        if self.is_counter {
            encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
        } else {
            encoder.encode_gauge(&value)
        }
    }

    fn metric_type(&self) -> MetricType {
        if self.is_counter { MetricType::Counter } else { MetricType::Gauge }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

    use super::*;

    #[test]
    fn registered_metrics_are_encoded_under_their_names() {
        let metrics = Metrics::new();
        let stored: Counter = Counter::default();
        metrics.register("atoll_stored_bytes_total", "Bytes stored.", stored.clone()).unwrap();
        metrics.register_computed("atoll_peers", "Peers known", || 3.0).unwrap();
        metrics.register_computed("atoll_seen_total", "Seen", || 5.0).unwrap();
        stored.inc_by(42);
        let text = metrics.encode();
        for line in [
            "# HELP atoll_stored_bytes Bytes stored.",
            "# TYPE atoll_stored_bytes counter",
            "atoll_stored_bytes_total 42",
            "# TYPE atoll_peers gauge",
            "atoll_peers 3.0",
            "atoll_seen_total 5.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let names: Vec<_> = metrics.catalogue().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["atoll_peers", "atoll_seen_total", "atoll_stored_bytes_total"]);
    }

    #[test]
    fn names_that_break_a_rule_are_refused() {
        let metrics = Metrics::new();
        let gauge = || Gauge::<i64>::default();
        let refused = |outcome: Result<(), MetricError>, words: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(metrics.register("peers", "Peers", gauge()), "atoll_");
        refused(metrics.register("atoll_Peers", "Peers", gauge()), "a-z");
        refused(metrics.register("atoll_peers_total", "Peers", gauge()), "only a counter");
        refused(metrics.register("atoll_peers", "Peers", Counter::<u64>::default()), "must end in");
        metrics.register("atoll_peers", "Peers", gauge()).unwrap();
        refused(metrics.register("atoll_peers", "Peers", gauge()), "two metrics");
    }
}
