//! What this node and its containers use, read when it is asked for and told as upstream's kubelet tells it: at
//! `/metrics/resource` (KEP-1206), `/metrics/cadvisor`, `/metrics/probes`, `/metrics` and `/stats/summary`. Refuses to know
//! containers' cgroups: a shim says what its tasks use, whatever they are made of.

mod cadvisor;
mod claims;
pub mod containers;
pub mod disks;
mod exposition;
mod links;
mod own;
mod preemptions;
mod probe_counts;
mod processes;
mod rates;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_shim_api::TaskClients;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::host;
use crate::network::Names;
use crate::server::PodTable;
pub use cadvisor::cadvisor;
use containers::{Container, Failed};
use disks::Disks;
use exposition::{Exposition, Type};
use links::Counters;
pub use own::own;
pub use preemptions::Preemptions;
pub use probe_counts::{Key as ProbeKey, ProbeCounts};
use rates::Rates;
pub use summary::summary;

/// The media type of what [`resource`] answers (Prometheus' text format).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where readings are taken, and what earlier ones were.
pub struct Station {
    pub table: Arc<dyn PodTable>,
    pub node_name: String,
    /// Name of the cluster on this host, as its cgroups have it.
    pub cluster: String,
    pub names: Names,
    pub disks: Disks,
    pub probes: ProbeCounts,
    pub preemptions: Preemptions,
    /// Where shims are asked.
    pub tasks: TaskClients,
    rates: Rates,
}

impl Station {
    pub fn new(
        table: Arc<dyn PodTable>,
        (cluster, node_name): (String, String),
        names: Names,
        disks: Disks,
        probes: ProbeCounts,
    ) -> Self {
        Station {
            table,
            node_name,
            cluster,
            names,
            disks,
            probes,
            preemptions: Preemptions::default(),
            tasks: TaskClients::default(),
            rates: Rates::default(),
        }
    }

    /// What went through a Pod's own interface.
    fn link_of(&self, pod: &Pod, links: &BTreeMap<String, Counters>) -> Option<Counters> {
        let is_hosts = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let ip = pod.status.as_ref()?.pod_ip.as_ref().filter(|_| !is_hosts)?;
        links
            .get(&self.names.veth(ip.parse().ok()?))
            .map(|link| link.turned())
    }

    fn is_pods_link(&self, name: &str) -> bool {
        self.names.is_pods_link(name)
    }
}

/// The resource metrics of the node, of its Pods and of their containers.
pub async fn resource(station: &Station) -> String {
    let (containers, failed) = containers::read(station).await;
    for container in &containers {
        station
            .rates
            .note(&container.id, container.at, container.stats.cpu_usage_nanos);
    }
    let node = host::usage();
    let now = Timestamp::now();
    if let Err(error) = &node {
        tracing::warn!(%error, "cannot read what the node uses");
    }
    for Failed { id, error } in &failed {
        tracing::warn!(id, %error, "cannot read what a container uses");
    }
    let wrong = node.is_err() || !failed.is_empty();
    render(node.ok(), &containers, now, wrong)
}

fn render(node: Option<host::Usage>, containers: &[Container], now: Timestamp, wrong: bool) -> String {
    let mut out = Exposition::default();
    of_containers(&mut out, containers);
    if let Some(node) = node {
        out.family(
            "node_cpu_usage_seconds_total",
            Type::Counter,
            "Cumulative cpu time consumed by the node in core-seconds",
        );
        out.sample(&[], node.cpu.as_secs_f64(), Some(now));
        out.family(
            "node_memory_working_set_bytes",
            Type::Gauge,
            "Current working set of the node in bytes",
        );
        out.sample(&[], bytes(node.working_set), Some(now));
    }
    of_pods(&mut out, containers);
    out.family(
        "resource_scrape_error",
        Type::Gauge,
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample(&[], if wrong { 1.0 } else { 0.0 }, None);
    out.finish()
}

fn of_containers(out: &mut Exposition, containers: &[Container]) {
    out.family(
        "container_cpu_usage_seconds_total",
        Type::Counter,
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for c in containers {
        out.sample(&labels(c), seconds(c.stats.cpu_usage_nanos), Some(c.at));
    }
    out.family(
        "container_memory_working_set_bytes",
        Type::Gauge,
        "Current working set of the container in bytes",
    );
    for c in containers {
        out.sample(&labels(c), bytes(c.stats.working_set()), Some(c.at));
    }
    out.family(
        "container_start_time_seconds",
        Type::Gauge,
        "Start time of the container since unix epoch in seconds",
    );
    for c in containers {
        let since = c.started_at.duration_since(Timestamp::UNIX_EPOCH);
        out.sample(&labels(c), since.as_secs_f64(), None);
    }
}

/// A Pod uses what its containers use: there is nothing else in it.
fn of_pods(out: &mut Exposition, containers: &[Container]) {
    let pods = || containers.chunk_by(|a, b| a.pod.metadata.uid == b.pod.metadata.uid);
    let at = |pod: &[Container]| pod.iter().map(|c| c.at).max();
    out.family(
        "pod_cpu_usage_seconds_total",
        Type::Counter,
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in pods() {
        let nanos = pod.iter().map(|c| c.stats.cpu_usage_nanos).sum();
        out.sample(&pod_labels(&pod[0].pod), seconds(nanos), at(pod));
    }
    out.family(
        "pod_memory_working_set_bytes",
        Type::Gauge,
        "Current working set of the pod in bytes",
    );
    for pod in pods() {
        let used = pod.iter().map(|c| c.stats.working_set()).sum();
        out.sample(&pod_labels(&pod[0].pod), bytes(used), at(pod));
    }
}

fn labels(container: &Container) -> Vec<(&'static str, &str)> {
    let mut labels = vec![("container", container.name.as_str())];
    labels.extend(pod_labels(&container.pod));
    labels
}

fn pod_labels(pod: &Pod) -> [(&'static str, &str); 2] {
    let metadata = &pod.metadata;
    [
        ("namespace", metadata.namespace.as_deref().unwrap_or_default()),
        ("pod", metadata.name.as_deref().unwrap_or_default()),
    ]
}

fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

/// Exact up to 8 PiB; the text format has nothing but floating point numbers.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format has only floating point numbers"
)]
fn bytes(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::TaskStats;
    use serde_json::json;
    use std::time::Duration;

    fn container(pod: &str, name: &str, cpu: u64, memory: u64) -> Container {
        let id = format!("{pod}-{name}");
        let pod = json!({"metadata": {"name": pod, "namespace": "n", "uid": pod}});
        Container {
            id,
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            name: name.to_owned(),
            started_at: Timestamp::from_second(100).unwrap(),
            at: Timestamp::from_millisecond(200_500).unwrap(),
            is_guest: false,
            stats: TaskStats {
                cpu_usage_nanos: cpu,
                memory_usage: memory,
                memory_inactive_file: 1000,
                ..TaskStats::default()
            },
        }
    }

    #[test]
    fn metrics_are_upstreams() {
        let containers = [
            container("p", "a", 1_500_000_000, 5000),
            container("p", "b", 500_000_000, 2000),
            container("q", "a", 0, 0),
        ];
        let node = host::Usage {
            cpu: Duration::from_millis(12_340),
            cpu_of_programs: Duration::ZERO,
            working_set: 4096,
        };
        let text = render(
            Some(node),
            &containers,
            Timestamp::from_second(300).unwrap(),
            false,
        );
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.5 200500",
            "container_memory_working_set_bytes{container=\"b\",namespace=\"n\",pod=\"p\"} 1000 200500",
            "container_start_time_seconds{container=\"a\",namespace=\"n\",pod=\"q\"} 100",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2 200500",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 5000 200500",
            "node_cpu_usage_seconds_total 12.34 300000",
            "node_memory_working_set_bytes 4096 300000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn a_node_that_cannot_be_read_is_told() {
        let text = render(None, &[], Timestamp::UNIX_EPOCH, true);
        assert!(
            text.contains("resource_scrape_error 1\n") && !text.contains("node_cpu"),
            "{text}"
        );
    }
}
