//! Numbers of what has a name that somebody of the cluster gave, such as a webhook.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

/// Names and what goes with them, of which numbers are kept apart. No cluster comes near it that does not make and delete such
/// objects all the time, and names are not forgotten.
const MOST: usize = 10_000;

/// Numbers by name; there are none of a name before it is asked for, and none of further ones when there are very many.
#[derive(Debug)]
pub struct Named<K, N>(RwLock<BTreeMap<K, Arc<N>>>);

impl<K, N> Default for Named<K, N> {
    fn default() -> Self {
        Named(RwLock::default())
    }
}

impl<K: Ord + Clone + Debug, N: Default> Named<K, N> {
    /// The numbers of a name. That there are no further ones is logged once.
    pub fn of(&self, name: K) -> Option<Arc<N>> {
        let known = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name)
            .cloned();
        known.or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MOST {
                return all.get(&name).cloned();
            }
            let count = all.len() + 1;
            if count == MOST && !all.contains_key(&name) {
                tracing::warn!(count, last = ?name, "so many names are counted by; new ones are not any more");
            }
            Some(all.entry(name).or_default().clone())
        })
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(K, Arc<N>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|(name, numbers)| (name.clone(), numbers.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn names_are_kept_apart_until_there_are_too_many() {
        let named: Named<usize, AtomicU64> = Named::default();
        for name in 0..=MOST {
            if let Some(count) = named.of(name) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let again = named.of(0).expect("known");
        assert_eq!(again.fetch_add(1, Ordering::Relaxed), 1);
        assert_eq!(named.all().len(), MOST);
    }
}
