//! What may fail together: who runs a node and where it stands.
//!
//! These are claims of the node's owner, not facts; placement uses them to keep the shards of a stripe apart. An empty site or
//! country means that it was not said.

use serde::{Deserialize, Deserializer, Serialize};

use crate::id::OwnerId;

/// Most bytes of a site or a country: longer than any name in use, short enough that a map of thousands of nodes stays small.
pub const LABEL_BYTES_MAX: usize = 64;

/// The failure domains a node belongs to, from the smallest (the node itself) outwards.
///
/// Deserialising checks the same limits as [`Domain::new`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Domain {
    /// Who runs the node, if it said so.
    pub owner: Option<OwnerId>,
    /// The building, rack or home it stands in; empty when not said.
    pub site: String,
    /// The country it stands in; empty when not said. By convention an ISO 3166 code such as `BE`.
    pub country: String,
}

/// Why a site or country cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// More than [`LABEL_BYTES_MAX`] bytes.
    #[error("the {what} of a node has at most {LABEL_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// `site` or `country`.
        what: &'static str,
        /// Bytes that were given.
        found: usize,
    },
    /// A control character, such as a line break.
    #[error("the {what} of a node cannot contain the control character {found:?}")]
    Control {
        /// `site` or `country`.
        what: &'static str,
        /// The first such character.
        found: char,
    },
}

impl Domain {
    /// The domain with these labels, which are trimmed of spaces around them.
    ///
    /// # Errors
    /// When a label is too long or contains control characters.
    pub fn new(owner: Option<OwnerId>, site: &str, country: &str) -> Result<Self, DomainError> {
        Ok(Self { owner, site: label("site", site.trim())?, country: label("country", country.trim())? })
    }
}

fn label(what: &'static str, text: &str) -> Result<String, DomainError> {
    if text.len() > LABEL_BYTES_MAX {
        return Err(DomainError::TooLong { what, found: text.len() });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(found) => Err(DomainError::Control { what, found }),
        None => Ok(text.to_owned()),
    }
}

/// The same fields, unchecked: what a foreign encoding says.
#[derive(Deserialize)]
#[serde(rename = "Domain")]
struct Foreign {
    owner: Option<OwnerId>,
    #[serde(default)]
    site: String,
    #[serde(default)]
    country: String,
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Foreign { owner, site, country } = Foreign::deserialize(deserializer)?;
        let site = label("site", &site).map_err(serde::de::Error::custom)?;
        let country = label("country", &country).map_err(serde::de::Error::custom)?;
        Ok(Self { owner, site, country })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn labels_are_bounded_on_every_way_in() {
        let long = "x".repeat(65);
        assert_eq!(Domain::new(None, &long, ""), Err(DomainError::TooLong { what: "site", found: 65 }));
        assert_eq!(Domain::new(None, "", "a\nb"), Err(DomainError::Control { what: "country", found: '\n' }));
        let domain = Domain::new(Some(OwnerId::from_bytes([1; 32])), " Ghent ", "BE").unwrap();
        assert_eq!((domain.site.as_str(), domain.country.as_str()), ("Ghent", "BE"));

        let json = serde_json::to_string(&domain).unwrap();
        assert_eq!(serde_json::from_str::<Domain>(&json).unwrap(), domain);
        let bytes = postcard::to_stdvec(&domain).unwrap();
        assert_eq!(postcard::from_bytes::<Domain>(&bytes).unwrap(), domain);

        let foreign = Domain { site: long, ..Domain::default() };
        assert!(postcard::from_bytes::<Domain>(&postcard::to_stdvec(&foreign).unwrap()).is_err());
        assert!(serde_json::from_str::<Domain>(&serde_json::to_string(&foreign).unwrap()).is_err());
    }
}
