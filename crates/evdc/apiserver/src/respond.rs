//! Answers: what form the client accepts, and bodies of that form.

use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::{error::ApiError, kinds::Resource, object::at, printers};

/// Body of an answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// The form of objects that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Whole objects.
    Whole,
    /// A `Table` for people.
    Table,
    /// Only metadata.
    Metadata,
}

/// What a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    /// Version of meta.k8s.io that tables and metadata are of.
    version: &'static str,
}

impl Accept {
    /// Reads an `Accept` header: the first alternative that can be served.
    pub(crate) fn parse(header: &str) -> Result<Self, ApiError> {
        let whole = Self { form: Form::Whole, version: "v1" };
        if header.trim().is_empty() {
            return Ok(whole);
        }
        for alternative in header.split(',') {
            let mut parts = alternative.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter =
                |name: &str| parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
            if !matches!(media_type, "application/json" | "*/*" | "application/*" | "application/yaml" | "text/plain") {
                continue;
            }
            let version = if parameter("v") == "v1beta1" { "v1beta1" } else { "v1" };
            let form = match parameter("as") {
                "" => Form::Whole,
                "Table" => Form::Table,
                "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata,
                _ => continue,
            };
            return Ok(Self { form, version });
        }
        let message = "only the following media types are accepted: application/json";
        Err(ApiError::new(406, "NotAcceptable", message))
    }

    /// One object in this form.
    pub(crate) fn one(self, resource: &Resource, object: Value, with_headers: bool, include: &str) -> Value {
        match self.form {
            Form::Whole => object,
            Form::Metadata => self.metadata(&object),
            Form::Table => {
                let version = at(&object, &["metadata", "resourceVersion"]).cloned().unwrap_or_default();
                self.table(resource, &[object], json!({"resourceVersion": version}), with_headers, include)
            }
        }
    }

    /// A list in this form.
    pub(crate) fn many(self, resource: &Resource, objects: Vec<Value>, meta: Value, include: &str) -> Value {
        match self.form {
            Form::Whole => json!({
                "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": meta, "items": objects,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": self.meta_version(), "metadata": meta,
                "items": objects.iter().map(|object| self.metadata(object)).collect::<Vec<_>>(),
            }),
            Form::Table => self.table(resource, &objects, meta, true, include),
        }
    }

    fn meta_version(self) -> String {
        format!("meta.k8s.io/{}", self.version)
    }

    fn metadata(self, object: &Value) -> Value {
        json!({"kind": "PartialObjectMetadata", "apiVersion": self.meta_version(), "metadata": object["metadata"]})
    }

    fn table(self, resource: &Resource, objects: &[Value], meta: Value, with_headers: bool, include: &str) -> Value {
        let row = |object: &Value| {
            let shown = match include {
                "None" => Value::Null,
                "Object" => object.clone(),
                _ => self.metadata(object),
            };
            let mut row = json!({"cells": printers::row(resource, object)});
            if !shown.is_null() {
                row["object"] = shown;
            }
            row
        };
        json!({
            "kind": "Table", "apiVersion": self.meta_version(), "metadata": meta,
            "columnDefinitions": if with_headers { printers::columns(resource) } else { Value::Array(Vec::new()) },
            "rows": objects.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a body of this type.
pub(crate) fn typed(code: u16, media_type: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer in JSON.
pub(crate) fn json(code: u16, value: &Value) -> Response<ResponseBody> {
    typed(code, "application/json", full(format!("{value}\n")))
}

/// An answer in plain text.
pub(crate) fn text(text: impl Into<Bytes>) -> Response<ResponseBody> {
    typed(200, "text/plain; charset=utf-8", full(text))
}

/// The answer to a request that was refused or failed.
pub(crate) fn error(error: &ApiError) -> Response<ResponseBody> {
    let mut response = json(error.code(), &error.to_status());
    if error.code() == 429 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.code() == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Adds warnings for a person to an answer (RFC 9111, code 299).
pub(crate) fn warn(response: &mut Response<ResponseBody>, warnings: &[String]) {
    for warning in warnings {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// `Status` of a success.
pub(crate) fn success(resource: &Resource, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut details = json!({"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]});
    if !resource.group.is_empty() {
        details["group"] = resource.group.clone().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_first_form_that_can_be_served_is_chosen() {
        let check = |header: &str, form: Form| assert_eq!(Accept::parse(header).unwrap().form, form, "{header}");
        check("", Form::Whole);
        check("application/vnd.kubernetes.protobuf, application/json", Form::Whole);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Form::Table,
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Form::Metadata,
        );
        assert_eq!(Accept::parse("application/vnd.kubernetes.protobuf").unwrap_err().code(), 406);
        let registry = crate::kinds::Registry::builtin();
        let pods = registry.get("", "v1", "pods").unwrap();
        let table =
            Accept { form: Form::Table, version: "v1" }.many(&pods, vec![json!({"metadata": {}})], json!({}), "");
        assert_eq!(table["rows"].as_array().unwrap().len(), 1);
    }
}
