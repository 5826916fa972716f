//! What a request is refused with: Kubernetes' `Status`, its reasons, and the messages that clients match on.
//!
//! Clients decide by `reason` and code and show `message`; both follow Kubernetes word for word where a client is known to look at them.

use atoll_kv::{KvError, WatchError};
use serde_json::{Map, Value, json};

/// One thing wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Where, as `spec.containers[0].name`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl Cause {
    /// A field that has to be there.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    /// A field whose value cannot be.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let message = format!("Invalid value: {}: {detail}", shown(value));
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    /// A field whose value is none of those allowed.
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|one| format!("\"{one}\"")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", "));
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    /// A value that is there twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Duplicate value: {}", shown(value));
        Self { field: field.into(), reason: "FieldValueDuplicate", message }
    }

    /// A field that may not be set or changed here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { field: field.into(), reason: "FieldValueForbidden", message: format!("Forbidden: {detail}") }
    }

    /// A reference to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Not found: {}", shown(value));
        Self { field: field.into(), reason: "FieldValueNotFound", message }
    }
}

/// A value for a message: JSON, cut to a length that fits a terminal.
fn shown(value: &Value) -> String {
    /// Long enough for any name; a whole object is not shown.
    const SHOWN_CHARS_MAX: usize = 200;
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
}

/// Names the resource that an error is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) group: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) kind: &'a str,
}

impl About<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    fn details(&self, name: &str) -> Map<String, Value> {
        let mut details = Map::new();
        for (key, text) in [("name", name), ("group", self.group), ("kind", self.plural)] {
            if !text.is_empty() {
                details.insert(key.to_owned(), text.into());
            }
        }
        details
    }
}

/// Why a request was refused or failed; becomes a `Status` object.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    code: u16,
    reason: &'static str,
    message: String,
    details: Map<String, Value>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new() }
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Kubernetes' word for the kind of error, such as `NotFound`.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub(crate) fn not_found(about: About<'_>, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", about.qualified());
        Self { details: about.details(name), ..Self::new(404, "NotFound", message) }
    }

    pub(crate) fn no_route() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn already_exists(about: About<'_>, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", about.qualified());
        Self { details: about.details(name), ..Self::new(409, "AlreadyExists", message) }
    }

    pub(crate) fn conflict(about: About<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", about.qualified());
        Self { details: about.details(name), ..Self::new(409, "Conflict", message) }
    }

    pub(crate) fn modified(about: About<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(about, name, why)
    }

    /// Conflicts of field managers in server-side apply.
    pub(crate) fn apply_conflicts(message: String, causes: &[(String, String)]) -> Self {
        let causes: Vec<Value> = causes
            .iter()
            .map(|(field, message)| json!({"reason": "FieldManagerConflict", "message": message, "field": field}))
            .collect();
        let mut error = Self::new(409, "Conflict", message);
        error.details.insert("causes".to_owned(), causes.into());
        error
    }

    pub(crate) fn invalid(about: About<'_>, name: &str, causes: &[Cause]) -> Self {
        let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let text = match &lines[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind =
            if about.group.is_empty() { about.kind.to_owned() } else { format!("{}.{}", about.kind, about.group) };
        let mut details = About { plural: about.kind, ..about }.details(name);
        let cause = |cause: &Cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field});
        details.insert("causes".to_owned(), causes.iter().map(cause).collect());
        Self { details, ..Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {text}")) }
    }

    pub(crate) fn forbidden(about: About<'_>, name: &str, why: &str) -> Self {
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{}{quoted} is forbidden: {why}", about.qualified());
        Self { details: about.details(name), ..Self::new(403, "Forbidden", message) }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_empty() {
            status["details"] = Value::Object(self.details.clone());
        }
        status
    }
}

impl From<KvError> for ApiError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Limit { .. } => Self::new(413, "RequestEntityTooLarge", error.to_string()),
            KvError::DiskFull { .. } => Self::new(507, "InsufficientStorage", error.to_string()),
            KvError::Conflict { .. } => Self::new(409, "Conflict", error.to_string()),
            KvError::Unavailable { .. } | KvError::Corrupt { .. } => {
                tracing::error!(%error, "the store of the Kubernetes API failed");
                Self::internal(error.to_string())
            }
        }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { after, oldest } => {
                Self::gone(format!("too old resource version: {after} ({oldest})"))
            }
            WatchError::Future { asked, last } => {
                Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {last}"))
            }
            WatchError::Off => Self::internal(error.to_string()),
            WatchError::Closed => Self::unavailable("the API server is shutting down"),
            WatchError::Read(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPLOYMENTS: About<'_> = About { group: "apps", plural: "deployments", kind: "Deployment" };

    #[test]
    fn messages_are_those_that_clients_know() {
        let check = |error: ApiError, code: u16, message: &str| {
            assert_eq!((error.code(), error.to_string().as_str()), (code, message));
            assert_eq!(error.to_status()["code"], code);
        };
        check(ApiError::not_found(DEPLOYMENTS, "web"), 404, "deployments.apps \"web\" not found");
        check(ApiError::already_exists(DEPLOYMENTS, "web"), 409, "deployments.apps \"web\" already exists");
        let causes =
            [Cause::required("spec.selector", ""), Cause::invalid("spec.replicas", &json!(-1), "must be positive")];
        check(
            ApiError::invalid(DEPLOYMENTS, "web", &causes),
            422,
            "Deployment.apps \"web\" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be positive]",
        );
        check(
            ApiError::invalid(About { group: "", plural: "pods", kind: "Pod" }, "p", &causes[..1]),
            422,
            "Pod \"p\" is invalid: spec.selector: Required value",
        );
    }
}
