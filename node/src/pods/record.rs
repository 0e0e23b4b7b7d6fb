//! What is remembered on disk of each attempt to run a container: `record.json`, written atomically, so
//! that an agent killed at any point knows after its return what it had started. Owns the format and the
//! file; refuses to know what a shim is beyond its command and address.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use amphipod_shim_api::ShimAddress;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use crate::files::{write_atomic, write_of_this_boot};
use crate::removal;

/// Name of the file in an attempt's directory.
pub const RECORD_FILE: &str = "record.json";

/// One attempt at running one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Id of the task at the shim, 64 hex digits.
    pub id: String,
    pub pod_uid: String,
    pub pod_namespace: String,
    pub pod_name: String,
    pub container: String,
    /// 0 for the first run; the container's restart count.
    pub attempt: u32,
    /// The image as the Pod names it.
    pub image: String,
    /// The image with its digest, as reported in `imageID`.
    pub image_id: String,
    pub runtime: RuntimeKind,
    /// Whom it runs as; absent where an earlier agent wrote the record of a guest.
    pub user: Option<User>,
    /// ttrpc address the shim printed; absent until it was started.
    pub address: Option<ShimAddress>,
    /// The signal that asks it to stop: the image's StopSignal, else SIGTERM.
    pub stop_signal: u32,
    pub log_path: PathBuf,
    /// Hash of the container's spec: a changed image is a new container.
    pub spec_hash: String,
    /// What it was given to use; absent in records of before it could change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// What its Pod as a whole was given with it, if the Pod says so (KEP-2837).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_resources: Option<ResourceRequirements>,
    /// The boot it was created in: no task outlives one.
    pub boot_id: String,
    pub created_at: Timestamp,
    pub state: State,
}

/// Which shim runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeKind {
    Native,
    Wasm,
}

/// A process's identity, as `status.containerStatuses[].user` shows it (KEP-3619).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// `gid` among them, in order.
    pub groups: Vec<u32>,
}

/// Where an attempt is in its life. The only edges are Created → Running → Exited and Created → Exited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum State {
    /// The bundle is there; the task may or may not be.
    Created,
    #[serde(rename_all = "camelCase")]
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: Option<String>,
}

impl Record {
    pub fn is_wasm(&self) -> bool {
        self.runtime == RuntimeKind::Wasm
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    pub fn started_at(&self) -> Option<Timestamp> {
        match &self.state {
            State::Created => None,
            State::Running { started_at } => Some(*started_at),
            State::Exited(exit) => exit.started_at,
        }
    }

    /// Writes the record into `dir` by rename: a reader sees the old one or the new one. An end is on the disk then: it is
    /// told after the machine itself has ended, too. What runs ends with the machine, and its record with it.
    pub async fn save(&self, dir: &Path) -> io::Result<()> {
        let (path, bytes) = (dir.join(RECORD_FILE), serde_json::to_vec_pretty(self)?);
        match self.exit() {
            Some(_) => write_atomic(&path, bytes).await,
            None => write_of_this_boot(&path, &bytes),
        }
    }

    pub fn load(dir: &Path) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(dir.join(RECORD_FILE))?)?)
    }
}

/// Every record under `containers/` of a Pod's directory, ordered by container and attempt. An attempt
/// without a readable record was never started: its directory is removed.
pub fn load_all(containers: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for container in subdirectories(containers)? {
        for attempt in subdirectories(&container)? {
            match Record::load(&attempt) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %attempt.display(), %error, "removing an attempt without a record");
                    removal::remove(&attempt)?;
                }
            }
        }
    }
    records.sort_by(|a, b| (&a.container, a.attempt).cmp(&(&b.container, b.attempt)));
    Ok(records)
}

/// Directories right under `dir`; none when it does not exist.
pub fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub fn running() -> State {
        State::Running { started_at: at(5) }
    }

    pub fn exited(exit_code: i32) -> State {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        State::Exited(Exit {
            started_at: Some(at(5)),
            finished_at: Some(at(6)),
            exit_code,
            reason: reason.into(),
            message: None,
        })
    }

    pub fn record(container: &str, attempt: u32, state: State) -> Record {
        Record {
            id: format!("{container}-{attempt}"),
            pod_uid: "u".into(),
            pod_namespace: "default".into(),
            pod_name: "p".into(),
            container: container.into(),
            attempt,
            image: "i".into(),
            image_id: "i@sha256:0".into(),
            runtime: RuntimeKind::Native,
            user: None,
            address: None,
            stop_signal: 15,
            log_path: "/l".into(),
            spec_hash: "h".into(),
            resources: None,
            pod_resources: None,
            boot_id: "boot".into(),
            created_at: Timestamp::UNIX_EPOCH,
            state,
        }
    }

    #[tokio::test]
    async fn survives_the_disk_and_orders_attempts() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit {
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Some(Timestamp::UNIX_EPOCH),
            exit_code: 3,
            reason: "Error".into(),
            message: None,
        };
        let written = [
            record("a", 0, State::Exited(exit)),
            record(
                "a",
                1,
                State::Running {
                    started_at: Timestamp::UNIX_EPOCH,
                },
            ),
            record("b", 0, State::Created),
        ];
        for r in &written {
            let at = dir.path().join(&r.container).join(r.attempt.to_string());
            fs::create_dir_all(&at).unwrap();
            r.save(&at).await.unwrap();
        }
        fs::create_dir_all(dir.path().join("b/1")).unwrap();
        assert_eq!(load_all(dir.path()).unwrap(), written);
        assert!(
            !dir.path().join("b/1").exists(),
            "an attempt without a record is removed"
        );
    }

    #[test]
    fn no_directory_means_no_records() {
        assert_eq!(load_all(Path::new("/nonexistent/containers")).unwrap(), []);
    }
}
