//! End-to-end tests: the real binary on a temporary data directory, driven as a user drives it.
//!
//! Each test has a cluster of its own (data dir, ports, address ranges), so they run in parallel; a cluster is taken
//! down when its guard is dropped, also by a panic. They need root and say so when they do not have it.

mod autoscaling;
mod bad_input;
mod changing;
mod classes;
mod clients;
mod cluster;
mod containers;
mod csi;
mod faults;
mod kubectl;
mod lifecycle;
mod lying_registry;
mod node_agent;
mod places;
mod policies;
mod processes;
mod ranges;
mod restarts;
mod shared;
#[cfg(all(target_arch = "x86_64", target_env = "gnu", target_feature = "crt-static"))]
mod small_program;
mod streams;
mod users;
mod volumes;
mod wasm_images;
mod workloads;
