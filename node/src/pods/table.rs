//! What the kubelet API may know of this node's Pods: their objects with the status last reported, and where
//! logs are. Workers write it, the server reads it; nobody waits while holding it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::observed::Observed;
use super::record::Record;

/// A cheap handle on the table.
#[derive(Clone, Debug)]
pub struct Table {
    log_root: PathBuf,
    pods: Arc<RwLock<HashMap<String, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    /// By id of the task.
    logs: BTreeMap<String, Log>,
}

#[derive(Debug)]
struct Log {
    container: String,
    path: PathBuf,
    running: watch::Sender<bool>,
}

impl Table {
    /// `log_root` is `DATA/node/logs`.
    pub fn new(log_root: PathBuf) -> Self {
        Table { log_root, pods: Arc::default() }
    }

    /// The data is whole even if a thread panicked beside it: each write is one assignment.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Entry>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Entry>> {
        self.pods.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a Pod with its status and the attempts seen.
    pub fn update(&self, pod: Pod, seen: &Observed) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mut pods = self.write();
        let pod = Arc::new(pod);
        let entry = pods.entry(uid).or_insert_with(|| Entry { pod: pod.clone(), logs: BTreeMap::new() });
        entry.pod = pod;
        let records = || seen.containers.values().flat_map(|s| s.last.iter().chain(&s.previous));
        entry.logs.retain(|id, _| records().any(|record| record.id == *id));
        records().for_each(|record| note(&mut entry.logs, record, &self.log_root));
    }

    pub fn remove(&self, uid: &str) {
        self.write().remove(uid);
    }
}

fn note(logs: &mut BTreeMap<String, Log>, record: &Record, root: &Path) {
    let Ok(path) = record.log_path.strip_prefix(root) else { return };
    let log = logs.entry(record.id.clone()).or_insert_with(|| Log {
        container: record.container.clone(),
        path: path.to_owned(),
        running: watch::channel(record.is_running()).0,
    });
    log.running.send_if_modified(|running| std::mem::replace(running, record.is_running()) != record.is_running());
}
