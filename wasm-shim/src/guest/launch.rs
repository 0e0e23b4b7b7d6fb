//! The start of a runtime's threads, all of them or none.
//!
//! Owns what tokio leaves open: where one of its workers cannot be had it waits, without a limit, for those that began
//! before, and these wait for work; and it keeps the memory and the descriptors of the runtime. Refuses to know what
//! the threads are for.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// How long a worker waits until its runtime has all its workers. They are asked for one right after the other.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Complete,
    GivenUp,
}

/// What the workers of a runtime wait for before they begin.
pub struct Launch {
    outcome: Mutex<Outcome>,
    known: Condvar,
}

impl Launch {
    /// Workers are about to be asked for.
    pub fn new() -> Self {
        Self {
            outcome: Mutex::new(Outcome::Unknown),
            known: Condvar::new(),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All workers are there: they may begin.
    ///
    /// # Errors
    /// When they have given up, and are gone.
    pub fn complete(&self) -> io::Result<()> {
        let mut outcome = self.outcome();
        if *outcome == Outcome::GivenUp {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the workers did not wait",
            ));
        }
        *outcome = Outcome::Complete;
        self.known.notify_all();
        Ok(())
    }

    /// Waits, on a worker, until all are there. Ends the calling thread where some cannot be had.
    pub fn wait_or_end(&self) {
        let unknown = |outcome: &mut Outcome| *outcome == Outcome::Unknown;
        let waited = self.known.wait_timeout_while(self.outcome(), PATIENCE, unknown);
        let (mut outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *outcome != Outcome::Complete {
            *outcome = Outcome::GivenUp;
            drop(outcome);
            // No other end is left to a hook of tokio's. Nobody is to read of a panic.
            std::panic::resume_unwind(Box::new("not all workers could be had"));
        }
    }
}

/// Has so many threads at once, for a moment.
///
/// # Errors
/// When they cannot be had.
pub fn try_threads(count: usize, stack: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    let pass = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
    std::thread::scope(|scope| {
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let tried = (0..count).try_for_each(|_| {
            let builder = Builder::new().stack_size(stack);
            builder.spawn_scoped(scope, pass).map(drop)
        });
        drop(closed);
        tried
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    fn runtime(launch: &Arc<Launch>) -> tokio::runtime::Runtime {
        let launch = Arc::clone(launch);
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || launch.wait_or_end())
            .build()
            .unwrap()
    }

    #[test]
    fn workers_without_the_others_end() {
        let (done, is_done) = mpsc::channel();
        let launch = Arc::new(Launch::new());
        let waiting = Arc::clone(&launch);
        std::thread::spawn(move || {
            drop(runtime(&waiting));
            done.send(()).unwrap();
        });
        is_done
            .recv_timeout(Duration::from_secs(60))
            .expect("they are waited for");
        assert!(launch.complete().is_err(), "who is late is told");
    }

    #[test]
    fn workers_begin_when_all_are_there() {
        let launch = Arc::new(Launch::new());
        let runtime = runtime(&launch);
        launch.complete().unwrap();
        assert_eq!(runtime.block_on(runtime.spawn(async { 7 })).unwrap(), 7);
    }

    #[test]
    fn threads_are_tried_all_at_once() {
        try_threads(3, 64 << 10).unwrap();
        assert!(try_threads(1, usize::MAX >> 1).is_err());
    }
}
