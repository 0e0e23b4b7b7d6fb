//! The kubelet's `/stats/summary` (k8s.io/kubelet, stats/v1alpha1): one reading of node, Pods and containers as JSON. What
//! cannot be told here is absent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Station;
use super::containers::{self, Container};
use super::disks::{self, PodDisk};
use super::links::{self, Counters};
use crate::host::{self, Disk};
use crate::pods::view::PodView;
use crate::volumes::usage::DiskUse;

/// A whole reading. `briefly`: processors and memory only.
pub async fn summary(station: &Arc<Station>, briefly: bool) -> Value {
    let (containers, failed) = containers::read(station).await;
    for failed in &failed {
        tracing::warn!(id = failed.id, error = %failed.error, "cannot read what a container uses");
    }
    let station = station.clone();
    let made = tokio::task::spawn_blocking(move || {
        let reading = Reading {
            station: &station,
            now: Timestamp::now(),
            briefly,
            links: links::all(),
        };
        reading.all(&containers)
    });
    made.await.unwrap_or_else(|error| {
        tracing::error!(%error, "reading what the node uses failed");
        Value::Null
    })
}

struct Reading<'a> {
    station: &'a Station,
    now: Timestamp,
    briefly: bool,
    links: BTreeMap<String, Counters>,
}

impl Reading<'_> {
    fn all(&self, containers: &[Container]) -> Value {
        let pods: Vec<Value> = containers
            .chunk_by(|a, b| a.pod.metadata.uid == b.pod.metadata.uid)
            .filter_map(|pod| self.pod(pod))
            .collect();
        json!({"node": self.node(containers), "pods": pods})
    }

    fn node(&self, containers: &[Container]) -> Value {
        let mut node = json!({
            "nodeName": self.station.node_name,
            "startTime": host::boot_time(),
            "systemContainers": [self.system_pods(containers)],
        });
        if let Ok(used) = host::usage() {
            let nanos = u64::try_from(used.cpu.as_nanos()).unwrap_or(u64::MAX);
            node["cpu"] = self.cpu("node", self.now, nanos);
            let memory = host::memory();
            let faults = host::page_faults();
            node["memory"] = json!({
                "time": self.now,
                "availableBytes": memory.total.saturating_sub(used.working_set),
                "usageBytes": memory.total.saturating_sub(memory.free),
                "workingSetBytes": used.working_set,
                "rssBytes": memory.anonymous,
                "pageFaults": faults.0,
                "majorPageFaults": faults.1,
            });
            node["swap"] = json!({
                "time": self.now,
                "swapAvailableBytes": memory.swap_free,
                "swapUsageBytes": memory.swap_total.saturating_sub(memory.swap_free),
            });
        }
        if self.briefly {
            return node;
        }
        node["network"] = self.node_network();
        let layout = self.station.disks.layout();
        let used = |disk: &Disk| disk.bytes.saturating_sub(disk.free_bytes);
        if let Ok(disk) = host::disk(layout.root()) {
            node["fs"] = self.file_system(&disk, used(&disk));
        }
        if let Ok(disk) = host::disk(layout.data()) {
            let used = used(&disk);
            let images = self.station.disks.images_bytes().unwrap_or(used);
            let mut of_images = self.file_system(&disk, images);
            of_images["inodesUsed"] = Value::Null;
            node["runtime"] =
                json!({"imageFs": without_nulls(of_images), "containerFs": self.file_system(&disk, used)});
        }
        if let Some((used, most)) = host::processes() {
            node["rlimit"] = json!({"time": self.now, "maxpid": most, "curproc": used});
        }
        node
    }

    /// All containers together, as upstream's cgroup of Pods.
    fn system_pods(&self, containers: &[Container]) -> Value {
        json!({
            "name": "pods",
            "startTime": host::boot_time(),
            "cpu": self.cpu("pods", self.now, containers.iter().map(|c| c.stats.cpu_usage_nanos).sum()),
            "memory": self.memory_of(containers, self.now),
        })
    }

    fn pod(&self, containers: &[Container]) -> Option<Value> {
        let first = containers.first()?;
        let (pod, view) = (&first.pod, PodView::new(&first.pod)?);
        let at = containers.iter().map(|c| c.at).max().unwrap_or(self.now);
        let disk = (!self.briefly).then(|| self.station.disks.of(view, &disks::running(pod)));
        let of_containers: Vec<Value> = containers
            .iter()
            .map(|c| self.container(c, disk.as_deref()))
            .collect();
        let nanos = containers.iter().map(|c| c.stats.cpu_usage_nanos).sum();
        let processes: u64 = containers.iter().map(|c| c.stats.pids).sum();
        let mut stats = json!({
            "podRef": {"name": view.name(), "namespace": view.namespace(), "uid": view.uid()},
            "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
            "containers": of_containers,
            "cpu": self.cpu(&format!("pod/{}", view.uid()), at, nanos),
            "memory": self.memory_of(containers, at),
            "process_stats": {"process_count": processes},
        });
        if let Some(counters) = self.station.link_of(pod, &self.links).filter(|_| !self.briefly) {
            let mut network = counters.summary("eth0");
            network["time"] = json!(self.now);
            network["interfaces"] = json!([counters.summary("eth0")]);
            stats["network"] = network;
        }
        if let Some(disk) = disk {
            self.add_disk(&mut stats, pod, &disk);
        }
        Some(without_nulls(stats))
    }

    fn add_disk(&self, stats: &mut Value, pod: &Pod, disk: &PodDisk) {
        let Ok(host) = host::disk(self.station.disks.layout().root()) else {
            return;
        };
        stats["ephemeral-storage"] = self.used(&host, disk.total());
        let dir = self.station.disks.layout().pods();
        let dir = dir
            .join(pod.metadata.uid.as_deref().unwrap_or_default())
            .join("volumes");
        let volumes: Vec<Value> = disk
            .volumes
            .iter()
            .map(|(name, used)| {
                let below = host::disk(Path::new(&dir.join(name))).unwrap_or(host);
                let mut volume = self.used(&below, *used);
                volume["name"] = json!(name);
                volume
            })
            .collect();
        if !volumes.is_empty() {
            stats["volume"] = json!(volumes);
        }
    }

    fn container(&self, container: &Container, disk: Option<&PodDisk>) -> Value {
        let stats = &container.stats;
        let mut memory = json!({
            "time": container.at,
            "usageBytes": stats.memory_usage,
            "workingSetBytes": stats.working_set(),
            "rssBytes": stats.memory_anon,
            "pageFaults": stats.page_faults,
            "majorPageFaults": stats.major_page_faults,
        });
        if stats.memory_limit != u64::MAX && stats.memory_limit != 0 {
            memory["availableBytes"] = json!(stats.memory_limit.saturating_sub(stats.working_set()));
        }
        let mut made = json!({
            "name": container.name,
            "startTime": container.started_at,
            "cpu": self.cpu(&container.id, container.at, stats.cpu_usage_nanos),
            "memory": memory,
        });
        let layout = self.station.disks.layout();
        let Some(disk) = disk else { return made };
        for (name, dir, map) in [
            ("rootfs", layout.data(), &disk.layers),
            ("logs", layout.root(), &disk.logs),
        ] {
            if let Ok(host) = host::disk(dir) {
                let used = map.get(&container.name).copied().unwrap_or_default();
                made[name] = self.used(&host, used);
            }
        }
        made
    }

    fn cpu(&self, key: &str, at: Timestamp, nanos: u64) -> Value {
        let mut cpu = json!({"time": at, "usageCoreNanoSeconds": nanos});
        if let Some(rate) = self.station.rates.note(key, at, nanos) {
            cpu["usageNanoCores"] = json!(rate);
        }
        cpu
    }

    fn memory_of(&self, containers: &[Container], at: Timestamp) -> Value {
        let sum = |of: fn(&Container) -> u64| containers.iter().map(of).sum::<u64>();
        json!({
            "time": at,
            "usageBytes": sum(|c| c.stats.memory_usage),
            "workingSetBytes": sum(|c| c.stats.working_set()),
            "rssBytes": sum(|c| c.stats.memory_anon),
            "pageFaults": sum(|c| c.stats.page_faults),
            "majorPageFaults": sum(|c| c.stats.major_page_faults),
        })
    }

    fn node_network(&self) -> Value {
        let own = |name: &&String| name.as_str() != "lo" && !self.station.is_pods_link(name);
        let names: Vec<&String> = self.links.keys().filter(own).collect();
        let interfaces: Vec<Value> = names.iter().map(|name| self.links[*name].summary(name)).collect();
        let default = links::default_interface().and_then(|name| Some(self.links.get(&name)?.summary(&name)));
        let mut network = default.unwrap_or_else(|| json!({"name": ""}));
        network["time"] = json!(self.now);
        network["interfaces"] = json!(interfaces);
        network
    }

    fn file_system(&self, disk: &Disk, used: u64) -> Value {
        json!({
            "time": self.now,
            "availableBytes": disk.free_bytes,
            "capacityBytes": disk.bytes,
            "usedBytes": used,
            "inodesFree": disk.free_inodes,
            "inodes": disk.inodes,
            "inodesUsed": disk.inodes.saturating_sub(disk.free_inodes),
        })
    }

    fn used(&self, disk: &Disk, used: DiskUse) -> Value {
        let mut fs = self.file_system(disk, used.bytes);
        fs["inodesUsed"] = json!(used.inodes);
        fs
    }
}

/// Upstream leaves out what is not known.
fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, field| !field.is_null());
    }
    value
}
