//! What a stack owns: every resource it made, as it was last written. Kept by the [`crate::Cloud`], versioned.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::resource::ResourceId;

/// The version of the format; a reader refuses others.
const VERSION: u32 = 1;

/// An inventory cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// It is damaged.
    #[error("the inventory of this stack cannot be read: {0}")]
    Damaged(String),
    /// A newer Atoll wrote it.
    #[error("the inventory has version {0}, this Atoll reads {VERSION}: use a newer one")]
    Version(u32),
}

/// A resource that the stack made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owned {
    /// As it was last written.
    pub spec: Json,
    /// What it needs, which is deleted after it.
    pub needs: BTreeSet<ResourceId>,
    /// Whether writing it was begun and not seen to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// All that a stack made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    version: u32,
    /// The stack.
    pub stack: String,
    /// What it made.
    pub owned: BTreeMap<ResourceId, Owned>,
}

impl Inventory {
    /// Of a stack that has made nothing yet.
    #[must_use]
    pub fn new(stack: &str) -> Self {
        Self { version: VERSION, stack: stack.to_owned(), owned: BTreeMap::new() }
    }

    /// As JSON, to be stored.
    #[must_use]
    pub fn to_json(&self) -> Json {
        serde_json::to_value(self).unwrap_or(Json::Null)
    }

    /// From what was stored.
    ///
    /// # Errors
    /// It is damaged or of another version.
    pub fn from_json(json: &Json) -> Result<Self, InventoryError> {
        let version = json["version"].as_u64().and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
        if version > VERSION {
            return Err(InventoryError::Version(version));
        }
        serde_json::from_value(json.clone()).map_err(|it| InventoryError::Damaged(it.to_string()))
    }
}
