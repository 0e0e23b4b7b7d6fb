//! The registry as it is now: replaced whole when CustomResourceDefinitions change, never changed in place.
use std::sync::{Arc, PoisonError, RwLock};

use super::registry::Registry;

/// A registry that can be swapped under its readers; each keeps the one it began with.
#[derive(Debug)]
pub struct Live(RwLock<Arc<Registry>>);

impl Live {
    pub fn new(registry: Arc<Registry>) -> Self {
        Live(RwLock::new(registry))
    }

    /// The kinds served now.
    pub fn load(&self) -> Arc<Registry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn store(&self, registry: Arc<Registry>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = registry;
    }
}
