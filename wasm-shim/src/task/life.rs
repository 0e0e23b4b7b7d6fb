//! The life of something that runs to an end: a container's guest, or one exec'd into it.
//!
//! Owns the phase, who waits for the end, and which signal caused it. Refuses to know what runs.

use super::phase::{Event, IllegalEdge, Phase};
use crate::guest::Ending;
use jiff::Timestamp;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::watch;

/// Guests have no process of their own; the contract says 0.
pub const NO_PID: u32 = 0;

/// One life, from created to stopped.
pub struct Life {
    phase: watch::Sender<Phase>,
    signal: AtomicU8,
}

impl Life {
    /// In phase created.
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Created),
            signal: AtomicU8::new(0),
        }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The ending, once there is one.
    pub async fn wait(&self) -> (Ending, Timestamp) {
        let mut phases = self.phase.subscribe();
        loop {
            if let Phase::Stopped { ending, at } = *phases.borrow_and_update() {
                return (ending, at);
            }
            if phases.changed().await.is_err() {
                // The sender is a field of `self`: it is there as long as this borrow.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Begins to start. Whoever does not get to its end, whether it fails or is not waited for, leaves it created.
    ///
    /// # Errors
    /// When it was started before.
    pub fn begin(&self) -> Result<Starting<'_>, IllegalEdge> {
        self.step(Event::Start)?;
        Ok(Starting(self))
    }

    /// Takes one edge.
    ///
    /// # Errors
    /// When there is no such edge from the phase now.
    fn step(&self, event: Event) -> Result<(), IllegalEdge> {
        let mut result = Ok(());
        self.phase.send_if_modified(|phase| match phase.after(event) {
            Ok(next) => {
                *phase = next;
                true
            }
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }

    /// Ends. An ending that came before stays.
    pub fn end(&self, ending: Ending, at: Timestamp) {
        if let Err(error) = self.step(Event::Ended { ending, at }) {
            tracing::warn!(%error, "an ending came twice");
        }
    }

    /// Remembers the signal that is about to end it.
    pub fn note_signal(&self, signal: u8) {
        self.signal.store(signal, Ordering::Release);
    }

    /// The ending by the signal that was noted.
    pub fn signalled(&self) -> Ending {
        Ending::Signalled(self.signal.load(Ordering::Acquire))
    }
}

/// A start that is under way.
#[must_use]
pub struct Starting<'a>(&'a Life);

impl Starting<'_> {
    /// It runs.
    pub fn done(self) {
        self.leave(Event::Started);
    }

    fn leave(&self, event: Event) {
        if self.0.phase() == Phase::Starting
            && let Err(error) = self.0.step(event)
        {
            tracing::warn!(%error, "a start was disturbed");
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.leave(Event::StartFailed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Duration;

    #[tokio::test]
    async fn a_start_that_nobody_waits_for_any_more_has_not_been() {
        let life = Life::new();
        let start = async {
            let starting = life.begin()?;
            pending::<()>().await;
            starting.done();
            Ok::<(), IllegalEdge>(())
        };
        let waited = tokio::time::timeout(Duration::from_millis(1), start).await;
        assert!(waited.is_err());
        assert_eq!(life.phase(), Phase::Created);
        life.begin().unwrap().done();
        assert_eq!(life.phase(), Phase::Running);
        assert!(life.begin().is_err());
        life.end(Ending::Exited(0), Timestamp::now());
        assert!(matches!(life.wait().await, (Ending::Exited(0), _)));
    }
}
