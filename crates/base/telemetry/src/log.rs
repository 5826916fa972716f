//! Where log lines go and which: standard error, readable text or one JSON object per line, filtered by `ATOLL_LOG`.
//!
//! Standard output is for data, so nothing is ever logged there. Colour appears only when standard error is a terminal and `NO_COLOR` is unset.

use std::{env, fmt, io, io::IsTerminal as _, str::FromStr};

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Environment variable with the filter: a level (`debug`) or directives (`warn,atoll_shard=trace`).
pub const FILTER_VARIABLE: &str = "ATOLL_LOG";

/// Environment variable with the format: `human` or `json`.
pub const FORMAT_VARIABLE: &str = "ATOLL_LOG_FORMAT";

/// What is logged unless asked otherwise: what our own crates (their names start so) find worth telling, and trouble in libraries.
pub const DEFAULT_FILTER: &str = "warn,atoll=info";

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for a person.
    #[default]
    Human,
    /// One JSON object per line for a machine.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format { found: other.to_owned() }),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "\"{filter}\" is not a log filter ({reason}); use a level like \"debug\" or directives like \"warn,atoll_shard=trace\""
    )]
    Filter {
        /// The text given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The format is unknown.
    #[error("\"{found}\" is not a log format; use \"human\" or \"json\"")]
    Format {
        /// The text given.
        found: String,
    },
    /// Something in this process has set up logging before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// What to log and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines: a level or directives, as in [`FILTER_VARIABLE`].
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: DEFAULT_FILTER.to_owned() }
    }
}

impl LogConfig {
    /// These settings where the environment ([`FILTER_VARIABLE`], [`FORMAT_VARIABLE`]) says nothing else.
    ///
    /// # Errors
    /// [`LogError::Format`] when the variable names no format.
    pub fn or_environment(self) -> Result<Self, LogError> {
        self.or_variables(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn or_variables(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, LogError> {
        if let Some(filter) = variable(FILTER_VARIABLE) {
            self.filter = filter;
        }
        if let Some(format) = variable(FORMAT_VARIABLE) {
            self.format = format.parse()?;
        }
        Ok(self)
    }

    /// Sends the log lines of this process to standard error from now on.
    ///
    /// # Errors
    /// [`LogError::Filter`] when the filter does not parse, [`LogError::AlreadySet`] the second time.
    pub fn init(&self) -> Result<(), LogError> {
        let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let subscriber = self.subscriber(io::stderr, colour)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)
    }

    fn subscriber<W>(&self, writer: W, colour: bool) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let filter = EnvFilter::builder()
            .parse(&self.filter)
            .map_err(|error| LogError::Filter { filter: self.filter.clone(), reason: error.to_string() })?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
        Ok(match self.format {
            LogFormat::Human => Box::new(lines.finish()),
            LogFormat::Json => Box::new(lines.json().flatten_event(true).with_span_list(false).finish()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &LogConfig, colour: bool) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = config.subscriber(move || writer.clone(), colour).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "atoll_kv::commit", revision = 7, "written");
            tracing::debug!(target: "atoll_kv::commit", "details");
            tracing::info!(target: "iroh::endpoint", "chatter");
            tracing::warn!(target: "iroh::endpoint", "trouble");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_default_filter_keeps_ours_and_trouble() {
        let text = logged(&LogConfig::default(), false);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("INFO") && text.contains("written") && text.contains("revision=7"), "{text}");
        assert!(text.contains("trouble") && !text.contains("chatter"), "{text}");
        assert!(!text.contains('\x1b'), "colour without a terminal: {text}");
        assert!(logged(&LogConfig::default(), true).contains('\x1b'));
    }

    #[test]
    fn json_is_one_object_per_line() {
        let config = LogConfig { format: LogFormat::Json, filter: "atoll_kv=debug".to_owned() };
        let text = logged(&config, true);
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        }
        assert!(text.contains("\"revision\":7") && text.contains("\"message\":\"written\""), "{text}");
    }

    #[test]
    fn the_environment_overrides_and_mistakes_are_named() {
        let from = |filter: Option<&str>, format: Option<&str>| {
            let variables = [(FILTER_VARIABLE, filter), (FORMAT_VARIABLE, format)];
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name)?.1.map(str::to_owned);
            LogConfig::default().or_variables(find)
        };
        assert_eq!(from(None, None).unwrap(), LogConfig::default());
        let config = from(Some("trace"), Some("json")).unwrap();
        assert_eq!((config.format, &config.filter[..]), (LogFormat::Json, "trace"));
        let error = from(None, Some("xml")).unwrap_err().to_string();
        assert!(error.contains("xml") && error.contains("\"json\""), "{error}");
        let error = from(Some("atoll=loud"), None).unwrap().subscriber(io::sink, false).err().unwrap().to_string();
        assert!(error.contains("atoll=loud"), "{error}");
    }
}
