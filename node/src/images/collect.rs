//! Removing images nobody uses while the store is open, least recently used first, as the kubelet's image garbage
//! collection does. Refuses to know why room is wanted and which images Pods use.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::digest::Digest;
use super::error::StoreError;
use super::image::Image;
use super::{Images, compiled, ingest, sweep};

/// When images were last asked for by this process, by id.
#[derive(Debug)]
pub(super) struct Uses {
    since: Instant,
    last: Mutex<HashMap<Digest, Instant>>,
}

impl Default for Uses {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            last: Mutex::default(),
        }
    }
}

impl Uses {
    /// Notes that `image` is wanted now.
    pub(super) fn note(&self, image: &Image) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(image.id.clone(), Instant::now());
    }

    /// An image nobody asked for counts as used when the store was opened.
    fn of(&self, image: &Image) -> Instant {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&image.id).copied().unwrap_or(self.since)
    }

    fn forget(&self, image: &Image) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.remove(&image.id);
    }
}

impl Images {
    /// Removes images that were not asked for within `idle` and are not among `in_use` (as [`Image::repo_digest`], or as
    /// [`Image::reference`]), with the
    /// content only they need, until `is_enough`; before them, what broken pulls left and compiled code of no image. The references that went; none while a pull is under way.
    ///
    /// # Errors
    /// The store cannot be read or changed.
    pub fn collect(
        &self,
        in_use: &BTreeSet<String>,
        idle: Duration,
        is_enough: impl Fn() -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let Ok(_no_pull) = self.inner.pulling.try_write() else {
            return Ok(Vec::new());
        };
        ingest::expire(&self.inner.layout, Duration::ZERO)?;
        compiled::expire(&self.inner.layout, compiled::A_MOMENT)?;
        let mut unused: Vec<(Instant, Image)> = self
            .list()?
            .into_iter()
            .filter(|image| !in_use.contains(&image.repo_digest) && !in_use.contains(&image.reference))
            .map(|image| (self.inner.uses.of(&image), image))
            .filter(|(used, _)| used.elapsed() >= idle)
            .collect();
        unused.sort_by_key(|(used, _)| *used);
        let mut gone = Vec::new();
        for (_, image) in unused {
            if is_enough() {
                break;
            }
            let record = self.inner.record_path(&image.reference, image.choice);
            fs::remove_file(&record).map_err(StoreError::io("remove", &record))?;
            self.inner.uses.forget(&image);
            sweep::sweep(&self.inner.layout)?;
            compiled::expire(&self.inner.layout, compiled::A_MOMENT)?;
            gone.push(image.reference);
        }
        Ok(gone)
    }
}
