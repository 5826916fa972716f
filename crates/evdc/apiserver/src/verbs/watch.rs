//! `watch`: the events of a list as a body that does not end.
//!
//! A watch holds a position in the store's history and nothing else, and reads on only when the client has taken what came before; a client that falls
//! behind the history is told with an `ERROR` event of 410 and lists again.

use std::{sync::Arc, time::Duration};

use atoll_kv::{Batch, ChangeStream, Revision, WatchError};
use futures_util::{StreamExt as _, future};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    convert,
    error::ApiError,
    object::{random, set_revision},
    respond::{self, Form, ResponseBody},
    server::{Context, Server},
    store::decode_change,
    verbs::read::{Wanted, parse_revision},
};

/// How often a quiet watch that asked for bookmarks is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long a watch lasts that does not say: half an hour, and up to as much again so that clients do not all come back at once.
const LASTS: Duration = Duration::from_secs(1800);

/// Longest a watch may ask for.
const LASTS_MAX_SECONDS: u64 = 24 * 3600;

/// The annotation of the bookmark after the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watch {
    context: Context,
    wanted: Wanted,
    changes: ChangeStream,
    /// Lines to send first.
    pending: Vec<Bytes>,
    bookmarks: bool,
    /// Everything up to here has been told.
    told: Revision,
    headers_sent: bool,
    ends: tokio::time::Instant,
    bookmark_at: tokio::time::Instant,
    closing: CancellationToken,
    over: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn watch(server: &Arc<Server>, context: Context) -> Result<Response<ResponseBody>, ApiError> {
    let query = &context.query;
    let wanted = Wanted::of(&context)?;
    let place = Arc::clone(&server.watches).try_acquire_owned();
    let place =
        place.map_err(|_| ApiError::new(429, "TooManyRequests", "the server has too many watches; try again later"))?;
    let seconds = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let lasts = match seconds {
        Some(seconds) => Duration::from_secs(seconds.min(LASTS_MAX_SECONDS)),
        None => LASTS + LASTS.mul_f64(f64::from(random::<1>()[0]) / 256.0),
    };
    let prefix = server.store.prefix(&context.resource, &context.target.namespace);
    let initial = initial_events(&context)?;
    let bookmarks = query.is_true("allowWatchBookmarks");
    let now = tokio::time::Instant::now();
    let mut watch = Watch {
        wanted,
        changes: Box::pin(futures_util::stream::empty()),
        pending: Vec::new(),
        bookmarks,
        told: 0,
        headers_sent: false,
        ends: now + lasts,
        bookmark_at: now + BOOKMARK_EVERY,
        closing: server.closing.clone(),
        over: false,
        _place: place,
        context,
    };
    match initial {
        Initial::Objects { end_mark } => {
            let listed = server
                .store
                .list(&prefix, None, usize::MAX, None, |object| watch.wanted.matches(&watch.context, object))
                .await?;
            watch.told = listed.revision;
            for object in listed.objects {
                watch.add("ADDED", object);
            }
            if end_mark && bookmarks {
                watch.add_bookmark(true);
            }
        }
        Initial::From(revision) => watch.told = revision,
    }
    match server.store.watch(prefix, watch.told) {
        Ok(changes) => watch.changes = changes,
        Err(error) if error.code() == 410 => watch.fail(&error),
        Err(error) => return Err(error),
    }
    let lines = futures_util::stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok(Frame::data(lines)), watch))
    });
    Ok(respond::typed(200, "application/json", StreamBody::new(lines).boxed_unsync()))
}

/// How a watch begins.
enum Initial {
    /// With what is there now, and perhaps a mark after it.
    Objects { end_mark: bool },
    /// With what comes after a revision.
    From(Revision),
}

fn initial_events(context: &Context) -> Result<Initial, ApiError> {
    let query = &context.query;
    let revision = query.text("resourceVersion");
    if query.has("sendInitialEvents") {
        if query.text("resourceVersionMatch") != "NotOlderThan" {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(ApiError::new(422, "Invalid", format!("resourceVersionMatch: Forbidden: {message}")));
        }
        if query.is_true("sendInitialEvents") {
            return Ok(Initial::Objects { end_mark: true });
        }
    }
    Ok(match revision {
        "" | "0" => Initial::Objects { end_mark: false },
        text => Initial::From(parse_revision(text)?),
    })
}

impl Watch {
    /// The next lines, when there are any; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.pending.is_empty() {
                return Some(self.pending.drain(..).collect::<Vec<_>>().concat().into());
            }
            if self.over {
                return None;
            }
            let bookmark = async {
                if self.bookmarks { tokio::time::sleep_until(self.bookmark_at).await } else { future::pending().await }
            };
            tokio::select! {
                batch = self.changes.next() => self.take(batch),
                () = bookmark => self.add_bookmark(false),
                () = tokio::time::sleep_until(self.ends) => self.over = true,
                () = self.closing.cancelled() => self.over = true,
            }
        }
    }

    fn take(&mut self, batch: Option<Result<Batch, WatchError>>) {
        match batch {
            Some(Ok(batch)) => {
                for change in &batch.changes {
                    match decode_change(change) {
                        Ok((old, new)) => self.changed(old, new),
                        Err(error) => return self.fail(&error),
                    }
                }
                self.told = batch.revision;
            }
            Some(Err(WatchError::Closed)) | None => self.over = true,
            Some(Err(error)) => self.fail(&error.into()),
        }
    }

    fn changed(&mut self, old: Option<Value>, new: Option<Value>) {
        let matching = |object: Option<Value>| object.filter(|object| self.wanted.matches(&self.context, object));
        let revision = new.as_ref().and_then(crate::object::revision);
        match (matching(old), matching(new)) {
            (None, Some(new)) => self.add("ADDED", new),
            (Some(_), Some(new)) => self.add("MODIFIED", new),
            (Some(mut old), None) => {
                if let Some(revision) = revision {
                    set_revision(&mut old, revision);
                }
                self.add("DELETED", old);
            }
            (None, None) => {}
        }
    }

    fn add(&mut self, kind: &str, mut object: Value) {
        let context = &self.context;
        convert::show(&context.resource, &mut object);
        let object = context.accept.one(&context.resource, object, !self.headers_sent, context.include_object());
        self.headers_sent = true;
        self.send(kind, &object);
    }

    fn add_bookmark(&mut self, ends_initial: bool) {
        self.bookmark_at = tokio::time::Instant::now() + BOOKMARK_EVERY;
        let mut object = json!({"metadata": {"resourceVersion": self.told.to_string(), "creationTimestamp": null}});
        if ends_initial {
            object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        convert::name_kind(&self.context.resource, &mut object);
        let object = match self.context.accept.form {
            Form::Whole => object,
            _ => self.context.accept.one(&self.context.resource, object, false, ""),
        };
        self.send("BOOKMARK", &object);
    }

    fn fail(&mut self, error: &ApiError) {
        self.send("ERROR", &error.to_status());
        self.over = true;
    }

    fn send(&mut self, kind: &str, object: &Value) {
        self.pending.push(format!("{}\n", json!({"type": kind, "object": object})).into());
    }
}
