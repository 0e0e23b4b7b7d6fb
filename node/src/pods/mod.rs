//! Pods on this node: one worker each, a pure plan, a thin executor. Owns what a Pod's life is; refuses
//! to know how a container is run (shims), how images are stored, how packets flow.

pub mod admission;
pub mod allocations;
pub mod backoff;
mod cgroup;
pub mod conditions;
pub mod context;
mod devices;
mod drivers;
pub mod eviction;
mod failure;
pub mod handler;
mod health;
mod hooks;
mod image_volumes;
mod launch;
pub mod manager;
mod memory;
mod mirror;
mod mounting;
pub mod observed;
pub mod plan;
mod pull;
pub mod qos;
pub mod record;
mod refresh;
mod reporter;
pub mod resize;
mod resolver;
mod sandbox;
mod start;
pub mod status;
pub mod table;
mod tasks;
mod termination;
pub mod view;
mod worker;
