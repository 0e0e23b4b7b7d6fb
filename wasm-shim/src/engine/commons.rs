//! What the containers of one Pod have in common: memory and CPU time that all of them draw on, each beside its own.
//!
//! Owns who shares with whom, and the memory. Refuses to know guests: whoever asks for more memory than there is gets none,
//! as in a cgroup around its container's. Only containers of one process share.

use super::meter::{Quota, Throttle};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// What a Pod may use as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes.
    pub memory: Option<u64>,
    pub quota: Option<Quota>,
}

/// What the containers of one Pod have together.
#[derive(Default)]
pub struct Common {
    pub memory: Arc<Pool>,
    pub time: Arc<Throttle>,
}

impl Common {
    /// Bounds the Pod anew. Its guests run on.
    ///
    /// # Errors
    /// The bytes in use, when they are more than it may have; then the limit of memory stays, and only that.
    pub fn bound(&self, bounds: Bounds) -> Result<(), u64> {
        self.time.hold_to(bounds.quota);
        self.memory.resize(bounds.memory.unwrap_or(u64::MAX))
    }
}

/// Those of all Pods that have containers here.
#[derive(Default)]
pub struct Commons(Mutex<HashMap<String, Weak<Common>>>);

impl Commons {
    /// What the Pod's containers share, for as long as one of them holds it. A container of no Pod shares with nobody.
    pub fn of(&self, pod: Option<&str>) -> Arc<Common> {
        let Some(pod) = pod else {
            return Arc::default();
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(pod).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, common| common.strong_count() > 0);
        let new = Arc::default();
        all.insert(pod.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[derive(Debug)]
struct Total {
    /// `u64::MAX` for none.
    limit: u64,
    used: u64,
}

/// Somebody who holds memory that may be of use later, and does without it when another needs it.
pub trait Spare: Send + Sync {
    /// Gives back what is not in use. To be called without a lock of whoever counts that.
    fn let_go(&self);
}

/// Memory that the budgets of a Pod's containers draw on together, in bytes.
pub struct Pool {
    total: Mutex<Total>,
    spares: Mutex<Vec<Weak<dyn Spare>>>,
    /// Told when one of them gets something back.
    pub freed: Notify,
}

impl Default for Pool {
    fn default() -> Self {
        let total = Total {
            limit: u64::MAX,
            used: 0,
        };
        Self {
            total: Mutex::new(total),
            spares: Mutex::default(),
            freed: Notify::new(),
        }
    }
}

/// More was asked for than a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    pub used: u64,
    pub limit: u64,
}

impl Pool {
    fn total(&self) -> MutexGuard<'_, Total> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit; `u64::MAX` for none.
    pub fn limit(&self) -> u64 {
        self.total().limit
    }

    /// What nobody uses.
    pub fn left(&self) -> u64 {
        let total = self.total();
        total.limit.saturating_sub(total.used)
    }

    /// Takes so much out.
    ///
    /// # Errors
    /// When there is less.
    pub fn take(&self, bytes: u64) -> Result<(), Short> {
        let mut total = self.total();
        let short = Short {
            used: total.used,
            limit: total.limit,
        };
        let taken = total.used.checked_add(bytes).filter(|used| *used <= total.limit);
        total.used = taken.ok_or(short)?;
        Ok(())
    }

    /// Takes back what was taken out.
    pub fn give_back(&self, bytes: u64) {
        self.total().used -= bytes;
        self.freed.notify_waiters();
    }

    /// Has somebody asked, when memory is short, for what he can do without.
    pub fn add_spare(&self, spare: Weak<dyn Spare>) {
        let mut spares = self.spares();
        spares.retain(|spare| spare.strong_count() > 0);
        spares.push(spare);
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Weak<dyn Spare>>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one after the other let go, until there are so many bytes.
    pub fn make_room(&self, bytes: u64) {
        if self.left() >= bytes {
            return;
        }
        let spares: Vec<_> = self.spares().iter().filter_map(Weak::upgrade).collect();
        for spare in spares {
            spare.let_go();
            if self.left() >= bytes {
                break;
            }
        }
    }

    fn resize(&self, limit: u64) -> Result<(), u64> {
        let mut total = self.total();
        if total.used > limit {
            return Err(total.used);
        }
        total.limit = limit;
        drop(total);
        self.freed.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn bounds(memory: Option<u64>) -> Bounds {
        Bounds {
            memory,
            ..Bounds::default()
        }
    }

    #[test]
    fn those_of_a_pod_share_while_there_are_any() {
        let all = Commons::default();
        let one = all.of(Some("a"));
        one.bound(bounds(Some(8))).unwrap();
        assert!(Arc::ptr_eq(&one, &all.of(Some("a"))));
        assert!(!Arc::ptr_eq(&one, &all.of(Some("b"))));
        assert!(!Arc::ptr_eq(&all.of(None), &all.of(None)));
        drop(one);
        assert_eq!(
            all.of(Some("a")).memory.limit(),
            u64::MAX,
            "another Pod of that name"
        );
        assert_eq!(all.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_pool_holds_what_it_has() {
        let common = Common::default();
        let pool = &common.memory;
        pool.take(u64::MAX).unwrap();
        pool.give_back(u64::MAX);
        common.bound(bounds(Some(8))).unwrap();
        pool.take(6).unwrap();
        assert_eq!(pool.take(3), Err(Short { used: 6, limit: 8 }));
        assert_eq!(pool.left(), 2);
        assert_eq!(common.bound(bounds(Some(5))), Err(6));
        assert_eq!(pool.limit(), 8);
        common.bound(bounds(Some(9))).unwrap();
        pool.take(3).unwrap();
        common.bound(bounds(None)).unwrap();
        pool.take(100).unwrap();
    }

    #[test]
    fn the_time_is_bounded_whatever_becomes_of_the_memory() {
        let common = Common::default();
        common.memory.take(6).unwrap();
        let quota = Quota {
            time: Duration::from_millis(10),
            period: Duration::from_millis(100),
        };
        let refused = common.bound(Bounds {
            memory: Some(5),
            quota: Some(quota),
        });
        assert_eq!(refused, Err(6));
        common.time.charge(Duration::from_millis(10));
        assert!(common.time.debt(tokio::time::Instant::now()).is_some());
    }
}
