//! What stands above containers: each Pod, and the machine as `/`. A Pod uses what its cgroup tells, which knows of containers that have
//! ended too, and what its Wasm containers use, which are in none of its own.

use std::sync::Arc;

use amphipod_shim_api::{DeviceIo, TaskStats};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::super::Station;
use super::super::containers::Container;
use super::Labels;
use crate::host;
use crate::pods::cgroup;

/// The cgroup of everything.
pub const ROOT: &str = "/";

/// A reading for each Pod that has one, under the name of its cgroup.
pub fn of_pods(station: &Station, containers: &[Container]) -> Vec<Container> {
    containers
        .chunk_by(|a, b| a.pod.metadata.uid == b.pod.metadata.uid)
        .filter_map(|pod| {
            let uid = pod[0].pod.metadata.uid.as_deref().unwrap_or_default();
            let native = cgroup::used(&station.cluster, uid);
            sum(id_of(station, &pod[0].pod), native, pod)
        })
        .collect()
}

pub fn id_of(station: &Station, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("/{}/pod{uid}", station.cluster)
}

/// What is told of no container is about a Pod, or of none about the machine.
pub fn labels(total: &Container) -> Labels {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let metadata = &total.pod.metadata;
    vec![
        ("container", String::new()),
        ("id", total.id.clone()),
        ("image", String::new()),
        ("name", String::new()),
        ("namespace", text(&metadata.namespace)),
        ("pod", text(&metadata.name)),
    ]
}

/// `native` is what the Pod's cgroup tells; without it native containers are added up as well.
fn sum(id: String, native: Option<TaskStats>, containers: &[Container]) -> Option<Container> {
    let first = containers.first()?;
    let is_known = native.is_some();
    let mut stats = native.unwrap_or_default();
    let others = containers.iter().filter(|one| !is_known || one.is_guest);
    others.for_each(|one| add(&mut stats, &one.stats));
    Some(Container {
        id,
        pod: first.pod.clone(),
        name: String::new(),
        started_at: containers.iter().map(|one| one.started_at).min()?,
        at: containers.iter().map(|one| one.at).max()?,
        is_guest: false,
        stats,
    })
}

/// What cannot be added up (limits, the most there ever was) stays out of the sum.
fn add(sum: &mut TaskStats, one: &TaskStats) {
    sum.cpu_usage_nanos += one.cpu_usage_nanos;
    sum.cpu_user_nanos += one.cpu_user_nanos;
    sum.cpu_system_nanos += one.cpu_system_nanos;
    sum.memory_usage += one.memory_usage;
    sum.memory_inactive_file += one.memory_inactive_file;
    sum.memory_anon += one.memory_anon;
    sum.memory_cache += one.memory_cache;
    sum.memory_mapped += one.memory_mapped;
    sum.memory_swap += one.memory_swap;
    sum.memory_failures += one.memory_failures;
    sum.page_faults += one.page_faults;
    sum.major_page_faults += one.major_page_faults;
    sum.pids += one.pids;
    sum.oom_kills += one.oom_kills;
    for io in &one.io {
        match sum.io.iter_mut().find(|known| known.device == io.device) {
            Some(known) => add_io(known, io),
            None => sum.io.push(io.clone()),
        }
    }
}

fn add_io(sum: &mut DeviceIo, one: &DeviceIo) {
    sum.read_bytes += one.read_bytes;
    sum.written_bytes += one.written_bytes;
    sum.reads += one.reads;
    sum.writes += one.writes;
}

/// The machine, as far as it can be read.
pub fn of_machine(now: Timestamp) -> Option<Container> {
    let used = host::usage().inspect_err(|error| tracing::warn!(%error, "cannot read what the node uses"));
    let (used, memory, faults) = (used.ok()?, host::memory(), host::page_faults());
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let memory_usage = memory.total.saturating_sub(memory.free);
    Some(Container {
        id: ROOT.to_owned(),
        pod: Arc::default(),
        name: String::new(),
        started_at: host::boot_time().unwrap_or(Timestamp::UNIX_EPOCH),
        at: now,
        is_guest: false,
        stats: TaskStats {
            cpu_usage_nanos: nanos(used.cpu),
            cpu_user_nanos: nanos(used.cpu_of_programs),
            cpu_system_nanos: nanos(used.cpu.saturating_sub(used.cpu_of_programs)),
            memory_usage,
            memory_inactive_file: memory_usage.saturating_sub(used.working_set),
            memory_anon: memory.anonymous,
            memory_cache: memory.cached,
            memory_mapped: memory.mapped,
            memory_swap: memory.swap_total.saturating_sub(memory.swap_free),
            page_faults: faults.0,
            major_page_faults: faults.1,
            pids: host::processes().map_or(0, |(used, _)| used),
            ..TaskStats::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(pod: &str, cpu: u64, device: u64) -> Container {
        let io = DeviceIo {
            device: (8, device),
            writes: 1,
            ..DeviceIo::default()
        };
        let pod = json!({"metadata": {"name": pod, "namespace": "n", "uid": pod}});
        Container {
            id: "c".into(),
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            name: "c".into(),
            started_at: Timestamp::UNIX_EPOCH,
            at: Timestamp::from_second(5).unwrap(),
            is_guest: false,
            stats: TaskStats {
                cpu_usage_nanos: cpu,
                memory_mapped: 7,
                pids: 1,
                io: vec![io],
                ..TaskStats::default()
            },
        }
    }

    #[test]
    fn a_pod_is_what_its_containers_are_together() {
        let pod = [container("p", 3, 0), container("p", 4, 0), container("p", 5, 1)];
        let total = sum("/c/podp".into(), None, &pod).unwrap();
        assert_eq!((total.stats.cpu_usage_nanos, total.stats.memory_mapped), (12, 21));
        let writes: Vec<u64> = total.stats.io.iter().map(|io| io.writes).collect();
        assert_eq!(writes, [2, 1]);
        // The cgroup knows native ones better.
        let mut guest = container("p", 9, 0);
        guest.is_guest = true;
        let native = TaskStats {
            cpu_usage_nanos: 100,
            ..TaskStats::default()
        };
        // One whose processes have ended is told of for a moment more.
        let mut ended = container("p", 8, 0);
        ended.stats.pids = 0;
        let pod = [container("p", 3, 0), guest, ended];
        let mixed = sum("/c/podp".into(), Some(native), &pod).unwrap();
        assert_eq!(mixed.stats.cpu_usage_nanos, 109);
        let labels = labels(&total);
        let of = |name| {
            labels
                .iter()
                .find(|(label, _)| *label == name)
                .unwrap()
                .1
                .as_str()
        };
        let told = ["container", "id", "image", "name", "namespace", "pod"].map(of);
        assert_eq!(told, ["", "/c/podp", "", "", "n", "p"]);
    }

    #[test]
    fn the_machine_is_the_root() {
        let machine = of_machine(Timestamp::UNIX_EPOCH).unwrap();
        let stats = &machine.stats;
        assert!(stats.cpu_usage_nanos > stats.cpu_user_nanos && stats.cpu_system_nanos > 0);
        assert!(stats.working_set() > 0 && stats.memory_cache > 0 && stats.pids > 0);
        assert_eq!(
            (machine.id.as_str(), machine.pod.metadata.name.as_deref()),
            ("/", None)
        );
    }
}
