//! What the kubelet API may know of this node's Pods: their objects with the status last reported, and where
//! logs are. Workers write it, the server reads it; nobody waits while holding it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use amphipod_shim_api::ShimAddress;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::observed::Observed;
use super::record::Record;
use crate::exec::Target;
use crate::server::{LogFile, PodNetwork, PodTable};

/// A cheap handle on the table.
#[derive(Clone, Debug)]
pub struct Table {
    log_root: PathBuf,
    pods_root: PathBuf,
    namespaces: PathBuf,
    pods: Arc<RwLock<HashMap<String, Entry>>>,
    guests_changed: watch::Sender<()>,
}

/// A Wasm container that runs.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Of its task.
    pub id: String,
    pub address: ShimAddress,
    pub pod: Arc<Pod>,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    logs: Vec<Log>,
    /// Running attempts, by name of the container. Of these there are few, and a tree's node has room for eleven.
    targets: Vec<(String, Target)>,
    /// Ids of those of them that are Wasm, and where their shim is.
    guests: Vec<(String, ShimAddress)>,
}

#[derive(Debug)]
struct Log {
    /// Of the task.
    id: String,
    container: String,
    path: PathBuf,
    running: watch::Sender<bool>,
}

impl Table {
    /// `log_root` is `DATA/node/logs`, `pods_root` `DATA/node/pods`, `namespaces` `<run>/ns`.
    pub fn new(log_root: PathBuf, pods_root: PathBuf, namespaces: PathBuf) -> Self {
        Table {
            log_root,
            pods_root,
            namespaces,
            pods: Arc::default(),
            guests_changed: watch::Sender::default(),
        }
    }

    /// The data is whole even if a thread panicked beside it: each write is one assignment.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Entry>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Entry>> {
        self.pods.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a Pod with its status and the attempts seen.
    pub fn update(&self, pod: Arc<Pod>, seen: &Observed) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let mut pods = self.write();
        let entry = pods.entry(uid).or_insert_with(|| Entry {
            pod: pod.clone(),
            logs: Vec::new(),
            targets: Vec::new(),
            guests: Vec::new(),
        });
        let relabelled = entry.pod.metadata.labels != pod.metadata.labels;
        entry.pod = pod;
        let records = || {
            seen.containers
                .values()
                .flat_map(|s| s.last.iter().chain(&s.previous))
        };
        entry
            .logs
            .retain(|log| records().any(|record| record.id == log.id));
        records().for_each(|record| note(&mut entry.logs, record, &self.log_root));
        let running = || seen.containers.values().filter_map(|s| s.last.as_ref());
        entry.targets = running().filter_map(|record| self.target_of(record)).collect();
        let guests = running().filter(|record| record.is_wasm() && record.is_running());
        let guests = guests.filter_map(|record| Some((record.id.clone(), record.address.clone()?)));
        let guests: Vec<_> = guests.collect();
        let before = std::mem::replace(&mut entry.guests, guests);
        if before != entry.guests || (relabelled && !before.is_empty()) {
            self.guests_changed.send_replace(());
        }
    }

    /// The Wasm containers that run.
    pub fn guests(&self) -> Vec<Guest> {
        let pods = self.read();
        let of = |entry: &Entry| -> Vec<Guest> {
            let guest = |(id, address): &(String, ShimAddress)| Guest {
                id: id.clone(),
                address: address.clone(),
                pod: entry.pod.clone(),
            };
            entry.guests.iter().map(guest).collect()
        };
        pods.values().flat_map(of).collect()
    }

    /// Changes whenever there are other guests, or their Pods have other labels.
    pub fn guest_changes(&self) -> watch::Receiver<()> {
        self.guests_changed.subscribe()
    }

    fn target_of(&self, record: &Record) -> Option<(String, Target)> {
        let address = record.address.clone().filter(|_| record.is_running())?;
        let attempt = record.attempt.to_string();
        let containers = self.pods_root.join(&record.pod_uid).join("containers");
        let target = Target {
            id: record.id.clone(),
            address,
            bundle: containers.join(&record.container).join(attempt).join("bundle"),
            is_guest: record.is_wasm(),
        };
        Some((record.container.clone(), target))
    }

    /// Id of a container's running attempt.
    pub fn running(&self, uid: &str, container: &str) -> Option<String> {
        let pods = self.read();
        Some(pods.get(uid)?.target(container)?.id.clone())
    }

    pub fn remove(&self, uid: &str) {
        self.write().remove(uid);
    }
}

impl Entry {
    fn target(&self, container: &str) -> Option<&Target> {
        let found = self.targets.iter().find(|(name, _)| name == container);
        found.map(|(_, target)| target)
    }
}

fn note(logs: &mut Vec<Log>, record: &Record, root: &Path) {
    let Ok(path) = record.log_path.strip_prefix(root) else {
        return;
    };
    let is_running = record.is_running();
    match logs.iter().find(|log| log.id == record.id) {
        Some(log) => {
            log.running
                .send_if_modified(|running| std::mem::replace(running, is_running) != is_running);
        }
        None => logs.push(Log {
            id: record.id.clone(),
            container: record.container.clone(),
            path: path.to_owned(),
            running: watch::channel(is_running).0,
        }),
    }
}

impl PodTable for Table {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().values().map(|entry| entry.pod.clone()).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        self.read()
            .values()
            .map(|entry| &entry.pod)
            .find(|pod| is(pod))
            .cloned()
    }

    fn log(&self, pod_uid: &str, container: &str, container_id: &str) -> Option<LogFile> {
        let pods = self.read();
        let log = pods
            .get(pod_uid)?
            .logs
            .iter()
            .find(|log| log.id == container_id && log.container == container)?;
        Some(LogFile {
            root: self.log_root.clone(),
            path: log.path.clone(),
            running: log.running.subscribe(),
        })
    }

    fn target(&self, pod_uid: &str, container: &str) -> Option<Target> {
        self.read().get(pod_uid)?.target(container).cloned()
    }

    fn network(&self, pod_uid: &str) -> Option<PodNetwork> {
        let pods = self.read();
        let entry = pods.get(pod_uid).filter(|entry| !entry.targets.is_empty())?;
        let of_host = entry.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let own = || PodNetwork::Own(self.namespaces.join(pod_uid).join("net"));
        Some(if of_host { PodNetwork::Host } else { own() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::observed::Seen;
    use crate::pods::record::State;
    use crate::pods::record::tests::record;
    use jiff::Timestamp;
    use serde_json::json;

    fn pod() -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn seen(attempt: u32, running: bool) -> Observed {
        let at = Timestamp::UNIX_EPOCH;
        let state = if running {
            State::Running { started_at: at }
        } else {
            State::Created
        };
        let mut last = record("c", attempt, state);
        last.log_path = format!("/logs/n_p_u/c/{attempt}.log").into();
        let seen = Seen {
            last: Some(last),
            ..Seen::default()
        };
        Observed {
            containers: [("c".to_owned(), Box::new(seen))].into(),
            ..Observed::default()
        }
    }

    #[tokio::test]
    async fn logs_are_found_by_id_and_end() {
        let table = Table::new("/logs".into(), "/pods".into(), "/ns".into());
        table.update(pod(), &seen(0, true));
        let mut log = table.log("u", "c", "c-0").unwrap();
        assert_eq!(log.path, Path::new("n_p_u/c/0.log"));
        assert!(*log.running.borrow());
        assert!(table.log("u", "other", "c-0").is_none() && table.log("u", "c", "c-1").is_none());
        table.update(pod(), &seen(0, false));
        log.running.wait_for(|running| !running).await.unwrap();
        table.update(pod(), &seen(1, true));
        assert!(table.log("u", "c", "c-0").is_none());
        assert!(
            log.running.changed().await.is_err(),
            "a forgotten attempt runs no more"
        );
    }

    #[test]
    fn guests_are_the_wasm_containers_that_run() {
        let table = Table::new("/logs".into(), "/pods".into(), "/ns".into());
        let mut changes = table.guest_changes();
        let mut runs = seen(0, true);
        let last = runs.containers.get_mut("c").unwrap().last.as_mut().unwrap();
        last.address = Some(ShimAddress {
            address: "unix:///s".into(),
            version: 3,
        });
        table.update(pod(), &runs);
        assert!(
            table.guests().is_empty() && !changes.has_changed().unwrap(),
            "a native one"
        );
        let last = runs.containers.get_mut("c").unwrap().last.as_mut().unwrap();
        last.runtime = crate::pods::record::RuntimeKind::Wasm;
        table.update(pod(), &runs);
        assert_eq!(table.guests()[0].id, "c-0");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        table.update(pod(), &runs);
        assert!(!changes.has_changed().unwrap());
        let mut labelled = pod();
        Arc::make_mut(&mut labelled).metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        table.update(labelled, &runs);
        assert!(changes.has_changed().unwrap());
        table.update(pod(), &seen(0, false));
        assert!(table.guests().is_empty());
    }

    #[test]
    fn pods_are_found_by_name() {
        let table = Table::new("/logs".into(), "/pods".into(), "/ns".into());
        table.update(pod(), &Observed::default());
        assert!(table.pod("n", "p").is_some() && table.pod("n", "q").is_none());
        table.remove("u");
        assert!(table.pods().is_empty());
    }
}
