//! What a budget counts, refuses, and expects.

use super::*;
use crate::engine::commons::{Bounds, Common};

const MIB: usize = 1 << 20;

/// Of one Pod that has so much: one container with a limit, and one without.
fn in_one_pod(mib: u64, own: u64) -> (Arc<Common>, Arc<Budget>, Arc<Budget>) {
    let common = Arc::new(Common::default());
    let memory = Some(mib << 20);
    common.bound(Bounds { memory, quota: None }).unwrap();
    let of = |limit| Budget::new(limit, Arc::clone(&common.memory));
    let (held, free) = (of(Some(own << 20)), of(None));
    (common, held, free)
}

fn limited(mib: u64) -> Arc<Budget> {
    Budget::new(Some((mib << 20) + INSTANCE_BYTES), Arc::default())
}

/// Stores that nobody uses.
#[derive(Default)]
struct Idle(Mutex<Vec<Limiter>>);

impl Spare for Idle {
    fn let_go(&self) {
        let old = std::mem::take(&mut *self.0.lock().unwrap());
        drop(old);
    }
}

impl Idle {
    fn keep(self: &Arc<Self>, budget: &Arc<Budget>, mib: u64) {
        let this: Weak<dyn Spare> = Arc::downgrade(&(Arc::clone(self) as Arc<dyn Spare>));
        budget.set_spare(this);
        self.0.lock().unwrap().push(budget.open(mib << 20).unwrap());
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[test]
fn what_nobody_uses_is_let_go_when_another_of_the_pod_needs_it() {
    let (common, held, free) = in_one_pod(16, 12);
    let (idle, other) = (Arc::new(Idle::default()), Arc::new(Idle::default()));
    idle.keep(&held, 4);
    other.keep(&free, 4);
    // There is room for this one.
    let small = free.open(2 << 20).unwrap();
    assert_eq!((idle.count(), other.count()), (1, 1));
    // Its own limit is met: that of the container is, whose own are let go.
    let mut guest = held.open(0).unwrap();
    guest.memory_growing(0, 10 * MIB, None).unwrap();
    assert_eq!((idle.count(), other.count()), (0, 0));
    assert!(!held.exceeded());
    drop(guest);
    // As many as it takes: one after the other.
    idle.keep(&held, 6);
    other.keep(&free, 4);
    let many = free.open_one_of_many(8 << 20).unwrap();
    assert_eq!((idle.count(), other.count()), (0, 1));
    // What is in use is not.
    assert!(free.open(8 << 20).is_err());
    assert_eq!(other.count(), 0);
    drop((small, many));
    assert_eq!(common.memory.left(), 16 << 20);
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
fn stores_at_once_have_room_for_what_stores_before_them_needed() {
    let budget = limited(8);
    let initial = MIB as u64;
    let mut first = budget.open_one_of_many(initial).unwrap();
    assert_eq!(
        budget.used(),
        initial + INSTANCE_BYTES,
        "what is only expected is not in use"
    );
    first.memory_growing(0, 3 * MIB, None).unwrap();
    drop(first);
    let mut all: Vec<_> = (0..2)
        .map(|_| budget.open_one_of_many(initial).unwrap())
        .collect();
    assert!(
        budget
            .open_one_of_many(initial)
            .is_err_and(|over| over.may_fit_later())
    );
    for one in &mut all {
        assert!(one.memory_growing(0, 3 * MIB, None).unwrap());
    }
    drop(all);
    for _ in 0..50 {
        let mut small = budget.open_one_of_many(initial).unwrap();
        small.memory_growing(0, MIB, None).unwrap();
    }
    let all = (0..6).map(|_| budget.open_one_of_many(initial).unwrap());
    assert_eq!(all.collect::<Vec<_>>().len(), 6, "what is long ago is forgotten");
    assert!(!budget.exceeded());
}

#[test]
fn a_store_alone_may_have_all_there_is() {
    let budget = limited(4);
    let mut hungry = budget.open_one_of_many(MIB as u64).unwrap();
    hungry.memory_growing(0, 4 * MIB, None).unwrap();
    drop(hungry);
    budget.resize((3 << 20) + INSTANCE_BYTES).unwrap();
    let alone = budget.open_one_of_many(MIB as u64).unwrap();
    assert!(budget.open_one_of_many(MIB as u64).is_err());
    drop(alone);
}

#[test]
fn nobody_waits_for_long_for_what_others_do_not_take() {
    let (budget, initial) = (limited(8), MIB as u64);
    let mut hungry = budget.open_one_of_many(initial).unwrap();
    hungry.memory_growing(0, 7 * MIB, None).unwrap();
    drop(hungry);
    let start = Instant::now();
    let open = |after: Duration| budget.open_one_of_many_at(start + after, initial);
    let mut streams = open(Duration::ZERO).unwrap();
    streams.memory_growing(0, MIB, None).unwrap();
    assert!(open(SHARE_KEPT / 2).is_err(), "it may need it soon");
    let mut second = open(SHARE_KEPT).unwrap();
    assert!(open(SHARE_KEPT).is_err(), "one at a time");
    let third = open(SHARE_KEPT * 2).unwrap();
    // What is there belongs to who needs it first.
    assert!(second.memory_growing(0, 3 * MIB, None).unwrap());
    drop((streams, second, third));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_command_beside_requests_does_not_keep_them_waiting_nor_they_it() {
    let (budget, initial) = (limited(8), MIB as u64);
    let mut hungry = budget.open_one_of_many(initial).unwrap();
    hungry.memory_growing(0, 8 * MIB, None).unwrap();
    drop(hungry);
    let mut command = budget.open(initial).unwrap();
    command.memory_growing(0, 2 * MIB, None).unwrap();
    let request = budget.open_one_of_many(initial).unwrap();
    let probe = budget.open(initial).unwrap();
    drop((command, probe, request));
    for _ in 0..100 {
        drop(budget.open_one_of_many(initial).unwrap());
    }
    let mut command = budget.open(initial).unwrap();
    command.memory_growing(0, 8 * MIB - MIB / 4, None).unwrap();
    drop(command);
    let four: Vec<_> = (0..4)
        .map(|_| budget.open_one_of_many(initial).unwrap())
        .collect();
    assert_eq!(four.len(), 4, "what commands take is not usual for requests");
}

#[tokio::test]
async fn a_command_waits_for_room_a_while() {
    let (budget, patience) = (limited(1), Duration::from_secs(60));
    let first = budget.open(MIB as u64).unwrap();
    let over = budget.open_in_time(MIB as u64, Duration::from_millis(1)).await;
    assert!(over.is_err_and(|over| over.may_fit_later()));
    let begun = Instant::now();
    let (opened, ()) = tokio::join!(budget.open_in_time(MIB as u64, patience), async { drop(first) });
    opened.unwrap();
    assert!(begun.elapsed() < patience);
    assert!(!budget.exceeded());
}

#[test]
fn what_could_not_be_had_after_all_is_given_back() {
    let budget = limited(4);
    let mut store = budget.open(MIB as u64).unwrap();
    let opened = budget.used();
    store.memory_growing(0, 2 * MIB, None).unwrap();
    assert_eq!(budget.used(), opened + MIB as u64);
    store
        .memory_grow_failed(wasmtime::format_err!("no pages"))
        .unwrap();
    assert_eq!(budget.used(), opened);
    store.memory_growing(0, 2 * MIB, None).unwrap();
    assert_eq!(budget.used(), opened + MIB as u64, "its first bytes are paid");
}

#[tokio::test]
async fn a_limit_may_change_but_not_below_what_is_in_use() {
    let budget = limited(1);
    let mut limiter = budget.open(MIB as u64).unwrap();
    let freed = budget.freed();
    assert_eq!(budget.resize(1), Err(budget.used()));
    budget.resize(4 << 20).unwrap();
    freed.await;
    assert!(limiter.memory_growing(MIB, 3 * MIB, None).unwrap());
    budget.resize(budget.used()).unwrap();
    assert!(limiter.memory_growing(3 * MIB, 3 * MIB + 1, None).is_err());
}

#[test]
fn what_never_fits_is_known() {
    let over = limited(1).open(16 << 20).err().unwrap();
    assert!(!over.may_fit_later());
}

#[test]
fn who_asks_for_more_than_its_pod_has_left_is_told_whose_limit_it_is() {
    let (common, held, free) = in_one_pod(8, 4);
    let left = common.memory.left();
    let (mut one, mut two) = (held.open(0).unwrap(), free.open(0).unwrap());
    assert_eq!((one.limit(), two.limit()), (Some(4 << 20), Some(8 << 20)));
    assert!(two.memory_growing(0, 5 * MIB, None).unwrap());
    let refused = |asks: &mut Limiter, bytes: usize| {
        let before = common.memory.left();
        assert!(asks.memory_growing(0, bytes, None).is_err());
        assert_eq!(common.memory.left(), before, "nothing is taken by halves");
        asks.refused().unwrap().of
    };
    assert_eq!(refused(&mut one, 4 * MIB), "container");
    assert_eq!(refused(&mut one, 3 * MIB), "Pod");
    assert_eq!(refused(&mut two, 3 * MIB), "Pod");
    assert!(one.memory_growing(0, 2 * MIB, None).unwrap());
    assert!(held.exceeded() && free.exceeded());
    drop((one, two));
    assert_eq!((common.memory.left(), held.used(), free.used()), (left, 0, 0));
}

#[tokio::test]
async fn who_waits_for_its_pods_room_is_told_by_others() {
    let (_common, held, free) = in_one_pod(3, 3);
    let first = free.open(2 << 20).unwrap();
    let over = held.open(1 << 20).err().unwrap();
    assert!(over.of == "Pod" && over.may_fit_later());
    let patience = Duration::from_secs(60);
    let (opened, ()) = tokio::join!(held.open_in_time(1 << 20, patience), async { drop(first) });
    opened.unwrap();
}

#[test]
fn one_of_many_waits_for_what_its_pod_has_not() {
    let (_common, held, free) = in_one_pod(8, 8);
    let mut hungry = free.open_one_of_many(MIB as u64).unwrap();
    hungry.memory_growing(0, 3 * MIB, None).unwrap();
    drop(hungry);
    let command = held.open(2 << 20).unwrap();
    let one = free.open_one_of_many(MIB as u64).unwrap();
    let over = free.open_one_of_many(MIB as u64).err().unwrap();
    assert!(
        over.may_fit_later(),
        "one of three mebibytes is expected, and another"
    );
    drop((command, one));
    assert!(!free.exceeded());
}
