//! How far a long pull has come, as an event that is raised again and again. Short ones are told of by their end alone.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval_at};

use super::context::Context;
use super::view::PodView;
use crate::images::{Digest, PullProgress, PullStep};

/// How often, and after how long for the first time.
const EVERY: Duration = Duration::from_secs(10);

/// Does the pull, and tells meanwhile.
pub async fn told<T>(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    name: &str,
    pulling: impl Future<Output = T>,
) -> T {
    tokio::select! {
        done = pulling => done,
        never = tell(ctx, pod, container, name) => match never {},
    }
}

async fn tell(ctx: &Context, pod: PodView<'_>, container: &Container, name: &str) -> Infallible {
    let Ok(reference) = ctx.images.reference(name) else {
        return std::future::pending().await;
    };
    let reference = reference.to_string();
    let mut steps = ctx.images.progress();
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    let mut amount = Amount::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => if let Some(text) = amount.text() {
                let topic = format!("progress of {name}");
                ctx.recorder
                    .progress(pod, &container.name, topic, format!("Pulling image {name:?}: {text}"));
            },
            step = next(&mut steps) => if step.reference == reference {
                amount.note(step.step);
            },
        }
    }
}

/// The next step of any pull; steps that were missed are made up for by later ones.
async fn next(steps: &mut Receiver<PullProgress>) -> PullProgress {
    loop {
        match steps.recv().await {
            Ok(step) => return step,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What is here of an image's layers.
#[derive(Default)]
struct Amount {
    total: u64,
    done: HashMap<Digest, u64>,
}

impl Amount {
    fn note(&mut self, step: PullStep) {
        match step {
            PullStep::Resolved { total_bytes, .. } => self.total = total_bytes,
            PullStep::Fetching { blob, done, .. } => {
                self.done.insert(blob, done);
            }
            _ => {}
        }
    }

    /// None before the size is known.
    fn text(&self) -> Option<String> {
        let done = self.done.values().sum::<u64>().min(self.total);
        let percent = (done * 100).checked_div(self.total)?;
        Some(format!("{percent}% ({done} of {} bytes)", self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_of_all_layers() {
        let mut amount = Amount::default();
        assert_eq!(amount.text(), None);
        let fetching = |blob: &[u8], done| PullStep::Fetching {
            blob: Digest::of(blob),
            done,
            total: 150,
        };
        let resolved = PullStep::Resolved {
            blobs: 2,
            total_bytes: 200,
        };
        for step in [
            resolved,
            fetching(b"a", 10),
            fetching(b"b", 40),
            fetching(b"a", 50),
        ] {
            amount.note(step);
        }
        assert_eq!(amount.text().unwrap(), "45% (90 of 200 bytes)");
    }
}
