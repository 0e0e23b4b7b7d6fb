//! The contract between the node agent and its shims, used by both sides.
//!
//! Owns: how a shim is started and found again, the Task API client and server glue, which containers a
//! shim has and when it may go, bundle annotations,
//! the stdio addresses and the CRI log format, what is left in a bundle of its container's end, cgroup paths and
//! systemd as their manager, terminals, what a Pod's network is narrowed to, how hosts give ids to users and what one without root makes do with, how a resolver is asked,
//! the mapping of errors to ttrpc codes, files that are there whole or not at all, and what containerd is told of all that.
//! Refuses to know: Pods, and how any runtime runs a container.

pub mod annotations;
pub mod attach;
pub mod cgroup;
pub mod client;
pub mod clients;
pub mod compiler;
pub mod error;
pub mod events;
pub mod files;
pub mod last_words;
pub mod mountinfo;
pub mod network;
pub mod oom;
pub mod program;
pub mod resolver;
pub mod service;
pub mod serving;
pub mod standing;
pub mod start;
pub mod stats;
pub mod stdio;
pub mod subordinate_ids;
pub mod systemd;
pub mod table;
pub mod terminal;
pub mod watchers;

pub use client::{CreateTask, Exit, Process, RootfsMount, TaskClient, TaskState, TaskStatus};
pub use clients::TaskClients;
pub use error::TaskError;
pub use standing::Standing;
pub use start::{ShimAddress, ShimCommand};
pub use stats::{DeviceIo, TaskStats};
pub use table::Table;

/// The Task API's wire types, so that shims need not name the protocol crate's layout.
pub mod api {
    pub use containerd_shim_protos::api::*;
    pub use containerd_shim_protos::events::task::TaskCreate;
    pub use containerd_shim_protos::protobuf;
    pub use containerd_shim_protos::shim::oci::{Options as RuncOptions, ProcessDetails};
    pub use containerd_shim_protos::shim_async::Task;
    pub use ttrpc::Result as TtrpcResult;
    pub use ttrpc::r#async::TtrpcContext;
}
