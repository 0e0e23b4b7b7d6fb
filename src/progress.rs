//! What the user sees while things happen: bars on a terminal, plain lines when piped. Refuses to know what happens.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// The stream of news to the user.
#[derive(Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// One thing under way.
pub struct Task {
    name: String,
    progress: Progress,
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Bars when standard output is a terminal.
    pub fn new() -> Self {
        Self {
            bars: std::io::stdout().is_terminal().then(MultiProgress::new),
        }
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) if bars.println(line).is_ok() => {}
            _ => print_line(line),
        }
    }

    /// Something begins; it is shown until `done`.
    pub fn task(&self, name: impl Into<String>) -> Task {
        let name = name.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(spinner());
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        Task {
            name,
            progress: self.clone(),
            bar,
            last: String::new(),
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix:32} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn transfer() -> ProgressStyle {
    ProgressStyle::with_template(
        "  {spinner} {prefix:32} {bar:24} {binary_bytes}/{binary_total_bytes} {wide_msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Task {
    /// How it stands now; piped output gets a line for each change.
    pub fn update(&mut self, state: &str) {
        if self.last == state {
            return;
        }
        self.last = state.to_owned();
        match &self.bar {
            Some(bar) => bar.set_message(state.to_owned()),
            None => print_line(&format!("  {:32} {state}", self.name)),
        }
    }

    /// How many bytes of how many; only a bar shows it.
    pub fn bytes(&self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(all) {
                bar.set_style(transfer());
                bar.set_length(all);
            }
            bar.set_position(done);
        }
    }

    /// It is over, with `outcome` as the last word on it.
    pub fn done(mut self, outcome: &str) {
        match self.bar.take() {
            Some(bar) => {
                bar.finish_and_clear();
                self.progress.say(&format!("  ✓ {:32} {outcome}", self.name));
            }
            None => self.update(outcome),
        }
    }
}

/// An error, with its causes, for a person.
pub fn complain(why: &anyhow::Error) {
    let mut stderr = std::io::stderr();
    // Where standard error is closed there is nobody left to tell.
    let _ = writeln!(stderr, "amphipod: {}", explain(why.chain().map(words)));
}

/// An error's own words; of an API server's refusal the message of its `Status`, which says all.
pub fn words(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
        return status.message.clone();
    }
    match error.downcast_ref::<Box<kube::core::Status>>() {
        Some(status) => status.message.clone(),
        None => error.to_string(),
    }
}

/// Joins an error with its causes, leaving out those it quotes already.
fn explain(chain: impl Iterator<Item = String>) -> String {
    chain.fold(String::new(), |text, cause| {
        match (text.is_empty(), text.contains(&cause)) {
            (true, _) => cause,
            (false, true) => text,
            (false, false) => format!("{text}: {cause}"),
        }
    })
}

/// A line on standard output.
pub fn print_line(line: &str) {
    let mut stdout = std::io::stdout();
    // A reader that has gone away (`| head`) is no reason to end a cluster.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let tell = |chain: &[&str]| explain(chain.iter().map(|text| (*text).to_owned()));
        assert_eq!(
            tell(&["cannot read x: not found", "not found"]),
            "cannot read x: not found"
        );
        assert_eq!(
            tell(&["cannot start", "cannot bind", "in use"]),
            "cannot start: cannot bind: in use"
        );
    }
}
