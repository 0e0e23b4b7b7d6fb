//! One memory budget per container, over the linear memories, tables, instances, handles and host buffers of all its
//! stores. What it counts is taken out of its Pod's pool as well.
//!
//! Owns counting and refusing. Refuses to know what happens to a container over its budget: it remembers that it
//! happened, the container's task ends it as `OOMKilled`.

use super::commons::{Pool, Short, Spare};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};
use wasmtime::{ResourceLimiter, Result};

/// What one instance costs beside its memories, tables and handles: VM context, WASI context, the stack pages it has
/// touched, and the buffers between it and its client and log, which have bounds of their own.
pub const INSTANCE_BYTES: u64 = 128 << 10;

/// What one handle costs: an entry of the resource table and the host object behind it, in the mean.
pub const HANDLE_BYTES: u64 = 512;

/// What one table element costs: a pointer.
pub const TABLE_ELEMENT_BYTES: u64 = 8;

/// How much more than at its beginning a store may allocate, while none has shown it.
const UNKNOWN_GROWTH: u64 = 2;

/// One part in so many is taken from what is usual with each store that ends.
const FORGETTING: u64 = 16;

/// How long a store is expected to be on its way to what is usual. Who has not allocated it by then is not waited for: a
/// guest that streams for an hour, say.
pub const SHARE_KEPT: Duration = Duration::from_secs(2);

/// Instances, memories and tables in one store: a component nests modules, each with its own.
const MAX_PER_STORE: usize = 1_000;

/// Whose limit was met.
const OF_CONTAINER: &str = "container";
const OF_POD: &str = "Pod";

/// The error a guest is ended with when it asks for more than the budget has.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("out of memory: {wanted} more bytes would exceed the {of}'s limit of {limit} bytes ({used} in use)")]
pub struct OverBudget {
    /// [`OF_CONTAINER`] or [`OF_POD`].
    pub of: &'static str,
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

/// What is counted.
#[derive(Debug, Default)]
struct Account {
    /// Bytes; `u64::MAX` for none.
    limit: u64,
    used: u64,
    /// What stores allocated that are gone, of those that are many: the most, older ones counting less and less. 0
    /// before the first.
    usual: u64,
    /// One for each store of many, the oldest first.
    shares: BTreeMap<u64, Share>,
    next: u64,
}

/// Bytes that a store has not allocated yet and is expected to. Nobody uses them: they only keep others of its kind
/// waiting.
#[derive(Debug)]
struct Share {
    since: Instant,
    left: u64,
}

impl Share {
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < SHARE_KEPT
    }
}

impl Account {
    /// Both have it, or none has.
    fn take(&mut self, bytes: u64, pool: &Pool) -> std::result::Result<(), OverBudget> {
        let total = self.used.checked_add(bytes).filter(|total| *total <= self.limit);
        let total = total.ok_or_else(|| self.over(bytes))?;
        pool.take(bytes).map_err(|Short { used, limit }| OverBudget {
            of: OF_POD,
            wanted: bytes,
            used,
            limit,
        })?;
        self.used = total;
        Ok(())
    }

    fn over(&self, wanted: u64) -> OverBudget {
        OverBudget {
            of: OF_CONTAINER,
            wanted,
            used: self.used,
            limit: self.limit,
        }
    }

    /// How much more than `initial` a store is expected to allocate where all may have so much; where that is any number,
    /// it makes no difference.
    fn expected_growth(&self, initial: u64, limit: u64) -> u64 {
        if limit == u64::MAX {
            return 0;
        }
        let expected = match self.usual {
            0 => initial.saturating_mul(UNKNOWN_GROWTH),
            usual => usual,
        };
        let most = limit.saturating_sub(INSTANCE_BYTES);
        expected.min(most).saturating_sub(initial)
    }

    /// Bytes that are neither used nor expected to be, where the Pod has so many left. What old stores have not allocated
    /// by now is expected no more.
    fn free(&self, now: Instant, left: u64) -> u64 {
        let young = |share: &&Share| share.is_young(now);
        let expected: u64 = self.shares.values().filter(young).map(|share| share.left).sum();
        let unused = self.limit.saturating_sub(self.used).min(left);
        unused.saturating_sub(expected)
    }

    /// Whether a store has begun so lately that it may still be on its way to what is usual.
    fn has_young(&self, now: Instant) -> bool {
        let youngest = self.shares.last_key_value();
        youngest.is_some_and(|(_, share)| share.is_young(now))
    }

    fn share(&mut self, since: Instant, left: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        self.shares.insert(number, Share { since, left });
        number
    }
}

/// The budget of one container.
pub struct Budget {
    account: Mutex<Account>,
    exceeded: AtomicBool,
    /// Who holds what the container can do without.
    spare: OnceLock<Weak<dyn Spare>>,
    pool: Arc<Pool>,
}

impl Budget {
    /// A budget of `limit` bytes, or one that only counts; of no more than its Pod's `pool` has.
    pub fn new(limit: Option<u64>, pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            account: Mutex::new(Account {
                limit: limit.unwrap_or(u64::MAX),
                ..Account::default()
            }),
            exceeded: AtomicBool::new(false),
            spare: OnceLock::new(),
            pool,
        })
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use now.
    pub fn used(&self) -> u64 {
        self.account().used
    }

    /// The limit in bytes, if there is one.
    pub fn limit(&self) -> Option<u64> {
        Some(self.account().limit).filter(|limit| *limit != u64::MAX)
    }

    /// Gives the container another limit. Its guests run on.
    ///
    /// # Errors
    /// The bytes in use, when they are more than that: a guest cannot be made to give any back.
    pub fn resize(&self, limit: u64) -> std::result::Result<(), u64> {
        let mut account = self.account();
        if account.used > limit {
            return Err(account.used);
        }
        account.limit = limit;
        drop(account);
        self.pool.freed.notify_waiters();
        Ok(())
    }

    /// Whether a guest ever asked for more than there was.
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: u64) {
        self.account().used -= bytes;
        self.pool.give_back(bytes);
    }

    /// Has somebody, the first who is named, give up what the container can do without, when this budget or its Pod's is short.
    pub fn set_spare(&self, spare: Weak<dyn Spare>) {
        if self.spare.set(Weak::clone(&spare)).is_ok() {
            self.pool.add_spare(spare);
        }
    }

    /// Tries again, when there is too little, without what can be done without. No account may be locked.
    fn with_spares<T>(
        &self,
        mut take: impl FnMut() -> std::result::Result<T, OverBudget>,
    ) -> std::result::Result<T, OverBudget> {
        take().or_else(|over| {
            if over.of == OF_CONTAINER
                && let Some(spare) = self.spare.get().and_then(Weak::upgrade)
            {
                spare.let_go();
            }
            self.pool.make_room(over.wanted);
            take()
        })
    }

    /// Counts a new store. The first `prepaid` bytes that it allocates are counted now.
    ///
    /// # Errors
    /// When the budget does not hold them.
    pub fn open(self: &Arc<Self>, prepaid: u64) -> std::result::Result<Limiter, OverBudget> {
        let held = prepaid.saturating_add(INSTANCE_BYTES);
        self.with_spares(|| self.account().take(held, &self.pool))?;
        Ok(self.limiter(held, prepaid, None))
    }

    /// As [`Budget::open`]; where others hold what it takes, waits for them, but not longer than `patience`.
    ///
    /// # Errors
    /// As [`Budget::open`].
    pub async fn open_in_time(
        self: &Arc<Self>,
        prepaid: u64,
        patience: Duration,
    ) -> std::result::Result<Limiter, OverBudget> {
        let deadline = Instant::now() + patience;
        loop {
            let freed = self.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.open(prepaid) {
                Err(over) if over.may_fit_later() => {
                    if timeout_at(deadline, freed).await.is_err() {
                        return Err(over);
                    }
                }
                opened => return opened,
            }
        }
    }

    /// As [`Budget::open`] for one of many stores that allocate `initial` bytes at once and some more later: there must be
    /// room for what others needed before it, so that many at once do not meet at the limit halfway. While no other has
    /// begun lately it takes what there is.
    ///
    /// # Errors
    /// As [`Budget::open`]; to be tried again when bytes are freed, and after [`SHARE_KEPT`].
    pub fn open_one_of_many(self: &Arc<Self>, initial: u64) -> std::result::Result<Limiter, OverBudget> {
        self.with_spares(|| self.open_one_of_many_at(Instant::now(), initial))
    }

    fn open_one_of_many_at(
        self: &Arc<Self>,
        now: Instant,
        initial: u64,
    ) -> std::result::Result<Limiter, OverBudget> {
        let mut account = self.account();
        let held = initial.saturating_add(INSTANCE_BYTES);
        let growth = account.expected_growth(initial, account.limit.min(self.pool.limit()));
        let wanted = held.saturating_add(growth);
        if account.has_young(now) && wanted > account.free(now, self.pool.left()) {
            return Err(account.over(wanted));
        }
        account.take(held, &self.pool)?;
        let number = account.share(now, growth);
        drop(account);
        Ok(self.limiter(held, initial, Some(number)))
    }

    fn limiter(self: &Arc<Self>, held: u64, prepaid: u64, share: Option<u64>) -> Limiter {
        Limiter {
            budget: Arc::clone(self),
            held,
            prepaid,
            share,
            last: (0, 0),
            allocated: 0,
            handles: 0,
            refused: None,
        }
    }

    /// Completes when bytes are given back after this call, by this container or another of its Pod.
    pub fn freed(&self) -> Notified<'_> {
        self.pool.freed.notified()
    }

    /// Wakes who waits for [`Budget::freed`]: an instance, with all it holds, became idle.
    pub fn nudge(&self) {
        self.pool.freed.notify_waiters();
    }
}

/// Counts one store against its container's budget, and gives everything back when dropped.
pub struct Limiter {
    budget: Arc<Budget>,
    held: u64,
    prepaid: u64,
    /// The number of its share, if it is one of many.
    share: Option<u64>,
    /// What was allocated last: bytes that were prepaid, and bytes that were not.
    last: (u64, u64),
    /// Memories and tables, whoever paid for them.
    allocated: u64,
    handles: u64,
    /// The last memory that was not to be had.
    refused: Option<OverBudget>,
}

impl Limiter {
    /// The limit of the container in bytes, or its Pod's where that is less, if there is one.
    pub fn limit(&self) -> Option<u64> {
        let least = self.budget.account().limit.min(self.budget.pool.limit());
        (least != u64::MAX).then_some(least)
    }

    /// The memory that its guest asked for last and could not have.
    pub fn refused(&self) -> Option<OverBudget> {
        self.refused
    }

    /// Counts the handles a store holds now; to be called as often as its guest is looked at.
    ///
    /// # Errors
    /// When the budget cannot hold them.
    pub fn count_handles(&mut self, handles: usize) -> std::result::Result<(), OverBudget> {
        let bytes = (handles as u64).saturating_mul(HANDLE_BYTES);
        match bytes.checked_sub(self.handles) {
            Some(0) => {}
            Some(more) => self.take(more)?,
            None => {
                let less = self.handles - bytes;
                self.held -= less;
                self.budget.give_back(less);
            }
        }
        self.handles = bytes;
        Ok(())
    }

    /// Others' shares are no reason to end a guest: they are not in use.
    fn take(&mut self, bytes: u64) -> std::result::Result<(), OverBudget> {
        let budget = &self.budget;
        let taken = budget.with_spares(|| budget.account().take(bytes, &budget.pool));
        taken.inspect_err(|_| budget.exceeded.store(true, Ordering::Relaxed))?;
        let mut account = budget.account();
        let share = self.share.and_then(|number| account.shares.get_mut(&number));
        if let Some(share) = share {
            share.left = share.left.saturating_sub(bytes);
        }
        self.held += bytes;
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<bool> {
        let covered = bytes.min(self.prepaid);
        let more = bytes - covered;
        let taken = self.take(more);
        taken.inspect_err(|over| self.refused = Some(*over))?;
        self.prepaid -= covered;
        self.last = (covered, more);
        self.allocated += bytes;
        Ok(true)
    }

    fn undo(&mut self) {
        let (covered, more) = std::mem::take(&mut self.last);
        self.prepaid += covered;
        self.allocated -= covered + more;
        self.held -= more;
        self.budget.give_back(more);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        let mut account = self.budget.account();
        account.used -= self.held;
        if let Some(number) = self.share {
            account.shares.remove(&number);
            let usual = account.usual;
            account.usual = self.allocated.max(usual - usual / FORGETTING);
        }
        drop(account);
        self.budget.pool.give_back(self.held);
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
mod tests;
