//! The dashboard: pages of the running node, rendered on the server, kept up to date while they are open. No build step, nothing loaded from elsewhere.
//!
//! Read only, and on loopback only: whoever has an account on this machine can look. A page of a foreign site cannot: requests must name a loopback
//! host (against DNS rebinding), and nothing is answered to other origins.
//!
//! Each page is a function from a [`Snapshot`] to HTML. While it is open, the browser holds an event stream (`/live/<page>`) over which the changed main
//! part comes; without scripts the page is whole, only still.

mod map;
mod pages;
mod server;
mod snapshot;

pub use pages::Page;
pub use server::{ServeError, serve};
pub use snapshot::{Snapshot, Source, Workloads};
