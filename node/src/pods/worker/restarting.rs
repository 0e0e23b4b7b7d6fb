//! How a worker starts everything of its Pod anew: it notes, in one file that is there or is not, which attempts count no more.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::{Outcome, Worker};
use crate::files::write_atomic;
use crate::pods::observed::Seen;
use crate::pods::view::PodView;
use crate::steady;

/// Ids of those attempts of a Pod, in its directory.
const SUPERSEDED_FILE: &str = "superseded.json";

impl Worker {
    /// Everything stays as it is until this is on disk.
    pub(super) fn restart_all(&mut self, pod: PodView<'_>) {
        self.seen.noting = true;
        self.seen.restarted_all = Some(steady::now());
        let made = |name: &String| pod.containers().any(|(c, _)| c.name == *name);
        let containers = self.seen.containers.iter().filter(|(name, _)| made(name));
        let ids: BTreeSet<String> = containers.flat_map(|(_, seen)| ids(seen)).collect();
        let path = self.ctx.dirs(pod).file(SUPERSEDED_FILE);
        let name = pod.full_name();
        self.under_way.spawn(async move {
            if let Err(error) = save(&path, &ids).await {
                tracing::error!(%error, pod = name, "an agent that returns may take a Pod that starts anew for one that has ended");
            }
            Outcome::Noted(ids)
        });
    }

    pub(super) fn noted(&mut self, ids: &BTreeSet<String>) {
        self.seen.noting = false;
        self.mark(ids);
        for seen in self.seen.containers.values_mut().filter(|s| s.superseded) {
            // It is started as for the first time.
            seen.waiting.take_if(|w| w.reason == "CrashLoopBackOff");
        }
    }

    /// What an earlier agent noted.
    pub(super) fn recall_superseded(&mut self, pod: PodView<'_>) {
        match load(&self.ctx.dirs(pod).file(SUPERSEDED_FILE)) {
            Ok(ids) => self.mark(&ids),
            Err(error) => {
                tracing::error!(%error, pod = %pod.full_name(), "it is not known what of a Pod was started anew");
            }
        }
    }

    fn mark(&mut self, ids: &BTreeSet<String>) {
        for seen in self.seen.containers.values_mut() {
            seen.superseded = seen.last.as_ref().is_some_and(|r| ids.contains(&r.id));
            seen.previous_superseded = seen.previous.as_ref().is_some_and(|r| ids.contains(&r.id));
        }
    }
}

/// The newest attempt, and the one before it if it counted no more already.
fn ids(seen: &Seen) -> impl Iterator<Item = String> {
    let before = seen.previous.as_ref().filter(|_| seen.previous_superseded);
    seen.last.iter().chain(before).map(|record| record.id.clone())
}

async fn save(path: &Path, ids: &BTreeSet<String>) -> io::Result<()> {
    write_atomic(path, serde_json::to_vec(ids)?).await
}

fn load(path: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}
