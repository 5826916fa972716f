//! Reading without watching: `get` and `list`, with the rules for limits, selectors and resource versions.

use std::sync::Arc;

use atoll_kv::{Bytes, Revision};
use data_encoding::BASE64URL_NOPAD;
use http::Response;
use serde_json::{Value, json};

use crate::{
    convert,
    error::ApiError,
    respond::{self, ResponseBody},
    selector::{FieldSelector, LabelSelector},
    server::{Context, Server},
};

pub(super) async fn get(server: &Arc<Server>, context: &Context) -> Result<Response<ResponseBody>, ApiError> {
    let target = &context.target;
    let found = server.store.get(&context.resource, &target.namespace, &target.name).await?;
    Ok(context.answer(200, found.ok_or_else(|| context.not_found())?))
}

/// What a list or a watch is to contain.
pub(crate) struct Wanted {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Wanted {
    pub(crate) fn of(context: &Context) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(context.query.text("labelSelector"))?;
        let mut fields = FieldSelector::parse(&context.resource.kind, context.query.text("fieldSelector"))?;
        if !context.target.name.is_empty() {
            // The old form of watching one object.
            let selector = format!("metadata.name={}", context.target.name);
            fields = FieldSelector::parse(&context.resource.kind, &selector)?;
        }
        Ok(Self { labels, fields })
    }

    /// Whether a stored object is wanted. Field selectors speak of the shape asked for.
    pub(crate) fn matches(&self, context: &Context, object: &Value) -> bool {
        if !self.labels.matches(object) {
            return false;
        }
        if context.resource.is("events.k8s.io", "Event") {
            let mut shown = object.clone();
            convert::show(&context.resource, &mut shown);
            return self.fields.matches(&shown);
        }
        self.fields.matches(object)
    }
}

/// Where a list goes on: the revision it began at, and the last key delivered.
fn continue_token(revision: Revision, after: &[u8]) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": String::from_utf8_lossy(after)});
    BASE64URL_NOPAD.encode(token.to_string().as_bytes())
}

fn parse_token(token: &str) -> Result<(Revision, Bytes), ApiError> {
    let parse = || {
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let token: Value = serde_json::from_slice(&bytes).ok()?;
        Some((token["rv"].as_u64()?, Bytes::from(token["start"].as_str()?.to_owned())))
    };
    parse().ok_or_else(|| ApiError::bad_request("continue key is not valid: it is none that this server gave out"))
}

pub(super) async fn list(server: &Arc<Server>, context: &Context) -> Result<Response<ResponseBody>, ApiError> {
    let query = &context.query;
    let wanted = Wanted::of(context)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let prefix = server.store.prefix(&context.resource, &context.target.namespace);
    let (at, after) = match query.text("continue") {
        "" => (revision_asked(server, context).await?, None),
        token => {
            let (revision, start) = parse_token(token)?;
            if !start.starts_with(&prefix) {
                return Err(ApiError::bad_request("continue key is not valid: it is that of another list"));
            }
            (Some(revision), Some(start))
        }
    };
    let mut listed = server.store.list(&prefix, after, limit, at, |object| wanted.matches(context, object)).await?;
    for object in &mut listed.objects {
        convert::show(&context.resource, object);
    }
    let mut meta = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(after) = &listed.after {
        meta["continue"] = continue_token(listed.revision, after).into();
    }
    let shown = context.accept.many(&context.resource, listed.objects, meta, context.include_object());
    Ok(respond::json(200, &shown))
}

/// The revision a list has to be of; `None` for the last one, which is also "not older than" any that has happened.
async fn revision_asked(server: &Server, context: &Context) -> Result<Option<Revision>, ApiError> {
    let query = &context.query;
    let matching = query.text("resourceVersionMatch");
    let revision = match query.text("resourceVersion") {
        "" if !matching.is_empty() => {
            let message = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(ApiError::bad_request(message));
        }
        "" | "0" => return Ok(None),
        text => parse_revision(text)?,
    };
    match matching {
        "Exact" => Ok(Some(revision)),
        "" | "NotOlderThan" => {
            let last = server.store.revision().await?;
            if revision > last { Err(atoll_kv::WatchError::Future { asked: revision, last }.into()) } else { Ok(None) }
        }
        other => Err(ApiError::bad_request(format!("unknown resourceVersionMatch \"{other}\""))),
    }
}

/// A `resourceVersion` as a revision.
pub(super) fn parse_revision(text: &str) -> Result<Revision, ApiError> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("resourceVersion: Invalid value: \"{text}\": must be a number")))
}
