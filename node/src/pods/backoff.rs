//! Exponential delay between attempts, as upstream computes it: 10 s, doubled to 300 s, forgotten after
//! ten quiet minutes. Owns the arithmetic; the clock is its caller's.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const INITIAL: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// A last attempt longer ago than this starts the series anew: twice the longest delay.
const FORGOTTEN: SignedDuration = SignedDuration::from_secs(600);

/// The first pause after a volume could not be made; each failure doubles it (upstream's `exponentialbackoff`).
const FIRST_OF_VOLUMES: SignedDuration = SignedDuration::from_millis(500);
/// The longest: what is asked for again costs requests to the API.
const LONGEST_OF_VOLUMES: SignedDuration = SignedDuration::from_secs(10);

/// The pause after `failures` failures in a row to make a Pod's volumes, and one more.
pub fn of_volumes(failures: u32) -> SignedDuration {
    let doubled = 2_i32
        .checked_pow(failures)
        .and_then(|by| FIRST_OF_VOLUMES.checked_mul(by));
    doubled.unwrap_or(LONGEST_OF_VOLUMES).min(LONGEST_OF_VOLUMES)
}

/// The series of delays of one key (a container's restarts, an image's pulls).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    last: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// Until when to wait after something failed at `event`; `None` when the next attempt is free.
    pub fn until(&self, event: Timestamp) -> Option<Timestamp> {
        let (delay, updated) = self.last?;
        if event.duration_since(updated) > FORGOTTEN {
            return None;
        }
        event.checked_add(delay).ok()
    }

    /// The delay in force.
    pub fn delay(&self) -> Duration {
        self.last
            .map_or(Duration::ZERO, |(delay, _)| delay.unsigned_abs())
    }

    /// Counts an attempt made at `now` for a failure at `event`.
    pub fn next(&mut self, event: Timestamp, now: Timestamp) {
        let delay = match self.last {
            Some((delay, updated)) if event.duration_since(updated) <= FORGOTTEN => {
                delay.saturating_add(delay).min(LONGEST)
            }
            _ => INITIAL,
        };
        self.last = Some((delay, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::tests::at;
    use go_values::duration;

    #[test]
    fn doubles_to_five_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(at(0)), None, "the first restart is free");
        let mut now = 0;
        for expected in ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"] {
            backoff.next(at(now), at(now));
            assert_eq!(duration::print(backoff.delay()), expected);
            let delay = backoff.delay().as_secs().cast_signed();
            assert_eq!(backoff.until(at(now)), Some(at(now + delay)));
            now += delay;
        }
    }

    #[test]
    fn ten_quiet_minutes_start_anew() {
        let mut backoff = Backoff::default();
        backoff.next(at(0), at(0));
        backoff.next(at(20), at(20));
        assert_eq!(backoff.until(at(621)), None);
        backoff.next(at(621), at(621));
        assert_eq!(duration::print(backoff.delay()), "10s");
    }

    #[test]
    fn volumes_are_looked_for_again_soon() {
        let pauses = [0, 1, 2, 4, 5, 40, u32::MAX].map(|n| of_volumes(n).as_millis());
        assert_eq!(pauses, [500, 1000, 2000, 8000, 10_000, 10_000, 10_000]);
    }
}
