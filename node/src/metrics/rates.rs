//! From totals to rates: what was used of the processors between two readings. Keeps the last reading of each thing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::steady;

/// Readings nearer to each other say too little: the rate found before them holds.
const LEAST: SignedDuration = SignedDuration::from_secs(1);
/// What was not read for so long is gone.
const FORGET: SignedDuration = SignedDuration::from_mins(10);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
}

/// The last readings, by what was read.
#[derive(Debug, Default)]
pub struct Rates {
    last: Mutex<HashMap<String, Sample>>,
}

impl Rates {
    /// Takes a total in, in nanoseconds of processor time; answers with nanoseconds per second, once there were two.
    pub fn note(&self, key: &str, at: Timestamp, nanos: u64) -> Option<u64> {
        self.note_steadily(key, steady::since(at), nanos)
    }

    fn note_steadily(&self, key: &str, at: Timestamp, nanos: u64) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.get(key).copied();
        let rate = match before {
            Some(before) if at.duration_since(before.at) < LEAST => return before.rate,
            Some(before) => per_second(nanos.saturating_sub(before.nanos), at.duration_since(before.at)),
            None => None,
        };
        last.insert(key.to_owned(), Sample { at, nanos, rate });
        last.retain(|_, sample| at.duration_since(sample.at) < FORGET);
        rate
    }
}

fn per_second(nanos: u64, within: SignedDuration) -> Option<u64> {
    let scaled = u128::from(nanos) * 1_000_000_000;
    let divisor = u128::try_from(within.as_nanos()).ok().filter(|n| *n > 0)?;
    u64::try_from(scaled / divisor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_make_a_rate() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let rates = Rates::default();
        assert_eq!(rates.note_steadily("a", at(0), 0), None);
        assert_eq!(rates.note_steadily("a", at(500), 9), None, "too near");
        assert_eq!(
            rates.note_steadily("a", at(2000), 1_000_000_000),
            Some(500_000_000)
        );
        assert_eq!(
            rates.note_steadily("a", at(2100), 2_000_000_000),
            Some(500_000_000)
        );
        assert_eq!(rates.note_steadily("a", at(4000), 0), Some(0), "it began anew");
        assert_eq!(rates.note_steadily("b", at(4000), 0), None);
    }
}
