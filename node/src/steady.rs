//! Time that nobody sets: the wall clock as it was when the agent first asked, and what has passed since. Whatever is decided by how
//! long something took (back-offs, retries, grace periods, deadlines) goes by it, so that a host whose clock is put forward or back
//! by hours restarts nothing late and ends nothing early. What others are told is the wall clock's, `Timestamp::now`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Now, on a line that only goes forward, at the speed of a clock. Says nothing to anyone outside this process.
pub fn now() -> Timestamp {
    static BEGINNING: OnceLock<(Timestamp, Instant)> = OnceLock::new();
    let (wall, since) = BEGINNING.get_or_init(|| (Timestamp::now(), Instant::now()));
    wall.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX)
}

/// The point on that line which was `at` by the wall clock; what is still to come by it is now.
pub fn since(at: Timestamp) -> Timestamp {
    before(now(), Timestamp::now(), at)
}

fn before(steady: Timestamp, wall: Timestamp, at: Timestamp) -> Timestamp {
    let age = Duration::try_from(wall.duration_since(at)).unwrap_or_default();
    steady.checked_sub(age).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward() {
        let first = now();
        assert!(now() >= first);
        assert!(since(Timestamp::now()) <= now());
    }

    #[test]
    fn ages_are_what_counts() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (steady, wall, point, expected) in [
            (100, 100, 40, 40),
            // The clock was put forward by an hour since the agent started.
            (100, 3700, 3640, 40),
            // And back: what happened a moment ago seems to be still to come.
            (100, 50, 90, 100),
        ] {
            assert_eq!(before(at(steady), at(wall), at(point)), at(expected));
        }
    }
}
