//! Amphipod's control plane: API server, store, scheduler, controllers and the embedded registry.
pub mod admission;
pub mod api;
pub mod auth;
pub mod controllers;
pub mod kinds;
pub mod registry;
pub mod scheduler;
pub mod store;
pub mod toolkit;
