//! Request bodies: read with a limit, decoded from JSON, YAML or Kubernetes' protobuf.

use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Bytes;
use serde_json::Value;

use crate::{error::ApiError, protobuf, server::RequestBody};

/// Largest body. etcd takes 1.5 MiB and Kubernetes' own server 3 MiB; what is stored must fit the store's values.
pub(crate) const BODY_BYTES_MAX: usize = 3 << 20;

/// Reads a body to its end.
pub(crate) async fn read(body: RequestBody) -> Result<Bytes, ApiError> {
    // Boxed here, where its type is known, so that the futures around it stay simple.
    let collecting: BoxFuture<'static, _> = Box::pin(Limited::new(body, BODY_BYTES_MAX).collect());
    match collecting.await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_BYTES_MAX}");
            Err(ApiError::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request's body could not be read: {error}"))),
    }
}

/// The media type of a request, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Decodes an object. An empty body is `None`.
pub(crate) fn decode(media_type: &str, body: &Bytes) -> Result<Option<Value>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let value = match media_type {
        protobuf::MEDIA_TYPE => protobuf::decode(body)?,
        "" | "application/json" => json(body)?,
        "application/yaml" | "application/apply-patch+yaml" => json(body).or_else(|_| yaml(body))?,
        other => {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, {}; not {other}",
                protobuf::MEDIA_TYPE
            );
            return Err(ApiError::new(415, "UnsupportedMediaType", message));
        }
    };
    Ok(Some(value))
}

/// Decodes JSON.
pub(crate) fn json(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))
}

fn yaml(body: &Bytes) -> Result<Value, ApiError> {
    let refuse = |error: String| ApiError::bad_request(format!("the body is not valid YAML: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| refuse(error.to_string()))?;
    // The parser's default budget bounds depth, nodes and aliases.
    serde_saphyr::from_str(text).map_err(|error| refuse(error.to_string()))
}
