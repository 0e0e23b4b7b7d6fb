//! One memory budget per container, over the linear memories, tables, instances, handles and host buffers of all its
//! stores.
//!
//! Owns counting and refusing. Refuses to know what happens to a container over its budget: it remembers that it
//! happened, the container's task ends it as `OOMKilled`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use wasmtime::{ResourceLimiter, Result};

/// What one instance costs beside its memories, tables and handles: VM context, WASI context, the stack pages it has
/// touched, and the buffers between it and its client and log, which have bounds of their own.
pub const INSTANCE_BYTES: u64 = 128 << 10;

/// What one handle costs: an entry of the resource table and the host object behind it, in the mean.
pub const HANDLE_BYTES: u64 = 512;

/// What one table element costs: a pointer.
pub const TABLE_ELEMENT_BYTES: u64 = 8;

/// Instances, memories and tables in one store: a component nests modules, each with its own.
const MAX_PER_STORE: usize = 1_000;

/// The error a guest is ended with when it asks for more than the budget has.
#[derive(Debug, thiserror::Error)]
#[error(
    "out of memory: {wanted} more bytes would exceed the container's limit of {limit} bytes ({used} in use)"
)]
pub struct OverBudget {
    pub wanted: u64,
    pub used: u64,
    pub limit: u64,
}

impl OverBudget {
    /// Whether it would fit once others have given back what they hold.
    pub fn may_fit_later(&self) -> bool {
        self.used > 0 && self.wanted <= self.limit
    }
}

/// The budget of one container.
pub struct Budget {
    /// Bytes; `u64::MAX` for none.
    limit: u64,
    used: AtomicU64,
    exceeded: AtomicBool,
    freed: Notify,
}

impl Budget {
    /// A budget of `limit` bytes, or one that only counts.
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.unwrap_or(u64::MAX),
            used: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            freed: Notify::new(),
        })
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        (self.limit != u64::MAX).then_some(self.limit)
    }

    /// Whether a guest ever asked for more than there was.
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: u64) -> std::result::Result<(), OverBudget> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit)
            });
        taken.map(drop).map_err(|used| OverBudget {
            wanted: bytes,
            used,
            limit: self.limit,
        })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Takes the share of a new store. The first `prepaid` bytes that the store allocates are covered by it.
    ///
    /// # Errors
    /// When the budget cannot hold it at all: that is a container which does not fit its own limit.
    pub fn open(self: &Arc<Self>, prepaid: u64) -> std::result::Result<Limiter, OverBudget> {
        let bytes = prepaid.saturating_add(INSTANCE_BYTES);
        self.try_take(bytes)?;
        Ok(Limiter {
            budget: Arc::clone(self),
            held: bytes,
            prepaid,
            last: 0,
            handles: 0,
        })
    }

    /// Completes when bytes are given back after this call.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Wakes who waits for [`Budget::freed`]: an instance, with all it holds, became idle.
    pub fn nudge(&self) {
        self.freed.notify_waiters();
    }
}

/// Counts one store against its container's budget, and gives everything back when dropped.
pub struct Limiter {
    budget: Arc<Budget>,
    held: u64,
    prepaid: u64,
    last: u64,
    handles: u64,
}

impl Limiter {
    /// The limit of the container in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.budget.limit()
    }

    /// Counts the handles a store holds now; to be called as often as its guest is looked at.
    ///
    /// # Errors
    /// When the budget cannot hold them.
    pub fn count_handles(&mut self, handles: usize) -> std::result::Result<(), OverBudget> {
        let bytes = (handles as u64).saturating_mul(HANDLE_BYTES);
        match bytes.checked_sub(self.handles) {
            Some(0) => {}
            Some(more) => {
                self.take(more)?;
                self.held += more;
            }
            None => {
                let less = self.handles - bytes;
                self.held -= less;
                self.budget.give_back(less);
            }
        }
        self.handles = bytes;
        Ok(())
    }

    fn take(&self, bytes: u64) -> std::result::Result<(), OverBudget> {
        self.budget
            .try_take(bytes)
            .inspect_err(|_| self.budget.exceeded.store(true, Ordering::Relaxed))
    }

    fn grow(&mut self, bytes: u64) -> Result<bool> {
        let covered = bytes.min(self.prepaid);
        self.prepaid -= covered;
        let more = bytes - covered;
        self.take(more)?;
        self.held += more;
        self.last = more;
        Ok(true)
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.last);
        self.held -= bytes;
        self.budget.give_back(bytes);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give_back(self.held);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_PER_STORE
    }

    fn tables(&self) -> usize {
        MAX_PER_STORE
    }

    fn memories(&self) -> usize {
        MAX_PER_STORE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn limited(mib: u64) -> Arc<Budget> {
        Budget::new(Some((mib << 20) + INSTANCE_BYTES))
    }

    #[test]
    fn growth_over_the_limit_ends_the_guest_and_is_remembered() {
        let budget = limited(2);
        let mut limiter = budget.open(0).unwrap();
        assert!(limiter.memory_growing(0, MIB, None).unwrap());
        assert!(!budget.exceeded());
        assert!(limiter.memory_growing(MIB, 4 * MIB, None).is_err());
        assert!(budget.exceeded());
    }

    #[test]
    fn growth_over_the_modules_own_maximum_is_refused_and_costs_nothing() {
        let budget = limited(2);
        let mut limiter = budget.open(0).unwrap();
        let before = budget.used();
        assert!(!limiter.memory_growing(0, 8 * MIB, Some(MIB)).unwrap());
        assert_eq!(budget.used(), before);
        assert!(!budget.exceeded());
    }

    #[test]
    fn a_store_gives_back_all_it_held() {
        let budget = limited(4);
        let mut limiter = budget.open(MIB as u64).unwrap();
        limiter.memory_growing(0, 2 * MIB, None).unwrap();
        limiter.table_growing(0, 1000, None).unwrap();
        limiter.memory_growing(0, MIB, None).unwrap();
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no pages"))
            .unwrap();
        drop(limiter);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn prepaid_bytes_are_counted_once() {
        let budget = limited(4);
        let mut limiter = budget.open(MIB as u64).unwrap();
        let opened = budget.used();
        limiter.memory_growing(0, MIB, None).unwrap();
        assert_eq!(budget.used(), opened);
    }

    #[test]
    fn handles_are_counted_and_given_back() {
        let budget = limited(1);
        let mut limiter = budget.open(0).unwrap();
        let opened = budget.used();
        limiter.count_handles(100).unwrap();
        assert_eq!(budget.used(), opened + 100 * HANDLE_BYTES);
        limiter.count_handles(10).unwrap();
        assert_eq!(budget.used(), opened + 10 * HANDLE_BYTES);
        assert!(limiter.count_handles(10_000).is_err());
        assert!(budget.exceeded());
        drop(limiter);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told() {
        let budget = limited(1);
        let first = budget.open(MIB as u64).unwrap();
        let freed = budget.freed();
        let over = budget.open(MIB as u64).err().unwrap();
        assert!(over.may_fit_later());
        drop(first);
        freed.await;
        assert!(budget.open(MIB as u64).is_ok());
        assert!(!budget.exceeded());
    }

    #[test]
    fn what_never_fits_is_known() {
        let over = limited(1).open(16 << 20).err().unwrap();
        assert!(!over.may_fit_later());
    }
}
