//! From single outcomes to a verdict: how often in a row makes it so. Pure.

use super::check::Outcome;

/// What holds after enough outcomes of a kind in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
}

/// Outcomes of the same kind counted in a row.
#[derive(Clone, Debug)]
pub struct Tally {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<Verdict>,
    run: u32,
}

impl Tally {
    /// Thresholds default to 1 and 3 (API reference, Probe).
    pub fn new(success: Option<i32>, failure: Option<i32>) -> Self {
        let or = |given: Option<i32>, default| {
            given
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        Self {
            success_threshold: or(success, 1),
            failure_threshold: or(failure, 3),
            last: None,
            run: 0,
        }
    }

    /// Counts an outcome; says the verdict once it is reached, and at every outcome that confirms it. An
    /// outcome that says nothing of the container (the probe itself did not work) counts for nothing.
    pub fn record(&mut self, outcome: &Outcome) -> Option<Verdict> {
        let now = match outcome {
            Outcome::Success | Outcome::Warning(_) => Verdict::Passed,
            Outcome::Failure(_) => Verdict::Failed,
            Outcome::Error(_) | Outcome::BrokenOff(_) => return None,
        };
        self.run = if self.last == Some(now) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(now);
        let threshold = match now {
            Verdict::Passed => self.success_threshold,
            Verdict::Failed => self.failure_threshold,
        };
        (self.run >= threshold).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outcomes as letters: s(uccess), w(arning), f(ailure), e(rror); verdicts as P, F or '.'.
    fn verdicts(success: i32, failure: i32, outcomes: &str) -> String {
        let mut tally = Tally::new(Some(success), Some(failure));
        let letter = |c| {
            let outcome = match c {
                's' => Outcome::Success,
                'w' => Outcome::Warning(String::new()),
                'f' => Outcome::Failure(String::new()),
                _ => Outcome::Error(String::new()),
            };
            match tally.record(&outcome) {
                Some(Verdict::Passed) => 'P',
                Some(Verdict::Failed) => 'F',
                None => '.',
            }
        };
        outcomes.chars().map(letter).collect()
    }

    #[test]
    fn thresholds_count_what_comes_in_a_row() {
        for (success, failure, outcomes, expected) in [
            (1, 3, "sfffs", "P..FP"),
            (1, 3, "ffsffsfff", "..P..P..F"),
            (2, 1, "sfss", ".F.P"),
            (1, 1, "fwf", "FPF"),
            (1, 3, "ffef", "...F"),
            (3, 3, "ssess", "...PP"),
            (0, 0, "sfff", "P..F"),
        ] {
            assert_eq!(verdicts(success, failure, outcomes), expected, "{outcomes}");
        }
    }
}
