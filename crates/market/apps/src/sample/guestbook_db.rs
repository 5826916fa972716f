//! `atoll sample guestbook-db`: the guestbook's database over HTTP.
//!
//! `GET /entries?last=N` answers `{"count": …, "entries": […]}`; `POST /entries` with an entry answers 201 once it is on the disk,
//! also if it was there before. The data lie in the folder that `GUESTBOOK_DATA` names.

use std::path::Path;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::store::{Entry, Store, StoreError};
use super::{Ready, SampleError, probes};

/// Room for an entry in JSON with every character escaped.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Entries in an answer unless it is said how many.
const LAST: usize = 100;
/// Entries in an answer at most.
const LAST_MAX: usize = 1000;

/// What `GET /entries` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How many there are in all.
    pub count: usize,
    /// The last of them, the oldest first.
    pub entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Last {
    last: Option<usize>,
}

/// The server over the data in a folder.
///
/// # Errors
/// The store cannot be opened.
pub fn router(folder: &str, ready: Ready) -> Result<Router, SampleError> {
    let store = Store::open(Path::new(folder))?;
    let entries = get(list).post(add).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Ok(Router::new().route("/entries", entries).with_state(store).merge(probes(ready)))
}

async fn list(State(store): State<Store>, Query(Last { last }): Query<Last>) -> Json<Page> {
    let entries = store.last(last.unwrap_or(LAST).min(LAST_MAX));
    Json(Page { count: store.count(), entries })
}

async fn add(State(store): State<Store>, Json(entry): Json<Entry>) -> Response {
    match store.add(entry.clone()).await {
        Ok(()) => (StatusCode::CREATED, Json(entry)).into_response(),
        Err(it @ StoreError::Refused(_)) => (StatusCode::BAD_REQUEST, it.to_string()).into_response(),
        Err(it) => (StatusCode::SERVICE_UNAVAILABLE, it.to_string()).into_response(),
    }
}
