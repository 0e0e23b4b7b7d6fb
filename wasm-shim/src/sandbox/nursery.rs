//! The thread from which all threads of guests come.
//!
//! Owns their filter of system calls: threads inherit it, so ten thousand containers share one, which the kernel
//! translates once. What else fences a container in is its own.

use super::Who;
use super::filter::Filters;
use crate::engine::pace::{self, Pace};
use crate::sys;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;

type Work = Box<dyn FnOnce() + Send>;

/// A handle to the thread; it ends with the last.
#[derive(Clone)]
pub struct Nursery {
    work: Sender<Work>,
    failed: Arc<AtomicBool>,
}

impl Nursery {
    /// Starts the thread; those that come from it can be woken. A kernel without seccomp is told of, once; guests run all
    /// the same.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<Self> {
        sys::let_wake()?;
        let (sender, receiver) = channel::<Work>();
        std::thread::Builder::new()
            .name("nursery".into())
            .spawn(move || {
                // A client waits for what is started here, and threads inherit it.
                pace::set(Pace::Answering);
                if let Err(error) = Filters::of(Who::Guests).and_then(Filters::enter) {
                    tracing::warn!(%error, "threads of guests may use any system call: seccomp");
                }
                for work in receiver {
                    // tokio panics where no thread can be had; other containers' may be had later.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        tracing::warn!("the threads of a container could not be started");
                    }
                }
            })?;
        Ok(Self {
            work: sender,
            failed: Arc::default(),
        })
    }

    /// Whether threads could not be had before, of any container.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Runs `work`, which starts threads; `None` if it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        // Whoever waits learns of a failure by the answer that does not come.
        let work = Box::new(move || drop(answer.send(work())));
        self.work.send(work).ok()?;
        let answer = answered.await.ok();
        if answer.is_none() {
            self.failed.store(true, Ordering::Relaxed);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_panics_does_not_end_it() {
        let nursery = Nursery::start().unwrap();
        assert!(!nursery.has_failed());
        assert_eq!(nursery.run(|| -> u8 { panic!("no thread") }).await, None);
        assert_eq!(nursery.run(|| 7).await, Some(7));
        assert!(nursery.has_failed());
    }
}
