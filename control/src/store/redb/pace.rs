//! When a caller commits for himself, in the place of the writer's thread. Pure.
//!
//! To wake a thread, and to be woken by it, takes a sleeping processor as long as the commit itself. But who commits blocks
//! meanwhile, and a worker of the runtime with him: so it is done only while commits come one at a time and the
//! disk is quick, and the thread takes them together otherwise.
use std::time::Duration;

/// So many commits in a row were alone and quick before a caller makes one.
const ROW: u32 = 4;
/// What a commit may take: longer would be felt by others on the same worker.
const QUICK: Duration = Duration::from_millis(1);

/// What the last commits were like.
#[derive(Default)]
pub(super) struct Pace {
    row: u32,
}

impl Pace {
    /// `alone`: of one transaction, and no other was waiting at its end.
    pub(super) fn note(&mut self, alone: bool, took: Duration) {
        self.row = match alone && took < QUICK {
            true => self.row.saturating_add(1),
            false => 0,
        };
    }

    pub(super) fn is_lone(&self) -> bool {
        self.row >= ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_lone_and_quick_commits_is_needed_each_time() {
        let (quick, slow) = (Duration::from_micros(200), Duration::from_millis(1));
        for (name, last, want) in [
            ("another lone one", (true, quick), true),
            ("one that others waited for", (false, quick), false),
            ("a slow one", (true, slow), false),
        ] {
            let mut pace = Pace::default();
            for number in 0..ROW {
                assert!(!pace.is_lone(), "{number}");
                pace.note(true, quick);
            }
            assert!(pace.is_lone());
            pace.note(last.0, last.1);
            assert_eq!(pace.is_lone(), want, "{name}");
        }
    }
}
