//! What an agent that was killed has left: snapshots made for containers of which nothing was written down yet, or whose
//! records went or ended first, and directories of Pods that were not written down. Owns what is left over; how snapshots
//! are made is for `images` to know.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::context::Context;
use super::image_volumes;
use super::record::{self, Record, subdirectories};
use super::sandbox::POD_FILE;
use crate::csi::published;
use crate::images::{Images, StoreError};
use crate::volumes::host::{self, HostError};

/// Why it is not known what is left over; then everything stays.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    #[error("cannot read what was written of a Pod: {0}")]
    Records(#[from] io::Error),
    #[error(transparent)]
    Images(#[from] StoreError),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Removes the snapshots that no Pod stands on. To be called before Pods are worked on.
pub fn sweep(ctx: &Context) -> Result<(), LeftoversError> {
    release_snapshots(&ctx.images, &subdirectories(&ctx.pods_dir())?)
}

/// Removes the directories of Pods that were never written down: nothing else was made for them yet. One whose Pod the machine
/// lost with its power has nothing either, but what drivers hold for it. To be called before anybody reads what the Pods have.
pub fn forget_unwritten(pods: &Path) -> io::Result<()> {
    for pod in subdirectories(pods)? {
        if let Err(error) = forget_if_unwritten(&pod) {
            tracing::warn!(%error, path = %pod.display(), "whether a Pod has anything here is not known; it stays");
        }
    }
    Ok(())
}

fn forget_if_unwritten(pod: &Path) -> Result<(), LeftoversError> {
    if !is_written(&pod.join(POD_FILE))? && published::of_pod(pod)?.is_empty() {
        host::remove_tree(pod)?;
    }
    Ok(())
}

fn is_written(file: &Path) -> io::Result<bool> {
    match fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice::<IgnoredAny>(&bytes).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Releases every snapshot that nobody needs.
fn release_snapshots(images: &Images, pods: &[PathBuf]) -> Result<(), LeftoversError> {
    let mut records = Vec::new();
    for pod in pods {
        records.extend(record::load_all(&pod.join("containers"))?);
    }
    let uids: Vec<_> = pods.iter().filter_map(|pod| pod.file_name()?.to_str()).collect();
    let keys = images.snapshots()?;
    for key in keys.iter().filter(|key| !is_needed(key, &records, &uids)) {
        images.release(key)?;
    }
    Ok(())
}

/// Whether a container that has not ended, or a volume of a Pod, stands on the snapshot. One that has ended gave it back,
/// or was about to.
fn is_needed(key: &str, records: &[Record], uids: &[&str]) -> bool {
    records
        .iter()
        .any(|record| record.id == key && record.exit().is_none())
        || uids.iter().any(|uid| image_volumes::is_of(key, uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::tests::record;
    use crate::pods::record::{Exit, State};
    use jiff::Timestamp;

    #[test]
    fn containers_that_have_not_ended_and_volumes_keep_their_snapshots() {
        let exit = Exit {
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: "Completed".into(),
            message: None,
        };
        let states = [
            ("created", State::Created),
            (
                "running",
                State::Running {
                    started_at: Timestamp::UNIX_EPOCH,
                },
            ),
            ("ended", State::Exited(exit)),
        ];
        let records = states.map(|(id, state)| Record {
            id: id.into(),
            ..record("c", 0, state)
        });
        for (key, needed) in [
            ("created", true),
            ("running", true),
            ("ended", false),
            ("unknown", false),
            ("volume-uid-1-data", true),
            ("volume-uid-1-data.idmapped", true),
            ("volume-uid-2-data", false),
        ] {
            assert_eq!(is_needed(key, &records, &["uid-1"]), needed, "{key}");
        }
    }

    #[test]
    fn directories_without_a_pod_go() {
        let pods = tempfile::tempdir().unwrap();
        for uid in ["written", "not", "lost", "torn"] {
            std::fs::create_dir_all(pods.path().join(uid).join("volumes")).unwrap();
        }
        std::fs::write(pods.path().join("written").join(POD_FILE), "{}").unwrap();
        std::fs::write(pods.path().join("lost").join(POD_FILE), "").unwrap();
        std::fs::write(pods.path().join("not").join(".pod.json.1"), "{").unwrap();
        // What a driver holds for this one cannot be read; the others go all the same.
        let csi = pods.path().join("torn").join(published::DIRECTORY);
        std::fs::create_dir(&csi).unwrap();
        std::fs::write(csi.join("v.json"), "{").unwrap();
        forget_unwritten(pods.path()).unwrap();
        let mut stay = subdirectories(pods.path()).unwrap();
        stay.sort();
        assert_eq!(stay, ["torn", "written"].map(|uid| pods.path().join(uid)));
    }
}
