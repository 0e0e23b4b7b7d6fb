//! CPU time of a container: measured on the thread that runs it, and held to its quota.
//!
//! Owns the account of one container and the wrapper that charges it, and with it the time of its Pod. Refuses to know what
//! runs inside. The quota is
//! the kernel's own scheme (`cpu.cfs_quota_us` in each `cpu.cfs_period_us`) over epochs instead of over the
//! scheduler tick: a guest keeps its thread for at most one epoch, so it can overdraw by one epoch, and pays that
//! back in the next period. One that computes for longer than half an epoch waits for a turn among those who compute.

use super::pace::{self, Pace};
use super::ticker::{TICK, Ticker};
use super::turns::{Turn, Turns, VirtualTime, Waiting};
use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// CPU time without a wait of its own from which on a guest is one that computes.
const LONG: Duration = TICK.checked_div(2).expect("two is not zero");

thread_local! {
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Says that the guest on this thread gives it away because an epoch ended, and would compute on. An epoch passes while others
/// have the processor too: what it left the guest of it may be far less than [`LONG`], again and again.
pub fn interrupted() {
    INTERRUPTED.set(true);
}

/// CPU time allowed in every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub time: Duration,
    pub period: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    spent: Duration,
}

impl Window {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            spent: Duration::ZERO,
        }
    }

    /// Moves to the period that holds `now`, paying debt off with the quota of the periods that passed.
    fn roll(&mut self, now: Instant, quota: Quota) {
        let passed = now.saturating_duration_since(self.start).as_nanos() / quota.period.as_nanos().max(1);
        if passed == 0 {
            return;
        }
        let periods = u32::try_from(passed).unwrap_or(u32::MAX);
        self.spent = self.spent.saturating_sub(quota.time.saturating_mul(periods));
        self.start = now;
    }
}

/// Holds CPU time to a quota, if there is one: a container's, or that of all the containers of a Pod.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Option<(Quota, Window)>>);

impl Throttle {
    fn new(quota: Option<Quota>) -> Self {
        Self(Mutex::new(quota.map(|quota| (quota, Window::new()))))
    }

    fn held(&self) -> MutexGuard<'_, Option<(Quota, Window)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another quota from now on. What was spent stays spent.
    pub fn hold_to(&self, quota: Option<Quota>) {
        let mut held = self.held();
        let window = held.map_or_else(Window::new, |(_, window)| window);
        *held = quota.map(|quota| (quota, window));
    }

    /// Counts time that was used.
    pub fn charge(&self, time: Duration) {
        if let Some((_, window)) = self.held().as_mut() {
            window.spent += time;
        }
    }

    /// How long whoever is held to it must wait before it may run again.
    pub fn debt(&self, now: Instant) -> Option<Duration> {
        let mut held = self.held();
        let (quota, window) = held.as_mut()?;
        window.roll(now, *quota);
        if window.spent < quota.time {
            return None;
        }
        Some((window.start + quota.period).saturating_duration_since(now))
    }
}

/// The account of one container.
pub struct Meter {
    ticker: Ticker,
    turns: Arc<Turns>,
    time: VirtualTime,
    spent_nanos: AtomicU64,
    own: Throttle,
    /// Its Pod's, whose other containers are charged to it too.
    common: Arc<Throttle>,
}

impl Meter {
    /// An empty account; `shares` weigh it among those of the same `turns`.
    pub fn new(
        ticker: Ticker,
        turns: Arc<Turns>,
        quota: Option<Quota>,
        shares: u64,
        common: Arc<Throttle>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ticker,
            turns,
            time: VirtualTime::new(shares),
            spent_nanos: AtomicU64::new(0),
            own: Throttle::new(quota),
            common,
        })
    }

    /// CPU time used so far.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_nanos.load(Ordering::Relaxed))
    }

    fn charge(&self, time: Duration) {
        self.spent_nanos.fetch_add(nanos(time), Ordering::Relaxed);
        self.time.spend(time);
        self.own.charge(time);
        self.common.charge(time);
    }

    /// Holds the container to another quota, and weighs it by other shares, from now on.
    pub fn resize(&self, quota: Option<Quota>, shares: u64) {
        self.time.weigh(shares);
        self.own.hold_to(quota);
    }

    /// How long the container must wait before it may run again.
    fn debt(&self, now: Instant) -> Option<Duration> {
        self.own.debt(now).max(self.common.debt(now))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// A guest's future: each poll is measured, charged, and refused while the container is over its quota.
pub struct Metered<F> {
    meter: Arc<Meter>,
    guest: Pin<Box<F>>,
    throttle: Option<Pin<Box<Sleep>>>,
    turn: NextTurn,
    /// CPU time since it last waited for something.
    computed: Duration,
}

/// How a guest comes to its next stretch of computing.
enum NextTurn {
    /// At once: it has not computed for long.
    Free,
    /// It computed for long, and is to wait when it would compute on.
    Owed,
    Queued(Waiting),
}

impl<F: Future> Metered<F> {
    /// Wraps `guest`; must be polled in the runtime of its Pod.
    pub fn new(meter: Arc<Meter>, guest: F) -> Self {
        Self {
            meter,
            guest: Box::pin(guest),
            throttle: None,
            turn: NextTurn::Free,
            computed: Duration::ZERO,
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        loop {
            match &mut self.turn {
                NextTurn::Free => return Poll::Ready(None),
                NextTurn::Owed => self.turn = NextTurn::Queued(self.meter.turns.wait(&self.meter.time)),
                NextTurn::Queued(waiting) => {
                    let turn = std::task::ready!(Pin::new(waiting).poll(cx));
                    self.turn = NextTurn::Free;
                    return Poll::Ready(Some(turn));
                }
            }
        }
    }

    /// Whether it needs a turn for what it does next, after it ran for `spent`.
    fn judge(&mut self, spent: Duration) {
        self.computed += spent;
        if self.computed >= LONG {
            self.turn = NextTurn::Owed;
        }
        if !INTERRUPTED.take() {
            self.computed = Duration::ZERO;
        }
    }

    fn poll_throttle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.throttle {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.throttle = None;
            }
            match self.meter.debt(Instant::now()) {
                Some(wait) => self.throttle = Some(Box::pin(tokio::time::sleep(wait))),
                None => return Poll::Ready(()),
            }
        }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        std::task::ready!(self.poll_throttle(cx));
        let turn = std::task::ready!(self.poll_turn(cx));
        pace::set(if turn.is_some() {
            Pace::Computing
        } else {
            Pace::Answering
        });
        let this = &mut *self;
        INTERRUPTED.set(false);
        let before = thread_cpu_time();
        let running = this.meter.ticker.run();
        let result = this.guest.as_mut().poll(cx);
        drop(running);
        let spent = thread_cpu_time().saturating_sub(before);
        this.meter.charge(spent);
        this.judge(spent);
        drop(turn);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota {
        time: Duration::from_millis(20),
        period: Duration::from_millis(100),
    };

    fn meter(quota: Option<Quota>) -> Arc<Meter> {
        meter_within(&Arc::default(), quota)
    }

    fn meter_within(pod: &Arc<Throttle>, quota: Option<Quota>) -> Arc<Meter> {
        let ticker = Ticker::start(Vec::new()).unwrap();
        Meter::new(ticker, Turns::new(1), quota, 0, Arc::clone(pod))
    }

    async fn compute(time: Duration) {
        let start = thread_cpu_time();
        while thread_cpu_time() - start < time {}
        tokio::task::yield_now().await;
    }

    /// It does not end, however often it is asked, before the one turn is free.
    async fn waits_for<T>(turn: T, computing: impl Future<Output = ()>) {
        let mut computing = std::pin::pin!(computing);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..10 {
            assert!(computing.as_mut().poll(&mut cx).is_pending());
        }
        drop(turn);
        computing.await;
    }

    #[tokio::test]
    async fn who_computed_waits_for_a_turn_and_others_do_not() {
        let meter = meter(None);
        let taken = meter.turns.wait(&VirtualTime::new(1)).await;
        Metered::new(Arc::clone(&meter), compute(Duration::ZERO)).await;
        waits_for(taken, Metered::new(Arc::clone(&meter), compute(TICK))).await;
    }

    #[tokio::test]
    async fn who_is_interrupted_early_again_and_again_computes() {
        let meter = meter(None);
        let taken = meter.turns.wait(&VirtualTime::new(1)).await;
        let pieces = |end_of_epoch: fn()| async move {
            for _ in 0..4 {
                let start = thread_cpu_time();
                while thread_cpu_time() - start < LONG / 3 {}
                end_of_epoch();
                tokio::task::yield_now().await;
            }
        };
        Metered::new(Arc::clone(&meter), pieces(|| ())).await;
        waits_for(taken, Metered::new(Arc::clone(&meter), pieces(interrupted))).await;
    }

    #[test]
    fn a_container_within_its_quota_never_waits() {
        let meter = meter(Some(QUOTA));
        meter.charge(Duration::from_millis(19));
        assert_eq!(meter.debt(Instant::now()), None);
        assert_eq!(meter.spent(), Duration::from_millis(19));
    }

    #[test]
    fn a_container_over_its_quota_waits_for_the_next_period() {
        let meter = meter(Some(QUOTA));
        meter.charge(Duration::from_millis(25));
        let now = Instant::now();
        assert!(meter.debt(now).is_some_and(|wait| wait <= QUOTA.period));
        let next = now + QUOTA.period;
        assert_eq!(meter.debt(next), None);
        meter.charge(Duration::from_millis(15));
        assert!(meter.debt(next).is_some(), "the 5 ms overdrawn before are owed");
    }

    #[test]
    fn a_quota_may_change_while_it_is_used_up() {
        let meter = meter(Some(QUOTA));
        meter.charge(Duration::from_millis(25));
        let double = Quota {
            time: QUOTA.time * 2,
            ..QUOTA
        };
        meter.resize(Some(double), 2);
        assert_eq!(meter.debt(Instant::now()), None);
        meter.resize(Some(QUOTA), 2);
        assert!(meter.debt(Instant::now()).is_some(), "what was spent stays spent");
        meter.resize(None, 2);
        assert_eq!(meter.debt(Instant::now()), None);
    }

    #[test]
    fn what_one_spends_of_the_pods_time_others_have_not() {
        let pod = Arc::new(Throttle::new(Some(QUOTA)));
        let half = Quota {
            time: QUOTA.time / 2,
            ..QUOTA
        };
        let (free, held) = (meter_within(&pod, None), meter_within(&pod, Some(half)));
        free.charge(Duration::from_millis(9));
        assert_eq!(
            (free.debt(Instant::now()), held.debt(Instant::now())),
            (None, None)
        );
        held.charge(Duration::from_millis(10));
        let now = Instant::now();
        assert!(held.debt(now).is_some(), "its own is used up");
        assert_eq!(free.debt(now), None);
        free.charge(Duration::from_millis(6));
        let next = now + QUOTA.period;
        assert!(free.debt(now).is_some(), "the Pod's is used up");
        assert_eq!((free.debt(next), held.debt(next)), (None, None));
        free.charge(Duration::from_millis(15));
        assert!(held.debt(next).is_some(), "the 5 ms overdrawn before are owed");
        assert_eq!(held.spent(), Duration::from_millis(10));
        pod.hold_to(None);
        assert_eq!(held.debt(next), None);
    }

    #[test]
    fn without_quota_nothing_waits() {
        let meter = meter(None);
        meter.charge(Duration::from_secs(1000));
        assert_eq!(meter.debt(Instant::now()), None);
    }

    #[tokio::test]
    async fn work_on_this_thread_is_charged() {
        let meter = meter(None);
        Metered::new(Arc::clone(&meter), async {
            let start = thread_cpu_time();
            while thread_cpu_time() - start < Duration::from_millis(3) {}
        })
        .await;
        assert!(meter.spent() >= Duration::from_millis(3));
    }
}
