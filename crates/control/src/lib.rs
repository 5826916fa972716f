//! The control API: what the command line, and any other program of the same user, says to the running node.
//!
//! It is HTTP/1.1 with JSON over the Unix socket `<data-dir>/control.sock` (mode 0600, so the file system decides who may
//! speak). This crate holds the request and answer types and a typed [`Client`]; the server is in `atoll-node`. It is not
//! the Kubernetes API and not meant for the network.
//!
//! Long work (storing or fetching a tree, healing) answers with a stream of [`Event`]s, one JSON object a line, that ends
//! with [`Event::Done`] or [`Event::Failed`]; a connection that closes before either means the node went away. Closing it
//! from the client's side cancels the work.

mod bus;
mod client;
mod cloud;
mod deploy;
mod error;
mod fs;
mod names;
mod net;
mod node;
mod proxy;
mod rules;
mod store;

pub use bus::{
    AckRequest, Base64, BusEvent, BusMessages, ReceiveRequest, ReceivedMessage, ReplyRequest, SendReport, SendRequest,
    SentMessage,
};
pub use client::{Body, BusEvents, Client, ClientError, Events, Upload};
pub use cloud::{
    Amount, EvdcRequest, EvdcStatus, GatewayRequest, GatewayRoute, GatewayStatus, ImageStatus, Kubeconfig, LoadRequest,
    MemberStatus, OfferStatus,
};
pub use deploy::{
    AppAsk, AppNeeds, AppObject, AppStatus, CatalogueApp, InstallRequest, PodStatus, RemovedApp, RollbackRequest,
    SampleRequest, StackDrift, StackFile, StackPlan, StackRequest, StackSummary, UninstallRequest,
};
pub use error::{ApiError, Kind};
pub use fs::{AwayNode, FsMountRequest, FsMounted, FsRemoved, FsRequest, FsStatus, HealingStatus, VolumeStatus};
pub use names::{NameRequest, NameStatus, NamedNode, NamesStatus, OwnerName, ResolvedName};
pub use net::{
    DroppedPackets, FastStatus, InterfaceStatus, NeighbourStatus, NetFound, NetPath, NetPaths, NetPeer, NetRoute,
    NetStatus,
};
pub use node::{
    ConfigEntry, InviteRequest, Invited, JoinRequest, Joined, NodeStatus, PeerStatus, RoleStatus, StorageStatus,
};
pub use proxy::{ProxyCounts, ProxyRequest, ProxyStatus};
pub use rules::{AllowRequest, CheckAnswer, CheckRequest, CheckSide, DenyRequest, LookedAt, NetRule};
pub use store::{
    BucketInfo, BucketRequest, Event, GetRequest, HealRequest, HealSummary, Listing, ObjectInfo, ObjectKind,
    PutRequest, RemoveRequest, Source, Summary, TransferSummary, Usage,
};

/// Version of the API, the first segment of every path.
pub const API_VERSION: &str = "v1";

/// Name of the socket below the data directory.
pub const SOCKET_NAME: &str = "control.sock";
