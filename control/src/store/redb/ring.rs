//! Where in the journal the next frame goes. Pure: offsets only.
//!
//! The journal is a ring: from `kept` (the oldest frame that is still needed) to `head` (where the newest one ends) it
//! must not be touched. It goes round when nothing is kept or it has its full size, and else grows: a small ring that went
//! round would soon be full.
use super::frame::ALIGN;

/// A journal begins this large: enough for an idle cluster between two settlements.
pub(super) const SMALLEST: u64 = 256 << 10;
/// It never grows beyond this; who writes then waits until something has been settled.
pub(super) const LARGEST: u64 = 32 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    At(u64),
    /// At `at`, once the journal is `to` long.
    Grown {
        at: u64,
        to: u64,
    },
    /// Nowhere until something is no longer needed.
    Full,
    /// Nowhere ever.
    TooLarge,
}

pub(super) fn place(capacity: u64, head: u64, kept: Option<u64>, size: u64) -> Place {
    if size > LARGEST {
        return Place::TooLarge;
    }
    match kept {
        _ if kept.is_none_or(|kept| kept <= head) && head + size <= capacity => Place::At(head),
        None if size <= capacity => Place::At(0),
        None => grown(capacity, 0, size),
        // `head` must never meet `kept` from behind: that would look like an empty ring.
        Some(kept) if kept > head && head + size < kept => Place::At(head),
        Some(kept) if kept > head => Place::Full,
        Some(_) if head + size <= LARGEST => grown(capacity, head, size),
        Some(kept) if size < kept => Place::At(0),
        Some(_) => Place::Full,
    }
}

fn grown(capacity: u64, at: u64, size: u64) -> Place {
    let to = (capacity * 2).max((at + size).next_multiple_of(SMALLEST));
    Place::Grown {
        at,
        to: to.min(LARGEST).next_multiple_of(ALIGN as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;

    #[test]
    fn frames_follow_each_other_go_round_and_wait() {
        for (name, (capacity, head, kept, size), want) in [
            ("fits behind", (M, 0, None, K), Place::At(0)),
            ("fits behind what is kept", (M, K, Some(0), K), Place::At(K)),
            ("to the very end", (M, M - K, Some(K), K), Place::At(M - K)),
            ("round, nothing is kept", (M, M - K, None, 2 * K), Place::At(0)),
            (
                "grows",
                (M, M - K, Some(M / 2), 2 * K),
                Place::Grown { at: M - K, to: 2 * M },
            ),
            (
                "grows by much",
                (M, 0, None, 5 * M),
                Place::Grown { at: 0, to: 5 * M },
            ),
            (
                "round, as large as it may be",
                (LARGEST, LARGEST - K, Some(4 * K), 2 * K),
                Place::At(0),
            ),
            ("behind the oldest", (M, K, Some(4 * K), 2 * K), Place::At(K)),
            ("never up to the oldest", (M, K, Some(3 * K), 2 * K), Place::Full),
            ("full", (LARGEST, LARGEST - K, Some(2 * K), 2 * K), Place::Full),
            ("too large", (M, 0, None, LARGEST + 1), Place::TooLarge),
        ] {
            assert_eq!(place(capacity, head, kept, size), want, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_frame_is_written_over_a_kept_one(steps: Vec<(u16, bool)>) {
            let (mut capacity, mut head) = (SMALLEST, 0);
            let mut kept: VecDeque<(u64, u64)> = VecDeque::new();
            for (blocks, settled) in steps {
                let size = (u64::from(blocks) + 1) * 512;
                if settled {
                    kept.drain(..kept.len().div_ceil(2));
                }
                let at = match place(capacity, head, kept.front().map(|frame| frame.0), size) {
                    Place::At(at) => at,
                    Place::Grown { at, to } => {
                        proptest::prop_assert!(to > capacity && to <= LARGEST);
                        capacity = to;
                        at
                    }
                    Place::Full => continue,
                    Place::TooLarge => unreachable!("u16 blocks are at most 32 MiB"),
                };
                proptest::prop_assert!(at + size <= capacity && (at == head || at == 0));
                proptest::prop_assert!(kept.iter().all(|(from, to)| at + size <= *from || *to <= at));
                kept.push_back((at, at + size));
                head = at + size;
            }
        }
    }
}
