//! The threads of one container by their ids, and the end of those that wait in the kernel.
//!
//! Owns who is there. Refuses to know runtimes and what threads do.

use crate::sys;
use nix::unistd::{Pid, gettid};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long threads have to end by themselves, at first and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The threads that there are now: a worker may become one that blocks, and one that blocks a worker.
#[derive(Default)]
pub struct Ids(Mutex<Vec<Pid>>);

impl Ids {
    /// They stay what they are as long as this is held.
    pub fn all(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread is one of them.
    pub fn enter(&self) {
        self.all().push(gettid());
    }

    /// The calling thread is about to end.
    pub fn leave(&self) {
        let gone = gettid();
        self.all().retain(|thread| *thread != gone);
    }

    /// Wakes those that wait in a call of the kernel's after their runtime has ended, a guest's opening of a FIFO that nobody
    /// else opens, say, until none is left: one that had not begun to wait was woken in vain.
    pub async fn wake_until_gone(self: Arc<Self>) {
        let (mut patience, most) = PATIENCE;
        while !self.all().is_empty() {
            tokio::time::sleep(patience).await;
            for thread in self.all().iter() {
                if let Err(error) = sys::wake(*thread) {
                    tracing::debug!(%error, "a thread of a container that has ended is not woken");
                }
            }
            patience = most.min(patience * 2);
        }
    }
}
