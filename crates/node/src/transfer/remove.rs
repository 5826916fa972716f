//! Removes one object, or everything below a prefix.

use atoll_control::{ApiError, Event, Kind, RemoveRequest, TransferSummary};
use atoll_engine::{Engine, LIST_MAX, ListQuery, RemoveError};
use futures_util::stream::{self, TryStreamExt as _};
use tokio::sync::mpsc;

use super::put::cancelled;
use super::{OBJECTS_AT_ONCE, Tracker};
use crate::failure::told;

/// Removes what the request names.
///
/// # Errors
/// [`ApiError`]: not found, or the store refuses.
pub(crate) async fn run(
    engine: Engine,
    request: RemoveRequest,
    events: mpsc::Sender<Event>,
) -> Result<TransferSummary, ApiError> {
    let tracker = Tracker::start(events);
    let bucket = &request.bucket;
    if !request.recursive {
        let info = engine.remove(bucket, &request.key).await.map_err(|error| told(&error))?;
        tracker.moved_bytes(info.size);
        tracker.moved_item();
        return Ok(tracker.summary());
    }
    let mut found_any = false;
    loop {
        if tracker.is_cancelled() {
            return Err(cancelled());
        }
        // What was listed is gone afterwards, so every page is the first.
        let query = ListQuery { prefix: request.key.clone(), delimiter: None, after: None, limit: LIST_MAX };
        let page = engine.list(bucket, &query).await;
        let page = page.map_err(|error| told(&error))?;
        if page.objects.is_empty() {
            break;
        }
        found_any = true;
        let removals = page.objects.iter().map(Ok).collect::<Vec<_>>();
        stream::iter(removals)
            .try_for_each_concurrent(OBJECTS_AT_ONCE, |info| {
                let (engine, tracker) = (&engine, &tracker);
                async move {
                    match engine.remove(bucket, &info.key).await {
                        Ok(_) => {
                            tracker.moved_bytes(info.size);
                            tracker.moved_item();
                            Ok(())
                        }
                        // Somebody else removed it in between.
                        Err(RemoveError::NotFound { .. }) => Ok(()),
                        Err(error) => Err(told(&error)),
                    }
                }
            })
            .await?;
    }
    if found_any {
        return Ok(tracker.summary());
    }
    Err(ApiError::new(Kind::NotFound, format!("nothing in {bucket} starts with {:?}", request.key)))
}
