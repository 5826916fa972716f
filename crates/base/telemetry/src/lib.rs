//! What a running node says about itself: log lines on standard error ([`log`]) and numbers for a scraper ([`metrics`], [`process`]).
//!
//! Metric names live with what they measure; this crate only holds the registry and checks that names follow the rules. Nothing here is a
//! global except the tracing subscriber, which the tracing library makes one.

pub use crate::{
    log::{LogConfig, LogError, LogFormat},
    metrics::{MetricError, Metrics},
};

pub mod log;
pub mod metrics;
pub mod process;
