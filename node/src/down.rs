//! Removes everything a cluster made on this host: tasks, shims, mounts, links, cgroups, files of Pods. Works
//! from what is on disk; no agent of the cluster may run.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::systemd::{self, names};
use amphipod_shim_api::{ShimAddress, ShimCommand, TaskClient};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::images;
use crate::network;
use crate::options::NodeOptions;
use crate::pods::cgroup::{PodCgroupError, end_slice};
use crate::pods::record::{self, Record, RuntimeKind, subdirectories};
use crate::volumes::host::{self, HostError};

const SIGKILL: u32 = 9;
/// A killed task ends at once unless the kernel is stuck in it.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Version of the Task API that our own shims speak.
const TASK_API: u32 = 3;
/// Between two looks at a killed process: it is not our child, so nobody tells us.
const PROCESS_POLL: Duration = Duration::from_millis(5);

/// Which cluster, where.
#[derive(Clone, Debug)]
pub struct DownOptions {
    /// `amphipod-<id>`.
    pub cluster: String,
    pub id: String,
    /// `DATA/node`.
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub linux_shim: Vec<std::ffi::OsString>,
    pub wasm_shim: Vec<std::ffi::OsString>,
}

impl From<&NodeOptions> for DownOptions {
    fn from(options: &NodeOptions) -> Self {
        DownOptions {
            cluster: options.cluster.clone(),
            id: options.id.clone(),
            data_dir: options.data_dir.clone(),
            run_dir: options.run_dir.clone(),
            linux_shim: options.linux_shim.clone(),
            wasm_shim: options.wasm_shim.clone(),
        }
    }
}

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("the Pod network cannot be removed: {0}")]
    Network(#[from] network::DownError),
    #[error("snapshots of containers cannot be removed: {0}")]
    Images(#[from] images::StoreError),
    #[error("cgroups of the cluster cannot be removed: {0}")]
    Cgroups(#[from] amphipod_shim_api::cgroup::CgroupError),
    #[error("cgroups of the cluster cannot be removed: {0}")]
    Slice(#[from] PodCgroupError),
}

/// Removes it all. Repeating it is fine; images stay.
pub async fn down(options: &DownOptions) -> Result<(), DownError> {
    let pods = options.data_dir.join("pods");
    for pod in list(&pods)? {
        let containers = pod.join("containers");
        let records = record::load_all(&containers);
        let records = records.map_err(|source| DownError::Read {
            path: containers.clone(),
            source,
        })?;
        for record in records.iter().filter(|r| r.exit().is_none()) {
            let bundle = containers
                .join(&record.container)
                .join(record.attempt.to_string())
                .join("bundle");
            end_task(options, record, &bundle).await;
        }
    }
    end_shims(&options.run_dir.join("s")).await?;
    host::remove_tree(&pods)?;
    host::remove_tree(&options.data_dir.join("logs"))?;
    images::down(&options.data_dir.join("images"))?;
    network::down(&options.id, &options.run_dir).await?;
    remove_cgroups(&options.cluster).await?;
    Ok(host::remove_tree(&options.run_dir)?)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, DownError> {
    subdirectories(dir).map_err(|source| DownError::Read {
        path: dir.to_owned(),
        source,
    })
}

/// Kills a task and makes its shim forget it; a shim that does not answer is cleaned up after.
async fn end_task(options: &DownOptions, record: &Record, bundle: &Path) {
    if let Some(address) = record.address.clone() {
        let client = TaskClient::new(address);
        let killed = client.kill(&record.id, SIGKILL, true).await;
        let ended = tokio::time::timeout(END_LIMIT, client.wait(&record.id)).await;
        let deleted = client.delete(&record.id).await;
        tracing::debug!(id = record.id, ?killed, ?ended, ?deleted, "ended a task");
        let stopped = client.shutdown(&record.id).await;
        if deleted.is_ok() && stopped.is_ok() {
            return;
        }
    }
    let words = match record.runtime {
        RuntimeKind::Native => &options.linux_shim,
        RuntimeKind::Wasm => &options.wasm_shim,
    };
    let shim = ShimCommand {
        words: words.clone(),
        namespace: options.cluster.clone(),
    };
    if let Err(error) = shim.delete(&record.id, bundle).await {
        tracing::warn!(%error, id = record.id, "cleaning up after a task failed");
    }
}

/// Ends the cluster's shims by their sockets: also one between two containers, of which no record speaks.
async fn end_shims(sockets: &Path) -> Result<(), DownError> {
    let read = |source| DownError::Read {
        path: sockets.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(sockets) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(read)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(read(error)),
    };
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|end| end == "sock");
    for socket in entries.into_iter().map(|entry| entry.path()).filter(is_socket) {
        // A socket that nobody answers on is what a shim that ended left.
        let address = ShimAddress {
            address: format!("unix://{}", socket.display()),
            version: TASK_API,
        };
        if let Ok(pid) = TaskClient::new(address).shim_pid("").await {
            end_process(pid).await;
        }
    }
    Ok(())
}

/// Kills a process that holds nothing any more, and waits until it is gone.
async fn end_process(pid: u32) {
    let Ok(pid) = i32::try_from(pid).map(Pid::from_raw) else {
        return;
    };
    let gone = async {
        while kill(pid, Signal::SIGKILL).is_ok() {
            tokio::time::sleep(PROCESS_POLL).await;
        }
    };
    if tokio::time::timeout(END_LIMIT, gone).await.is_err() {
        tracing::warn!(%pid, "a shim did not end");
    }
}

/// Removes the cluster's cgroups after killing what is left in them.
async fn remove_cgroups(cluster: &str) -> Result<(), DownError> {
    if systemd::is_running() {
        end_slice(&names::cluster_slice(cluster)).await?;
    }
    let cgroup = CgroupHost::discover()?.cgroup_everywhere(cluster)?;
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.kill()?;
    Ok(cgroup.remove().await?)
}
