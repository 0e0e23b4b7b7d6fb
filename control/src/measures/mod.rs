//! Numbers that parts of this program keep about what they do, and Prometheus' text format, in which they are told.
//!
//! Refuses to know what is counted, and HTTP. What is on the way of every request is counted in atomics that are there already.
mod exposition;
mod histogram;
mod named;

pub use exposition::Exposition;
pub use histogram::{Histogram, Scale};
pub use named::Named;

/// Labels of a sample.
pub type Labels = Vec<(&'static str, String)>;
