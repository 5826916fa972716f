//! The dashboard's view of this node.

use std::sync::Arc;

use atoll_dashboard::{Page, Snapshot, Source};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::daemon::Parts;

/// Serves the dashboard until told to stop.
pub(crate) async fn run(listener: TcpListener, parts: Arc<Parts>, stop: CancellationToken) {
    if let Err(error) = atoll_dashboard::serve(listener, Arc::new(View(parts)), stop).await {
        tracing::warn!(%error, "the dashboard is not served any more");
    }
}

struct View(Arc<Parts>);

impl Source for View {
    fn snapshot(&self, page: Page) -> BoxFuture<'_, Snapshot> {
        async move {
            let parts = &self.0;
            Snapshot {
                node: parts.status().await,
                buckets: api::store::all_buckets(parts).await,
                offers: if page.needs_offers() { api::cloud::all_offers(parts).await } else { Vec::new() },
                evdcs: api::cloud::all_evdcs(parts).await,
                workloads: if page.needs_workloads() { api::apps::workloads(parts).await } else { Vec::new() },
                gateway: api::cloud::gateway_status(parts),
            }
        }
        .boxed()
    }
}
