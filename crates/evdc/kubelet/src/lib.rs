//! What kubectl asks of a node: logs, commands in containers, ports of pods.
//!
//! The API server passes such a request on to the node of the pod as it came; here it is answered, at the paths of Kubernetes' kubelet, on one byte
//! stream: [`Kubelet::serve`]. What pods are is behind [`Pods`].
//!
//! | request | spoken |
//! |---|---|
//! | `/containerLogs/NAMESPACE/POD/CONTAINER` | plain HTTP |
//! | `/exec/NAMESPACE/POD/CONTAINER` | WebSocket (`v5.channel.k8s.io`, `v4`), SPDY/3.1 (`v4.channel.k8s.io`) |
//! | `/portForward/NAMESPACE/POD` | SPDY/3.1 (`portforward.k8s.io`), bare or within a WebSocket (`SPDY/3.1+portforward.k8s.io`) |
//!
//! kubectl from 1.31 on speaks WebSocket, older ones SPDY alone. `attach` is refused: a container's first process has no input.
//!
//! # Invariants
//! - **Who may ask is not asked here**: whoever opens the stream to [`Kubelet::serve`] has made sure.
//! - **Bounded**: streams of one session, bytes of a message, of headers after inflating, and requests at once have limits; a reader that is slow makes
//!   its writer wait.
//! - **A client that is gone takes its command with it**: dropping what [`Pods::exec`] returned ends the process.
//!
//! # How it fails
//! Before a protocol is changed, by a `Status` object as the API server's own; after that a command's failure is told on its error channel, and whatever
//! breaks the protocol ends the session.

mod command;
mod forward;
mod pods;
mod query;
mod serve;
pub mod spdy;
mod status;
mod upgrade;
mod websocket;

pub use pods::{Command, CommandIo, Input, LogWish, Output, Pods, Refusal, Size};
pub use serve::{Kubelet, ServeError};
