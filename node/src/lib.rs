//! Amphipod's node agent: the kubelet's and the service proxy's role in one library.
//!
//! Owns: Pods on this host from their API objects to running tasks, and back. An ordinary client of the
//! Kubernetes API; refuses to know the control plane it talks to and how shims run containers.

pub mod images;
pub mod network;
pub mod options;
pub mod pods;
pub mod probes;
pub mod quantity;
pub mod server;
pub mod volumes;

pub use options::{DEFAULT_MAX_PODS, NodeOptions, NodeTls};
