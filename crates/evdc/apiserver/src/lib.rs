//! A Kubernetes API server as a library: kinds as data over generic storage, watch, patch, discovery, sign-in and RBAC.
//!
//! [`ApiServer::open`] takes a key-value store with a history ([`atoll_kv::Watch`]) and a folder for keys. It listens on nothing: whoever has a byte stream to
//! a client hands it to [`ApiServer::serve`], which speaks TLS and HTTP/1.1 or 2 on it; a client in the same process uses
//! [`ApiServer::local_service`]. It acts on no object by itself: controllers, scheduler and agents are clients.
//!
//! **Invariants.**
//! - What was answered as written is durable, and every watch tells of it, in order and once.
//! - An object is only replaced as the version it was read in; a write that lost a race is done anew or refused with a conflict.
//! - Every request passes RBAC, or is of a node and for what its pods need; also those of clients in this process.
//! - Limits hold for bodies, requests, watches and streams; none of them queues without end.
//!
//! **Not there**, and refused with a `Status` that says so: conversion webhooks, CEL rules (accepted with a warning), admission webhooks, impersonation, and
//! every kind that is not in `kinds/builtin.rs`; of NetworkPolicies SCTP, more than a thousand of them, and one of more than a thousand parts.

mod addresses;
mod auth;
mod body;
mod convert;
mod defaults;
mod discovery;
mod error;
mod kinds;
mod local;
mod object;
mod openapi;
mod path;
mod printers;
pub mod protobuf;
mod proxy;
mod respond;
mod schema;
mod selector;
mod serve;
mod server;
mod store;
mod sub;
mod validate;
mod verbs;

pub use auth::{
    MASTERS, User,
    ca::{CaError, ClientCertificate},
};
pub use error::{ApiError, Cause};
pub use local::LocalService;
pub use proxy::{NodeProxy, NodeStream};
pub use respond::ResponseBody;
pub use serve::ServeError;
pub use server::{ApiServer, Config, OpenError};
