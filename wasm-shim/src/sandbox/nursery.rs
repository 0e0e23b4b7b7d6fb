//! The thread from which all threads of guests come.
//!
//! Owns their filter of system calls: threads inherit it, so ten thousand containers share one, which the kernel
//! translates once. What else fences a container in is its own.

use super::Who;
use super::filter::Filters;
use std::io;
use std::sync::mpsc::{Sender, channel};

type Work = Box<dyn FnOnce() + Send>;

/// A handle to the thread; it ends with the last.
#[derive(Clone)]
pub struct Nursery(Sender<Work>);

impl Nursery {
    /// Starts the thread. A kernel without seccomp is told of, once; guests run all the same.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = channel::<Work>();
        std::thread::Builder::new()
            .name("nursery".into())
            .spawn(move || {
                if let Err(error) = Filters::of(Who::Guests).and_then(Filters::enter) {
                    tracing::warn!(%error, "threads of guests may use any system call: seccomp");
                }
                receiver.into_iter().for_each(|work| work());
            })?;
        Ok(Self(sender))
    }

    /// Runs `work`, which starts threads; `None` if it panicked.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = channel();
        // Whoever waits learns of a failure by the answer that does not come.
        let work = Box::new(move || drop(answer.send(work())));
        self.0.send(work).ok()?;
        answered.recv().ok()
    }
}
