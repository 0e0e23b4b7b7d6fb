//! A thread that turns full logs over, and opens those at rest again, for writers who may not do that themselves: whoever writes for a guest has the guest's
//! rights over files.
//!
//! Owns the thread. Refuses to know how a log is turned over. Writers wait for it, as they would for themselves.

use std::io;
use std::sync::mpsc::{Sender, channel};

type Work = Box<dyn FnOnce() + Send>;

/// A handle to the thread; it ends with the last.
#[derive(Debug, Clone)]
pub struct Turner(Sender<Work>);

impl Turner {
    /// Starts the thread, with the rights of the caller.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = channel::<Work>();
        std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || receiver.into_iter().for_each(|work| work()))?;
        Ok(Self(sender))
    }

    /// Does `work` there and answers its result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = channel();
        // Whoever asked waits for it.
        let work = Box::new(move || drop(answer.send(work())));
        let gone = || io::Error::other("the thread that turns logs over is gone");
        self.0.send(work).map_err(|_| gone())?;
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }
}
