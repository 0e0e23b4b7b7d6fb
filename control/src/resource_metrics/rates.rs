//! From totals to rates. Pure.
use jiff::{SignedDuration, Timestamp};

/// A container this young has used too little to be told by (metrics-server's bound).
const YOUNG: SignedDuration = SignedDuration::from_secs(10);

/// What something had used by a point of time, and holds then.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub at: Timestamp,
    /// Seconds of processors, since the start.
    pub cpu: f64,
    /// Bytes of the working set.
    pub memory: u64,
    /// A node's is not told.
    pub started_at: Option<Timestamp>,
}

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The end of `window`.
    pub at: Timestamp,
    /// The time the rate is an average of.
    pub window: SignedDuration,
    /// Billionths of a processor.
    pub nano_cores: u64,
    /// Bytes.
    pub memory: u64,
}

/// Of two points of one life; of a container that began since the first look, from its beginning on.
pub fn usage(before: Option<&Point>, last: &Point) -> Option<Usage> {
    let same_life = |before: &&Point| before.started_at == last.started_at && before.cpu <= last.cpu;
    let (since, used) = match before.filter(same_life) {
        Some(before) => (before.at, last.cpu - before.cpu),
        None => (
            last.started_at
                .filter(|start| last.at.duration_since(*start) >= YOUNG)?,
            last.cpu,
        ),
    };
    let window = last.at.duration_since(since);
    window.is_positive().then(|| Usage {
        at: last.at,
        window,
        nano_cores: nano_cores(used / window.as_secs_f64()),
        memory: last.memory,
    })
}

/// Processors are few: the number is far below what a `u64` holds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive, and casting saturates"
)]
fn nano_cores(cores: f64) -> u64 {
    (cores * 1e9).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: i64, cpu: f64, started_at: i64) -> Point {
        Point {
            at: Timestamp::from_second(at).expect("time"),
            cpu,
            memory: 1,
            started_at: Some(Timestamp::from_second(started_at).expect("time")),
        }
    }

    #[test]
    fn rates() {
        let rate = |before: Option<Point>, last: Point| {
            usage(before.as_ref(), &last).map(|u| (u.nano_cores, u.window.as_secs()))
        };
        let cases = [
            (
                "of two looks",
                Some(point(100, 1.0, 0)),
                point(115, 4.0, 0),
                Some((200_000_000, 15)),
            ),
            (
                "idle",
                Some(point(100, 1.0, 0)),
                point(115, 1.0, 0),
                Some((0, 15)),
            ),
            (
                "the first look",
                None,
                point(115, 6.0, 100),
                Some((400_000_000, 15)),
            ),
            ("too young", None, point(115, 6.0, 106), None),
            (
                "another life",
                Some(point(100, 9.0, 0)),
                point(115, 1.0, 105),
                Some((100_000_000, 10)),
            ),
            (
                "a counter that went back",
                Some(point(100, 9.0, 0)),
                point(115, 1.15, 0),
                Some((10_000_000, 115)),
            ),
            (
                "the same look again",
                Some(point(115, 1.0, 0)),
                point(115, 1.0, 0),
                None,
            ),
        ];
        for (what, before, last, expected) in cases {
            assert_eq!(rate(before, last), expected, "{what}");
        }
    }
}
