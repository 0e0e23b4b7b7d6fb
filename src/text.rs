//! The program's own code in memory. Owns when what only a start or a burst needed of it is given back; refuses to know what runs.
//!
//! The kernel maps code by 64 KiB around each page that is run, and keeps it mapped until memory is short. After its start a
//! cluster at rest has 37 MiB of it resident, and needs half. Mapping some of it again costs microseconds.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::sys;

/// What starts is soon over.
const FIRST: Duration = Duration::from_secs(5);

const EVERY: Duration = Duration::from_secs(60);

/// Gives the code that does not run back, now and then, for as long as the runtime lives.
pub fn keep_small() {
    tokio::spawn(async {
        let mut ticks = interval_at(Instant::now() + FIRST, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = sys::give_back_code() {
                tracing::debug!(%error, "the program's code stays in memory");
                return;
            }
        }
    });
}
