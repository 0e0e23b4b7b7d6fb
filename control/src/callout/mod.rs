//! Requests to servers that objects of the cluster name: webhooks, converters of custom resources, extension servers.
//!
//! Where they are (`place`), whom to trust there (`tls`), on whose behalf we come (`requestheader`), one request (`send`),
//! and one bounded exchange (`post`). Refuses to know what
//! is said.
mod convert;
mod place;
mod post;
pub mod requestheader;
mod send;
mod tls;

pub use convert::convert;
pub use place::Place;
pub use post::{Exchange, Failed, post};
pub use send::send;
pub use tls::{Trust, config};
