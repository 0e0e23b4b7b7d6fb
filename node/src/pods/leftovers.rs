//! What an agent that was killed has left: snapshots made for containers of which nothing was written down yet, or whose
//! records went or ended first, and directories of Pods that were not written down. Owns what is left over; how snapshots
//! are made is for `images` to know.

use std::io;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::image_volumes;
use super::record::{self, Record, subdirectories};
use super::sandbox::POD_FILE;
use crate::images::{Images, StoreError};
use crate::volumes::host::{self, HostError};

/// Why it is not known what is left over; then everything stays.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    #[error("cannot read the records of containers: {0}")]
    Records(#[from] io::Error),
    #[error(transparent)]
    Images(#[from] StoreError),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Removes what no Pod stands on. To be called before Pods are worked on.
pub fn sweep(ctx: &Context) -> Result<(), LeftoversError> {
    let pods = ctx.options.data_dir.join("pods");
    forget_unwritten(&pods)?;
    release_snapshots(&ctx.images, &subdirectories(&pods)?)
}

/// Removes the directories of Pods that were never written down: nothing else was made for them yet.
fn forget_unwritten(pods: &Path) -> Result<(), LeftoversError> {
    for pod in subdirectories(pods)? {
        if !pod.join(POD_FILE).try_exists()? {
            host::remove_tree(&pod)?;
        }
    }
    Ok(())
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
            ("volume-uid-2-data", false),
        ] {
            assert_eq!(is_needed(key, &records, &["uid-1"]), needed, "{key}");
        }
    }

    #[test]
    fn directories_without_a_pod_go() {
        let pods = tempfile::tempdir().unwrap();
        for uid in ["written", "not"] {
            std::fs::create_dir_all(pods.path().join(uid).join("volumes")).unwrap();
        }
        std::fs::write(pods.path().join("written").join(POD_FILE), "{}").unwrap();
        std::fs::write(pods.path().join("not").join(".pod.json.1"), "{").unwrap();
        forget_unwritten(pods.path()).unwrap();
        assert_eq!(
            subdirectories(pods.path()).unwrap(),
            [pods.path().join("written")]
        );
    }
}
