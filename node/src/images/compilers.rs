//! How many modules are compiled at once. Owns whose turn it is; refuses to know what compiling is.

use std::num::NonZero;
use std::time::{Duration, Instant};

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// A module up to this size does not wait behind larger ones: it takes a second or two and some hundred megabytes at most.
const SMALL_BYTES: u64 = 1 << 20;

/// One large module at a time, since its compilation uses every core and may take gigabytes; small ones beside it, as many
/// as there are cores.
#[derive(Debug)]
pub struct Compilers {
    large: Semaphore,
    small: Semaphore,
}

/// A turn, and the time it was waited for.
pub struct Turn<'a> {
    pub waited: Duration,
    _permit: SemaphorePermit<'a>,
}

impl Compilers {
    /// For this machine.
    pub fn of_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, NonZero::get))
    }

    fn new(cores: usize) -> Self {
        Self {
            large: Semaphore::new(1),
            small: Semaphore::new(cores),
        }
    }

    /// Waits for the turn of a module of so many bytes.
    ///
    /// # Errors
    /// Never: nobody closes the semaphores.
    pub async fn turn(&self, bytes: u64) -> Result<Turn<'_>, AcquireError> {
        let lane = match bytes {
            ..=SMALL_BYTES => &self.small,
            _ => &self.large,
        };
        let asked = Instant::now();
        let permit = lane.acquire().await?;
        Ok(Turn {
            waited: asked.elapsed(),
            _permit: permit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn small_modules_wait_for_small_ones_only() {
        let compilers = Compilers::new(2);
        let has_turn = |bytes| compilers.turn(bytes).now_or_never();
        let large = has_turn(SMALL_BYTES + 1);
        assert!(large.is_some());
        assert!(has_turn(SMALL_BYTES + 1).is_none(), "two large ones at once");
        let small = [has_turn(SMALL_BYTES), has_turn(234)];
        assert!(
            small.iter().all(Option::is_some),
            "a small one waits for a large one"
        );
        assert!(has_turn(234).is_none(), "more than there are cores");
        drop((large, small));
        assert!(has_turn(SMALL_BYTES + 1).is_some());
    }
}
