//! NetworkPolicies (networking.k8s.io/v1): whom a Pod may meet by the policies that select it.
//!
//! - `peer`: a Pod as policies see it
//! - `evaluate`: policies, once for all Pods they select, and what they come to for one
//! - `services`: the same where Services are in between
//! - `judge`: all of it for one Pod, once it is known
//!
//! Pure. Owns what policies mean. Refuses to know where objects come from, shims, and who makes Pods keep to it.

pub mod evaluate;
pub mod judge;
pub mod peer;
pub mod services;

pub use evaluate::{Cluster, Policy};
pub use judge::Judge;
pub use peer::Peer;
pub use services::Fronts;
