//! What is done for each verb. Here: which code answers which verb and subresource.

use std::sync::Arc;

use http::{Response, request::Parts};

use crate::{
    body,
    error::ApiError,
    proxy,
    respond::ResponseBody,
    server::{Context, RequestBody, Server},
    sub,
};

mod account;
pub(crate) mod admit;
pub(crate) mod delete;
pub(crate) mod patch;
mod read;
mod watch;
pub(crate) mod write;

/// Answers requests that end.
pub(crate) async fn dispatch(
    server: &Arc<Server>,
    context: Context,
    body: RequestBody,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = &context.target;
    if context.resource.namespaced && target.namespace.is_empty() && !matches!(context.verb, "list" | "watch") {
        // Only lists and watches go across namespaces.
        return Err(ApiError::method_not_allowed());
    }
    if context.resource.is_review {
        let body = body::read(body).await?;
        return sub::review(server, &context, &body).await;
    }
    if context.resource.is_view && !context.resource.verbs().contains(&context.verb) {
        return Err(ApiError::method_not_allowed());
    }
    if !target.subresource.is_empty() {
        let known = context.resource.subresources();
        let found = known.iter().find(|it| it.name == target.subresource).ok_or_else(ApiError::no_route)?;
        if !found.verbs.contains(&context.verb) {
            return Err(ApiError::method_not_allowed());
        }
    }
    match (context.verb, target.subresource.as_str()) {
        ("get", "" | "status") => read::get(server, &context).await,
        ("list", "") => read::list(server, &context).await,
        (_, "scale") => sub::scale(server, &context, &body::read(body).await?).await,
        ("create", "") if target.name.is_empty() => write::create(server, &context, &body::read(body).await?).await,
        ("create", "binding") => sub::bind(server, &context, &body::read(body).await?).await,
        ("create", "eviction") => sub::evict(server, &context, &body::read(body).await?).await,
        ("create", "token") => sub::token(server, &context, &body::read(body).await?).await,
        ("update", "" | "status") if !target.name.is_empty() => {
            write::update(server, &context, &body::read(body).await?).await
        }
        ("update", "finalize") => sub::finalize(server, &context, &body::read(body).await?).await,
        ("patch", "" | "status") if !target.name.is_empty() => {
            patch::patch(server, &context, &body::read(body).await?).await
        }
        ("delete", "") => delete::delete(server, &context, &body::read(body).await?).await,
        ("deletecollection", "") => delete::collection(server, &context, &body::read(body).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Answers requests that go on: watches, and streams to nodes.
pub(crate) async fn stream(
    server: &Arc<Server>,
    context: Context,
    parts: Parts,
) -> Result<Response<ResponseBody>, ApiError> {
    if context.verb == "watch" {
        return watch::watch(server, context).await;
    }
    proxy::to_pod(server, context, parts).await
}

impl Context {
    /// What the client asks to see beside the cells of a table.
    pub(crate) fn include_object(&self) -> &str {
        self.query.text("includeObject")
    }

    /// The object in the form asked for.
    pub(crate) fn answer(&self, code: u16, mut object: serde_json::Value) -> Response<ResponseBody> {
        crate::convert::show(&self.resource, &mut object);
        let shown = self.accept.one(&self.resource, object, true, self.include_object());
        crate::respond::json(code, &shown)
    }

    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(self.resource.about(), &self.target.name)
    }
}
