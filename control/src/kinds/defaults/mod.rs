//! Defaulting: what the API server fills in when a client left it out, before admission and validation.
//!
//! One module per family of kinds; each function is idempotent and changes nothing that was set.
pub(super) mod apps;
pub(super) mod batch;
pub(super) mod cluster;
pub(super) mod network;
pub(super) mod objects;
pub(super) mod pod;
pub(super) mod rbac;
mod resources;
pub(super) mod scaling;
pub(super) mod storage;
mod volumes;
pub(super) mod webhooks;
