//! Amphipod's control plane: API server, store, scheduler, controllers and the embedded registry.
pub mod store;
pub mod kinds;
pub mod api;
pub mod auth;
pub mod admission;
pub mod scheduler;
pub mod controllers;
pub mod registry;
pub mod toolkit;
