//! By which right users acted as others last: most do by one for all they do. Its refusal is the one that is told, and whom
//! an allowed request counts as follows from it (upstream's `modeIndexCache`).
use super::mode::Mode;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

/// Users that are remembered, as upstream. When there are more, all are forgotten.
const USERS: usize = 10_000;

/// A right to some requests, or to whatever.
type Way = Option<Mode>;

/// By the hash of the user's name, so that long names take no more room.
#[derive(Debug, Default)]
pub struct Ways {
    hasher: RandomState,
    last: Mutex<HashMap<u64, Way>>,
}

impl Ways {
    pub(super) fn last(&self, user: &str) -> Option<Way> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&self.hasher.hash_one(user)).copied()
    }

    pub(super) fn worked(&self, user: &str, way: Way) {
        let key = self.hasher.hash_one(user);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= USERS && !last.contains_key(&key) {
            last.clear();
        }
        last.insert(key, way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_remembered_until_there_are_too_many() {
        let ways = Ways::default();
        assert_eq!(ways.last("ann"), None);
        ways.worked("ann", None);
        ways.worked("bob", Some(Mode::UserInfo));
        ways.worked("bob", Some(Mode::ServiceAccount));
        assert_eq!(ways.last("ann"), Some(None));
        assert_eq!(ways.last("bob"), Some(Some(Mode::ServiceAccount)));
        (0..USERS).for_each(|i| ways.worked(&i.to_string(), None));
        assert_eq!(ways.last("bob"), None);
        assert!(ways.last.lock().expect("not poisoned").len() <= USERS);
    }
}
