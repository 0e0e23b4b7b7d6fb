//! Amphipod's control plane: API server, store, scheduler, controllers and the embedded registry.
pub mod admission;
pub mod api;
pub mod audit;
pub mod auth;
mod bootstrap;
mod callout;
pub mod cel;
pub mod controllers;
mod facts;
pub mod kinds;
mod measures;
mod plane;
pub mod registry;
mod resource_metrics;
pub mod scheduler;
pub mod store;
pub mod toolkit;
mod uri;

pub use plane::{ControlOptions, ControlPlane, RegistryOptions, StartError};
