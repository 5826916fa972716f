//! What this node serves to its peers: cards and shards, each stream already authenticated by the link.

use std::sync::Arc;

use atoll_ids::NodeId;
use atoll_link::{BoxStream, StreamHandler};
use atoll_shard::ShardServer;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::card::{self, Card};

/// Answers who this node is.
pub(crate) struct CardHandler {
    make: Arc<dyn Fn() -> Card + Send + Sync>,
}

impl CardHandler {
    /// Every question gets a card made anew.
    pub(crate) fn new(make: Arc<dyn Fn() -> Card + Send + Sync>) -> Self {
        Self { make }
    }
}

impl StreamHandler for CardHandler {
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        let card = (self.make)();
        async move {
            if let Err(error) = card::answer(stream, &card).await {
                tracing::debug!(peer = %peer.short(), %error, "a question was not answered");
            }
        }
        .boxed()
    }
}

/// Serves shards.
pub(crate) struct ShardHandler {
    server: ShardServer,
    stop: CancellationToken,
}

impl ShardHandler {
    /// Serves until told to stop.
    pub(crate) fn new(server: ShardServer, stop: CancellationToken) -> Self {
        Self { server, stop }
    }
}

impl StreamHandler for ShardHandler {
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        let (server, stop) = (self.server.clone(), self.stop.clone());
        async move {
            if let Err(error) = server.serve(stream, peer, stop).await {
                tracing::debug!(peer = %peer.short(), %error, "a shard stream ended early");
            }
        }
        .boxed()
    }
}
