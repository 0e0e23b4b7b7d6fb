//! `/metrics`: the agent itself and how many Pods it runs, under the kubelet's names.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::Station;
use super::claims;
use super::containers;
use super::exposition::{Exposition, Stability, Type};
use super::{bytes, seconds};
use crate::registration::node::KUBELET_VERSION;

/// Bytes of a page, in which /proc/self/statm counts.
const PAGE: u64 = 4096;
/// /proc/self/stat counts processor time in hundredths of a second (proc(5)).
const TICK_NANOS: u64 = 10_000_000;

/// In Prometheus' text format.
pub fn own(station: &Arc<Station>) -> String {
    let mut out = Exposition::default();
    let mut single = |name, ty, stability, help, labels: &[(&'static str, &str)], value| {
        out.family_as(name, ty, stability, help);
        out.sample(labels, value, None);
    };
    let node = [("node", station.node_name.as_str())];
    single(
        "kubelet_node_name",
        Type::Gauge,
        Stability::Alpha,
        "The node's name. The count is always 1.",
        &node,
        1.0,
    );
    let version = [("git_version", KUBELET_VERSION), ("platform", "linux")];
    single(
        "kubernetes_build_info",
        Type::Gauge,
        Stability::Alpha,
        "A metric with a constant '1' value labeled by the version it was built from.",
        &version,
        1.0,
    );
    let pods = station.table.pods();
    let running = |pod: &k8s_openapi::api::core::v1::Pod| {
        containers::statuses(pod).any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()))
    };
    let count = pods.iter().filter(|pod| running(pod)).count() as u64;
    single(
        "kubelet_running_pods",
        Type::Gauge,
        Stability::Alpha,
        "Number of pods that have a running pod sandbox",
        &[],
        bytes(count),
    );
    process(&mut single);
    out.family_as(
        "kubelet_running_containers",
        Type::Gauge,
        Stability::Alpha,
        "Number of containers currently running",
    );
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for status in pods.iter().flat_map(|pod| containers::statuses(pod)) {
        let Some(state) = &status.state else { continue };
        let word = match (&state.running, &state.terminated) {
            (Some(_), _) => "running",
            (None, Some(_)) => "exited",
            (None, None) => "created",
        };
        *states.entry(word).or_default() += 1;
    }
    for (state, count) in states {
        out.sample(&[("container_state", state)], bytes(count), None);
    }
    station.preemptions.tell(&mut out);
    claims::tell(station, &mut out);
    out.finish()
}

/// What every exporter says of its process.
fn process(
    single: &mut impl FnMut(&'static str, Type, Stability, &'static str, &[(&'static str, &str)], f64),
) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // Fields 14 and 15 of all, where the first here is the third.
    let ticks = fields
        .get(11)
        .zip(fields.get(12))
        .map_or(0, |(user, system)| user + system);
    let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Vec<u64> = memory.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let at = |i: usize| pages.get(i).copied().unwrap_or(0) * PAGE;
    let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    for (name, ty, help, value) in [
        (
            "process_cpu_seconds_total",
            Type::Counter,
            "Total user and system CPU time spent in seconds.",
            seconds(ticks * TICK_NANOS),
        ),
        (
            "process_resident_memory_bytes",
            Type::Gauge,
            "Resident memory size in bytes.",
            bytes(at(1)),
        ),
        (
            "process_virtual_memory_bytes",
            Type::Gauge,
            "Virtual memory size in bytes.",
            bytes(at(0)),
        ),
        (
            "process_open_fds",
            Type::Gauge,
            "Number of open file descriptors.",
            bytes(files),
        ),
    ] {
        single(name, ty, Stability::None, help, &[], value);
    }
}
