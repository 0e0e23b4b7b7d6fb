//! Remembers creations and deletions that the cache does not show yet, so that nobody acts twice on one shortage.
//!
//! As upstream's `ControllerExpectations`: an owner is not acted upon until everything asked for was seen or five
//! minutes passed.
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::toolkit::ObjectKey;
use crate::toolkit::lock::lock;

/// After this a missing observation is taken for lost.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

#[derive(Default)]
pub struct Expectations(Mutex<HashMap<ObjectKey, Expected>>);

struct Expected {
    creations: usize,
    /// uids
    deletions: HashSet<String>,
    since: Instant,
}

impl Expected {
    fn fulfilled(&self) -> bool {
        self.creations == 0 && self.deletions.is_empty()
    }
}

impl Expectations {
    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        self.expect(
            owner,
            Expected {
                creations: count,
                deletions: HashSet::new(),
                since: Instant::now(),
            },
        );
    }

    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        let deletions = uids.into_iter().collect();
        self.expect(
            owner,
            Expected {
                creations: 0,
                deletions,
                since: Instant::now(),
            },
        );
    }

    fn expect(&self, owner: &ObjectKey, expected: Expected) {
        lock(&self.0).insert(owner.clone(), expected);
    }

    /// A creation was seen, or will never happen.
    pub fn creation_observed(&self, owner: &ObjectKey) {
        if let Some(expected) = lock(&self.0).get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(1);
        }
    }

    /// A deletion was seen, or will never happen.
    pub fn deletion_observed(&self, owner: &ObjectKey, uid: &str) {
        if let Some(expected) = lock(&self.0).get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether the cache can be trusted for this owner.
    pub fn satisfied(&self, owner: &ObjectKey) -> bool {
        self.satisfied_at(owner, Instant::now())
    }

    fn satisfied_at(&self, owner: &ObjectKey, now: Instant) -> bool {
        lock(&self.0)
            .get(owner)
            .is_none_or(|expected| expected.fulfilled() || now.duration_since(expected.since) > TIMEOUT)
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        lock(&self.0).remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_waits_until_everything_was_seen() {
        let (expectations, owner) = (Expectations::default(), ObjectKey::new("n", "rs"));
        assert!(expectations.satisfied(&owner));
        expectations.expect_creations(&owner, 2);
        expectations.creation_observed(&owner);
        assert!(!expectations.satisfied(&owner));
        expectations.creation_observed(&owner);
        assert!(expectations.satisfied(&owner));
        expectations.expect_deletions(&owner, ["u".to_owned()]);
        expectations.deletion_observed(&owner, "other");
        assert!(!expectations.satisfied(&owner));
        expectations.deletion_observed(&owner, "u");
        assert!(expectations.satisfied(&owner));
    }

    #[test]
    fn a_lost_observation_times_out() {
        let (expectations, owner) = (Expectations::default(), ObjectKey::new("n", "rs"));
        expectations.expect_creations(&owner, 1);
        let now = Instant::now();
        assert!(!expectations.satisfied_at(&owner, now));
        assert!(expectations.satisfied_at(&owner, now + TIMEOUT + Duration::from_secs(1)));
    }
}
