//! The table of kinds and everything pure that is known about them: schemas, decoding, defaults, what create and
//! update may change, validation, strategic merge, table rows, field labels and OpenAPI.
//!
//! Works on `serde_json::Value` and owns no state beyond the embedded table. Refuses to know HTTP, the store, clocks
//! and who asks. The order of a write: [`Kind::prune`] → [`Kind::default`] → admission → [`Kind::prepare_create`] or
//! [`Kind::prepare_update`] → [`Kind::validate_create`] or [`Kind::validate_update`] → [`Kind::normalise`] → store.
pub(crate) mod address;
pub mod api_service;
mod app_armor;
mod autoscaling;
pub mod bounded;
pub mod conduct;
mod cron;
pub mod custom;
mod decode;
mod defaults;
pub mod device_usage;
mod domain_path;
pub mod error;
pub mod event;
pub mod formats;
mod gated;
mod image;
mod indexed;
mod kind;
pub mod labels;
mod live;
pub mod managed;
mod meta;
pub mod names;
pub mod numbers;
pub mod openapi;
pub mod policy;
pub mod posted;
mod prepare;
pub mod printed;
pub mod protobuf;
pub mod quantity;
mod quick;
pub mod regexes;
mod registry;
pub mod resources;
pub mod reviews;
mod rows;
mod rules;
pub mod scale;
pub mod schema;
mod selectable;
mod strategic;
mod table;
pub mod time;
pub mod usage;
mod validate;
pub mod version_order;
pub mod view;
mod warn;
mod wire;

pub use decode::decode;
pub use domain_path::domain_path;
pub use error::{DecodeError, ErrorKind, FieldError, FieldErrors, FieldIssue, join, quote};
pub use kind::{Column, Kind, Subresource};
pub use live::Live;
pub use meta::mark_deleted;
pub use registry::Registry;
pub(crate) use rows::RESOURCE_METRICS;
pub use strategic::PatchError;
pub use validate::pod_update::binding as validate_binding;
pub use validate::service_addresses::validate as service_addresses;

#[cfg(test)]
mod judged_tests;
#[cfg(test)]
mod upstream_tests;
