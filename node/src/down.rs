//! Removes everything a cluster made on this host: tasks, shims, mounts, links, cgroups, files of Pods. Works
//! from what is on disk; no agent of the cluster may run.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use amphipod_shim_api::cgroup::CgroupHost;
use amphipod_shim_api::systemd::{self, names};
use amphipod_shim_api::{ShimAddress, ShimCommand, TaskClient};
use futures::StreamExt;
use futures::stream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::images;
use crate::layout::{Layout, LayoutError};
use crate::mounts;
use crate::network;
use crate::options::NodeOptions;
use crate::pods::cgroup::{PodCgroupError, end_slice};
use crate::pods::log_links;
use crate::pods::record::{self, Record, RuntimeKind, subdirectories};
use crate::pods::sandbox::POD_FILE;
use crate::pods::shims;
use crate::volumes::host::{self, HostError};

const SIGKILL: u32 = 9;
/// A killed task ends at once unless the kernel is stuck in it.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at a killed process: it is not our child, so nobody tells us.
const PROCESS_POLL: Duration = Duration::from_millis(5);

/// Which cluster, where.
#[derive(Clone, Debug)]
pub struct DownOptions {
    /// `amphipod-<id>`.
    pub cluster: String,
    pub id: String,
    /// Where things are kept.
    pub layout: Layout,
    pub run_dir: PathBuf,
    pub linux_shim: Vec<std::ffi::OsString>,
    pub wasm_shim: Vec<std::ffi::OsString>,
}

impl From<&NodeOptions> for DownOptions {
    fn from(options: &NodeOptions) -> Self {
        DownOptions {
            cluster: options.cluster.clone(),
            id: options.id.clone(),
            layout: options.layout.clone(),
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
    #[error(transparent)]
    Layout(#[from] LayoutError),
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
    let layout = &options.layout;
    // Others' Pods may be where this cluster's were to be.
    let has_pods = layout.is_of(&options.cluster)?;
    let tasks = match has_pods {
        true => unended(&layout.pods())?,
        false => Vec::new(),
    };
    let ends = tasks
        .iter()
        .map(|(record, bundle)| end_task(options, record, bundle));
    stream::iter(ends)
        .for_each_concurrent(shims::AT_ONCE, |end| end)
        .await;
    end_shims(&options.run_dir).await?;
    if has_pods {
        remove_pods(layout)?;
    }
    images::down(&layout.images())?;
    network::down(&options.id, &options.run_dir).await?;
    remove_cgroups(&options.cluster).await?;
    Ok(host::remove_tree(&options.run_dir)?)
}

/// What Pods have had on disk.
fn remove_pods(layout: &Layout) -> Result<(), DownError> {
    let pods = layout.pods();
    if !layout.shares_logs() {
        host::remove_tree(&layout.logs())?;
    }
    let own = own_pods(layout)?;
    for logs in logs_of(&own, list(&layout.logs())?) {
        host::remove_tree(&logs)?;
    }
    log_links::sweep(layout);
    for pod in own {
        host::remove_tree(&pod)?;
    }
    match std::fs::remove_dir(&pods) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
            ) =>
        {
            return Err(host::at("remove", &pods)(error).into());
        }
        // What is left in it is others'.
        _ => {}
    }
    // Nobody is left who would have their drivers take them back: they ran in Pods, as a rule. What lies there stays.
    let staged = layout.staging();
    mounts::release_under(&staged).map_err(host::at("unmount what is below", &staged))?;
    host::remove_tree(&layout.devices())?;
    Ok(layout.release()?)
}

/// Where others may have Pods too, only those that were written down.
fn own_pods(layout: &Layout) -> Result<Vec<PathBuf>, DownError> {
    let mut pods = list(&layout.pods())?;
    pods.retain(|pod| !layout.shares_root() || pod.join(POD_FILE).exists());
    Ok(pods)
}

/// Those of the directories of logs that are these Pods': others' may be beside them.
fn logs_of(pods: &[PathBuf], logs: Vec<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let uids: HashSet<_> = pods.iter().filter_map(|pod| pod.file_name()).collect();
    let uids: HashSet<_> = uids.into_iter().map(OsStr::to_owned).collect();
    logs.into_iter().filter(move |logs| {
        let uid = logs
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.rsplit('_').next());
        uid.is_some_and(|uid| uids.contains(OsStr::new(uid)))
    })
}

/// Every task that is not known to have ended, with its bundle.
fn unended(pods: &Path) -> Result<Vec<(Record, PathBuf)>, DownError> {
    let mut tasks = Vec::new();
    for pod in list(pods)? {
        let containers = pod.join("containers");
        let records = record::load_all(&containers);
        let records = records.map_err(|source| DownError::Read {
            path: containers.clone(),
            source,
        })?;
        for record in records.into_iter().filter(|r| r.exit().is_none()) {
            let attempt = containers
                .join(&record.container)
                .join(record.attempt.to_string());
            tasks.push((record, attempt.join("bundle")));
        }
    }
    Ok(tasks)
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
async fn end_shims(run_dir: &Path) -> Result<(), DownError> {
    let all = shims::addresses(run_dir).map_err(|source| DownError::Read {
        path: run_dir.to_owned(),
        source,
    })?;
    stream::iter(all)
        .for_each_concurrent(shims::AT_ONCE, end_shim)
        .await;
    Ok(())
}

/// Ends who answers on a socket. One that nobody answers on is what a shim that ended left; one that does not answer in
/// time is ended with its cgroup.
async fn end_shim(shim: ShimAddress) {
    let client = TaskClient::new(shim.clone());
    match tokio::time::timeout(END_LIMIT, client.shim_pid("")).await {
        Ok(Ok(pid)) => end_process(pid).await,
        Ok(Err(error)) => tracing::debug!(%error, ?shim, "nobody serves here any more"),
        Err(_) => tracing::warn!(?shim, "a shim does not answer"),
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    use amphipod_shim_api::api::{self, Task, TtrpcContext};
    use amphipod_shim_api::service::serve;
    use async_trait::async_trait;
    use tokio::process::{Child, Command};
    use tokio::sync::Barrier;

    use super::*;

    const SHIMS: usize = 8;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A shim that says who it is when all the others have been asked too.
    struct Slow {
        pid: u32,
        asked: Arc<Barrier>,
    }

    #[async_trait]
    impl Task for Slow {
        async fn connect(
            &self,
            _: &TtrpcContext,
            _: api::ConnectRequest,
        ) -> api::TtrpcResult<api::ConnectResponse> {
            self.asked.wait().await;
            Ok(api::ConnectResponse {
                shim_pid: self.pid,
                ..Default::default()
            })
        }
    }

    fn shim(sockets: &Path, number: usize, asked: &Arc<Barrier>) -> Child {
        let mut process = Command::new("/bin/sleep");
        let process = process.arg("1000").kill_on_drop(true).spawn().unwrap();
        let task = Arc::new(Slow {
            pid: process.id().unwrap(),
            asked: Arc::clone(asked),
        });
        let listener = UnixListener::bind(sockets.join(format!("{number}.sock"))).unwrap();
        tokio::spawn(serve(listener, task, std::future::pending()));
        process
    }

    #[tokio::test]
    async fn shims_are_ended_side_by_side() {
        let run_dir = tempfile::tempdir().unwrap();
        let sockets = run_dir.path().join(shims::SOCKETS);
        std::fs::create_dir(&sockets).unwrap();
        let asked = Arc::new(Barrier::new(SHIMS));
        let shims: Vec<Child> = (0..SHIMS).map(|n| shim(&sockets, n, &asked)).collect();
        // Nobody answers on this one any more.
        drop(UnixListener::bind(sockets.join("dead.sock")).unwrap());
        // A killed process is there until it has been waited for.
        let waited = shims
            .into_iter()
            .map(|mut shim| async move { shim.wait().await.unwrap().success() });
        let both = async { tokio::join!(futures::future::join_all(waited), end_shims(run_dir.path())) };
        let (ended, done) = tokio::time::timeout(PATIENCE, both)
            .await
            .expect("one waited for another");
        done.unwrap();
        assert_eq!(ended, [false; SHIMS]);
    }
}
