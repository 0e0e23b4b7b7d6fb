//! Field ownership and server-side apply (KEP-555), by the rules of structured-merge-diff.
//!
//! Pure functions on values and their schemas: which fields an object has ([`fields`]), how two differ ([`compare`]),
//! how a configuration merges into an object ([`merge`]), who owns what ([`Managers`]) and what an update or an apply
//! makes of both ([`update`], [`apply`]). Custom resources take the same way with their own schema. Refuses to know
//! requests, stores and the clock.
mod apply;
mod check;
mod compare;
mod element;
mod fields;
mod first;
mod last_applied;
mod managers;
mod merge;
mod overlay;
mod remove;
mod reset;
mod scale;
mod set;
mod shape;
mod update;

#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

pub use apply::{ApplyError, Conflict, apply, fits};
pub use first::first;
pub use managers::{Manager, Operation, same_but_times};
pub use overlay::overlay;
pub use scale::{Rescaling, conflicts as scale_conflicts, given_up as scale_given_up, rescaled};
pub use update::{Writer, update};

use super::Kind;
use serde_json::Value;
use std::sync::Arc;

/// An object as another version of its kind shows it; none when that version is not served any more.
pub type Convert<'c> = dyn Fn(&Value, &str) -> Option<(Arc<Kind>, Value)> + Send + Sync + 'c;
