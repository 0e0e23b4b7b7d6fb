//! Amphipod's node agent: the kubelet's and the service proxy's role in one library.
//!
//! Owns: Pods on this host from their API objects to running tasks, and back. An ordinary client of the
//! Kubernetes API; refuses to know the control plane it talks to and how shims run containers.

pub mod agent;
mod api_error;
pub mod bundle;
mod client;
pub mod csi;
pub mod dns;
pub mod down;
pub mod env;
pub mod events;
pub mod exec;
mod files;
mod garbage;
mod grpc_codes;
pub mod host;
pub mod hugepages;
pub mod images;
mod layout;
mod metrics;
mod mounts;
mod narrowing;
pub mod network;
pub mod options;
pub mod pods;
pub mod policy;
pub mod pressure;
pub mod probes;
pub mod quantity;
mod reflect;
pub mod registration;
mod removal;
pub mod server;
pub mod shutdown;
pub mod static_pods;
mod steady;
mod sys;
mod unseen;
pub mod users;
pub mod volumes;
mod walk;

pub use agent::{Node, StartError, check_ranges};
pub use client::{Renewal, client};
pub use down::{DownError, DownOptions, down};
pub use layout::{Layout, LayoutError};
pub use options::{DEFAULT_MAX_PODS, NodeOptions, NodeTls, PidsLimit, TlsPair};
pub use server::Serving;
