//! The clock of epoch interruption: one thread which advances the epoch of the engines while guests run.
//!
//! Owns when guests must yield. Refuses to know which guests there are. An idle process has a sleeping ticker: ten
//! thousand containers that wait for requests cost no wakeups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::Engine;

/// The longest time a guest keeps its thread before another task of the Pod gets it.
pub const TICK: Duration = Duration::from_millis(2);

/// Ticks without a running guest after which the thread goes to sleep (0.1 s: longer than the gap between two
/// requests of a busy server, so that a request seldom pays for the wakeup).
const IDLE_TICKS: u32 = 50;

struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
}

/// A cheap handle; clones share one thread.
#[derive(Clone)]
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

/// While this lives, epochs advance.
pub struct Running<'a>(&'a Ticker);

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread cannot be created.
    pub fn start(engines: Vec<Engine>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || tick_forever(&theirs, &engines))?;
        Ok(Self {
            shared,
            thread: thread.thread().clone(),
        })
    }

    /// Marks one guest as running until the guard is dropped.
    pub fn run(&self) -> Running<'_> {
        // SeqCst on both sides: either the ticker sees this guest before it sleeps, or this guest sees it asleep.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(self)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick_forever(shared: &Shared, engines: &[Engine]) {
    let mut idle = 0;
    loop {
        std::thread::park_timeout(TICK);
        engines.iter().for_each(Engine::increment_epoch);
        idle = if shared.running.load(Ordering::SeqCst) == 0 {
            idle + 1
        } else {
            0
        };
        if idle >= IDLE_TICKS {
            sleep_until_needed(shared);
            idle = 0;
        }
    }
}

fn sleep_until_needed(shared: &Shared) {
    shared.asleep.store(true, Ordering::SeqCst);
    while shared.running.load(Ordering::SeqCst) == 0 {
        std::thread::park();
    }
    shared.asleep.store(false, Ordering::SeqCst);
}
