//! What is made of an object once, and again when the object has changed.
use crate::kinds::view::View;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Objects remembered; all are forgotten when there are more, so that those which are gone do not stay for ever.
const REMEMBERED: usize = 4096;

/// By uid: the version that was looked at, and what was made of it.
#[derive(Debug)]
pub(super) struct PerVersion<T>(Mutex<HashMap<String, (String, Arc<T>)>>);

impl<T> Default for PerVersion<T> {
    fn default() -> Self {
        PerVersion(Mutex::default())
    }
}

impl<T> PerVersion<T> {
    pub fn get(&self, object: &Value, make: impl FnOnce() -> T) -> Arc<T> {
        let version = object.text("metadata.resourceVersion");
        let uid = object.text("metadata.uid");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = known.get(uid).filter(|(v, _)| *v == version) {
            return made.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let made = Arc::new(make());
        known.insert(uid.to_owned(), (version.to_owned(), made.clone()));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn made_once_per_version() {
        let made = PerVersion::default();
        let object = |version: &str| json!({"metadata": {"uid": "u", "resourceVersion": version}});
        assert_eq!(*made.get(&object("1"), || 1), 1);
        assert_eq!(*made.get(&object("1"), || 2), 1);
        assert_eq!(*made.get(&object("2"), || 3), 3);
    }
}
