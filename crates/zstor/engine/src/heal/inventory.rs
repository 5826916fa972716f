//! What the nodes say they have, asked once for a whole heal.
//!
//! A node is asked for the ids of all its shards, a page at a time, as long as they fit the memory set aside; a node with more is asked shard by shard.
//! The picture is as old as the heal, so whatever seems missing is asked for once more before anything is done about it: it may
//! have been stored since.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use atoll_ids::{NodeId, ShardId};
use atoll_shard::{HomeError, ShardHome};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::error::NodeFault;
use crate::inner::{Inner, now, reason};

/// Ids kept in memory for all nodes together: 16 bytes each, so 16 MiB, which is the shards of 250 GiB.
const LISTED_MAX: usize = 1 << 20;
/// Ids asked for at once.
const PAGE: usize = 4096;

/// What became of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is there, and sound as far as was asked.
    Present,
    /// The node does not have it.
    Missing,
    /// The node has it and its checksum is wrong.
    Rotten,
    /// The node does not answer, or is not known any more.
    Away(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("has the shard"),
            Self::Missing => f.write_str("does not have the shard"),
            Self::Rotten => f.write_str("its copy of the shard is rotten"),
            Self::Away(why) => f.write_str(why),
        }
    }
}

enum Contents {
    /// All ids, sorted.
    Listed(Vec<ShardId>),
    /// Too many to keep.
    Many,
    /// It did not say.
    Away(String),
}

/// The nodes and what they have.
pub(crate) struct Inventory {
    nodes: HashMap<NodeId, Contents>,
}

impl Inventory {
    /// Asks all nodes that are up.
    pub(crate) async fn take(inner: &Arc<Inner>) -> Self {
        let homes = inner.homes.list();
        let share = LISTED_MAX / homes.len().max(1);
        let ask = homes.into_iter().map(|info| async move {
            let contents = match inner.home(info.node) {
                // Whoever keeps the homes asked it just now; to wait for it once more would hold everything up.
                Some(_) if !info.up => Contents::Away("is not connected".to_owned()),
                Some(home) => contents(inner, home.as_ref(), share).await,
                None => Contents::Away("is no longer known".to_owned()),
            };
            (info.node, contents)
        });
        Self { nodes: join_all(ask).await.into_iter().collect() }
    }

    /// The nodes that did not answer.
    pub(crate) fn away(&self) -> Vec<NodeFault> {
        let away = self.nodes.iter().filter_map(|(&node, contents)| match contents {
            Contents::Away(why) => Some(NodeFault { node, why: why.clone() }),
            Contents::Listed(_) | Contents::Many => None,
        });
        let mut away: Vec<NodeFault> = away.collect();
        away.sort_by_key(|fault| fault.node);
        away
    }

    /// Whether the node answered.
    pub(crate) fn answers(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Contents::Listed(_) | Contents::Many))
    }

    /// What became of a shard on a node.
    pub(crate) async fn find(&self, inner: &Inner, node: NodeId, id: ShardId, deep: bool) -> Finding {
        match self.nodes.get(&node) {
            None => Finding::Away("is no longer known".to_owned()),
            Some(Contents::Away(why)) => Finding::Away(why.clone()),
            Some(Contents::Listed(ids)) if !deep && ids.binary_search(&id).is_ok() => Finding::Present,
            Some(Contents::Listed(_) | Contents::Many) => ask(inner, node, id, deep).await,
        }
    }
}

async fn contents(inner: &Inner, home: &dyn ShardHome, share: usize) -> Contents {
    let mut ids: Vec<ShardId> = Vec::new();
    loop {
        match timeout(inner.config.patience, home.list(ids.last().copied(), PAGE)).await {
            Ok(Ok(page)) if page.is_empty() => break,
            Ok(Ok(page)) => ids.extend(page.into_iter().map(|entry| entry.id)),
            Ok(Err(error)) => return Contents::Away(reason(&error)),
            Err(_) => {
                inner.tracker().no_answer(home.node(), now());
                return Contents::Away(format!("did not answer for {:.1} s", inner.config.patience.as_secs_f64()));
            }
        }
        if ids.len() > share {
            return Contents::Many;
        }
    }
    // A node that does not keep the order only makes its shards look missing, and then each is asked for.
    ids.sort_unstable();
    inner.tracker().alive(home.node(), now());
    Contents::Listed(ids)
}

/// Asks for one shard.
async fn ask(inner: &Inner, node: NodeId, id: ShardId, deep: bool) -> Finding {
    let Some(home) = inner.home(node) else { return Finding::Away("is no longer known".to_owned()) };
    let answer = if deep {
        timeout(inner.config.patience, home.verify(id)).await
    } else {
        timeout(inner.config.patience, has(home.as_ref(), id)).await
    };
    match answer {
        Ok(Ok(())) => Finding::Present,
        Ok(Err(HomeError::NotFound { .. })) => Finding::Missing,
        Ok(Err(HomeError::Rotten { .. })) => Finding::Rotten,
        Ok(Err(error)) => Finding::Away(reason(&error)),
        Err(_) => Finding::Away(format!("did not answer for {:.1} s", inner.config.patience.as_secs_f64())),
    }
}

/// Whether a home has a shard, without its reading it: the listing that starts just before it begins with it.
async fn has(home: &dyn ShardHome, id: ShardId) -> Result<(), HomeError> {
    let before = u128::from_be_bytes(*id.as_bytes()).checked_sub(1);
    let before = before.map(|before| ShardId::from_bytes(before.to_be_bytes()));
    let found = home.list(before, 1).await?.first().is_some_and(|entry| entry.id == id);
    if found { Ok(()) } else { Err(HomeError::NotFound { node: home.node(), id }) }
}
