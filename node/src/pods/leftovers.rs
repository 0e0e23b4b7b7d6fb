//! What an agent that was killed has left: snapshots made for containers of which nothing was written down yet, or whose
//! records went first. Owns what is left over; how snapshots are made is for `images` to know.

use std::collections::HashSet;
use std::io;

use super::context::Context;
use super::record::{self, subdirectories};
use crate::images::StoreError;

/// Why it is not known what is left over; then everything stays.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    #[error("cannot read the records of containers: {0}")]
    Records(#[from] io::Error),
    #[error(transparent)]
    Images(#[from] StoreError),
}

/// Releases every snapshot that no record speaks of. To be called before Pods are worked on.
pub fn release_snapshots(ctx: &Context) -> Result<(), LeftoversError> {
    let mut known = HashSet::new();
    for pod in subdirectories(&ctx.options.data_dir.join("pods"))? {
        let records = record::load_all(&pod.join("containers"))?;
        known.extend(records.into_iter().map(|record| record.id));
    }
    for key in ctx.images.snapshots()? {
        if !known.contains(&key) {
            ctx.images.release(&key)?;
        }
    }
    Ok(())
}
