//! How a thread shares a processor with others: in short pieces while its guests answer, in long ones while they compute.
//!
//! Owns the two lengths. A thread that wakes for a request then takes over at once from one that computes, where it
//! would else wait for the kernel's next tick; in the mean each has as much of the processor as before.

use crate::sys;
use std::cell::Cell;
use std::time::Duration;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Answering,
    Computing,
}

impl Pace {
    /// The kernel's own length is some 3 ms; it takes 0.1 to 100 ms.
    fn slice(self) -> Duration {
        match self {
            Self::Answering => Duration::from_micros(200),
            Self::Computing => Duration::from_millis(20),
        }
    }
}

thread_local! {
    static NOW: Cell<Option<Pace>> = const { Cell::new(None) };
}

/// Sets the pace of the calling thread; a kernel that cannot is left with its own.
pub fn set(pace: Pace) {
    if NOW.replace(Some(pace)) == Some(pace) {
        return;
    }
    if let Err(error) = sys::set_slice(pace.slice()) {
        tracing::debug!(%error, "a thread has slices of the usual length");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_kernels_take() {
        for pace in [Pace::Answering, Pace::Computing] {
            let slice = pace.slice();
            assert!(slice >= Duration::from_micros(100) && slice <= Duration::from_millis(100));
        }
    }
}
