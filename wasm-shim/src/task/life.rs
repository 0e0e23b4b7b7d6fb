//! The life of something that runs to an end: a container's guest, or one exec'd into it.
//!
//! Owns the phase, who waits for the end, and which signal caused it. Refuses to know what runs.

use super::phase::{Event, IllegalEdge, Phase};
use crate::guest::Ending;
use jiff::Timestamp;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::watch;

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

    /// Takes one edge.
    ///
    /// # Errors
    /// When there is no such edge from the phase now.
    pub fn step(&self, event: Event) -> Result<(), IllegalEdge> {
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

    /// Ends, now. An ending that came before stays.
    pub fn end(&self, ending: Ending) {
        let at = Timestamp::now();
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
