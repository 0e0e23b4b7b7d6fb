//! The node's pulls as the user sees them: fetching, unpacking, compiling. Refuses to know why anything is pulled.

use std::collections::HashMap;

use amphipod_node::images::{Digest, PullProgress, PullStep};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::progress::{Progress, Task};

/// Shows every pull until the node is gone. A person who reads slower than the node pulls misses steps, not outcomes
/// that matter: what fails also shows in the Pod.
pub async fn show(mut steps: Receiver<PullProgress>, progress: Progress) {
    let mut pulls: HashMap<String, Pull> = HashMap::new();
    loop {
        match steps.recv().await {
            Ok(PullProgress {
                reference,
                step: PullStep::Done,
            }) => finish(pulls.remove(&reference), "pulled"),
            Ok(PullProgress {
                reference,
                step: PullStep::Failed { message },
            }) => {
                finish(pulls.remove(&reference), &format!("failed: {message}"));
            }
            Ok(PullProgress { reference, step }) => {
                let title = format!("pull {}", reference.rsplit('/').next().unwrap_or(&reference));
                pulls
                    .entry(reference)
                    .or_insert_with(|| Pull::new(progress.task(title)))
                    .take(step);
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn finish(pull: Option<Pull>, outcome: &str) {
    if let Some(pull) = pull {
        pull.task.done(outcome);
    }
}

/// One pull under way.
struct Pull {
    task: Task,
    total: u64,
    fetched: HashMap<Digest, u64>,
}

impl Pull {
    fn new(task: Task) -> Self {
        Self {
            task,
            total: 0,
            fetched: HashMap::new(),
        }
    }

    fn take(&mut self, step: PullStep) {
        match step {
            PullStep::Resolved { total_bytes, .. } => self.total = total_bytes,
            PullStep::Fetching { blob, done, .. } => {
                self.fetched.insert(blob, done);
                self.task.update("fetching");
                self.task.bytes(self.fetched.values().sum(), self.total);
            }
            PullStep::Unpacking { .. } => self.task.update("unpacking"),
            PullStep::Compiling { .. } => self.task.update("compiling"),
            PullStep::Done | PullStep::Failed { .. } => {}
        }
    }
}
