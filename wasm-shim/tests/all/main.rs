//! The shim as the node agent drives it: the real binary, the Task API over its socket, real Wasm programs.
//!
//! Needs root (network namespaces, `/run/amphipod`); without it every test says so and passes.

mod attach;
mod blobstore;
mod bodiless;
mod commands;
mod containerd;
mod debug;
mod exec;
mod files;
mod generated;
mod hostile;
mod http;
mod idle;
mod instances;
mod keyvalue;
mod limits;
mod names;
mod netns;
mod network;
mod pods;
mod sandbox;
mod shim;
mod shortage;
mod takeover;
mod terminal;
mod testsuite;
mod trees;
