//! Defaulting: what the API server fills in when a client left it out, before admission and validation.
//!
//! One module per family of kinds; each function is idempotent and changes nothing that was set.
pub(super) mod apps;
pub(super) mod network;
pub(super) mod objects;
pub(super) mod pod;
pub(super) mod rbac;
mod resources;
mod volumes;
