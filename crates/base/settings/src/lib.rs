//! Settings in layers: default < file < environment < flag. Each effective value knows where it came from, and each mistake is
//! reported with its place, what is expected there, and the nearest right name.
//!
//! Whoever uses settings owns the list of them, as a static table of [`Key`]s; this crate knows none. It reads nothing itself
//! either: text of the file, variables and flags are handed in as [`Sources`]. So it can be tested without touching the process.
//!
//! One name has three forms: `storage.capacity` is the key `capacity` of the section `[storage]` in the TOML file,
//! `ATOLL_STORAGE_CAPACITY` in the environment, and whatever flag the command line gives it.
//!
//! What is not understood is refused, never skipped: a misspelt key that is silently ignored is a setting that is silently not
//! set. All mistakes are reported at once.
//!
//! ```
//! use atoll_ids::ByteCount;
//! use atoll_settings::{Key, Kind, Settings, Sources};
//!
//! const KEYS: &[Key] = &[Key {
//!     name: "storage.capacity",
//!     kind: Kind::ByteCount,
//!     default: Some("10 GiB"),
//!     doc: "How much of the disk other owners may use.",
//!     flag: Some("--capacity"),
//! }];
//!
//! let sources = Sources::new().environment([("ATOLL_STORAGE_CAPACITY", "2T")]);
//! let settings = Settings::load(KEYS, &sources)?;
//! assert_eq!(settings.get::<ByteCount>("storage.capacity"), ByteCount(2 << 40));
//!
//! let sources = Sources::new().file("atoll.toml", "[storage]\ncapacitty = '2T'");
//! let error = Settings::load(KEYS, &sources).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "atoll.toml:2: there is no setting `storage.capacitty`; did you mean `storage.capacity`?"
//! );
//! # Ok::<(), atoll_settings::SettingsError>(())
//! ```

mod file;
mod kind;
mod problem;
mod settings;
mod value;

pub use kind::Kind;
pub use problem::{Origin, Problem, SettingsError};
pub use settings::{Entry, FILE_BYTES_MAX, Key, Settings, Sources};
pub use value::{FromValue, Value};
