//! Amphipod's node agent.
pub mod pods;
pub mod images;
pub mod network;
pub mod probes;
pub mod server;
pub mod volumes;
