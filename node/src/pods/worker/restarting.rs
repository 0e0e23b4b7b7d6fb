//! How a worker starts everything of its Pod anew: it notes, in one file that is there or is not, which attempts count no more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::{Outcome, Worker};
use crate::files::write_atomic;
use crate::pods::observed::Seen;
use crate::pods::record::Record;
use crate::pods::restart_all::Superseded;
use crate::pods::view::PodView;
use crate::steady;

/// Those attempts of a Pod, by id, and what is told of their ends; in its directory.
const SUPERSEDED_FILE: &str = "superseded.json";

pub(super) type Attempts = BTreeMap<String, Superseded>;

impl Worker {
    /// Everything stays as it is until this is on disk.
    pub(super) fn restart_all(&mut self, pod: PodView<'_>) {
        self.seen.noting = true;
        self.seen.restarted_all = Some(steady::now());
        let made = |name: &String| pod.containers().any(|(c, _)| c.name == *name);
        let containers = self.seen.containers.iter().filter(|(name, _)| made(name));
        let attempts: Attempts = containers.flat_map(|(_, seen)| superseded(seen)).collect();
        let path = self.ctx.dirs(pod).file(SUPERSEDED_FILE);
        let name = pod.full_name();
        self.under_way.spawn(async move {
            if let Err(error) = save(&path, &attempts).await {
                tracing::error!(%error, pod = name, "an agent that returns may take a Pod that starts anew for one that has ended");
            }
            Outcome::Noted(attempts)
        });
    }

    pub(super) fn noted(&mut self, attempts: &Attempts) {
        self.seen.noting = false;
        self.mark(attempts);
    }

    /// What an earlier agent noted.
    pub(super) fn recall_superseded(&mut self, pod: PodView<'_>) {
        match load(&self.ctx.dirs(pod).file(SUPERSEDED_FILE)) {
            Ok(attempts) => self.mark(&attempts),
            Err(error) => {
                tracing::error!(%error, pod = %pod.full_name(), "it is not known what of a Pod was started anew");
            }
        }
    }

    fn mark(&mut self, attempts: &Attempts) {
        let find = |record: &Option<Record>| attempts.get(&record.as_ref()?.id).copied();
        for seen in self.seen.containers.values_mut() {
            seen.superseded = find(&seen.last);
            seen.previous_superseded = find(&seen.previous);
        }
    }
}

/// The newest attempt, and the one before it if it counted no more already.
fn superseded(seen: &Seen) -> impl Iterator<Item = (String, Superseded)> {
    let last = seen.last.as_ref().map(|r| (r.id.clone(), Superseded::of(seen)));
    let before = seen.previous.as_ref().zip(seen.previous_superseded);
    let before = before.map(|(r, why)| (r.id.clone(), why));
    last.into_iter().chain(before)
}

async fn save(path: &Path, attempts: &Attempts) -> io::Result<()> {
    write_atomic(path, serde_json::to_vec(attempts)?).await
}

fn load(path: &Path) -> io::Result<Attempts> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Attempts::new()),
        Err(error) => Err(error),
    }
}
