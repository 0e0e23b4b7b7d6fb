//! `/metrics/cadvisor`: containers, Pods' networks and the machine under cAdvisor's names (github.com/google/cadvisor,
//! metrics/prometheus.go), as far as shims and the host tell them.

mod io;
mod totals;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use oci_spec::runtime::LinuxCpu;

use super::containers::{self, Container};
use super::disks;
use super::exposition::{Exposition, Stability, Type};
use super::links::{self, Counters};
use super::processes::{Processes, count};
use super::{Station, bytes, seconds};
use crate::bundle::resources::{PERIOD_MICROS, limits_of};
use crate::host;
use crate::pods::view::PodView;
use totals::ROOT;

/// One reading in Prometheus' text format.
pub async fn cadvisor(station: &Arc<Station>) -> String {
    let ((containers, failed), pids) = tokio::join!(containers::read(station), containers::pids(station));
    let station = station.clone();
    let made =
        tokio::task::spawn_blocking(move || render(&station, &containers, &count(pids), !failed.is_empty()));
    made.await.unwrap_or_else(|error| {
        tracing::error!(%error, "reading what the node uses failed");
        String::new()
    })
}

fn render(
    station: &Station,
    containers: &[Container],
    processes: &HashMap<String, Processes>,
    wrong: bool,
) -> String {
    let mut totals = totals::of_pods(station, containers);
    totals.extend(totals::of_machine(Timestamp::now()));
    let of_totals = totals.iter().map(|total| (totals::labels(total), total));
    let of_containers = containers.iter().map(|c| (labels(station, c), c));
    let mut out = Out {
        text: Exposition::default(),
        all: of_totals.chain(of_containers).collect(),
    };
    out.processor();
    out.memory();
    out.usage();
    out.processes(processes);
    out.limits();
    out.disk(station);
    out.io();
    let mut text = out.text;
    network(&mut text, station, containers);
    machine(&mut text, wrong);
    text.finish()
}

/// The interface that is the host's own to itself.
const LOOPBACK: &str = "lo";

type Labels = Vec<(&'static str, String)>;

struct Out<'a> {
    text: Exposition,
    all: Vec<(Labels, &'a Container)>,
}

impl Out<'_> {
    fn family(&mut self, name: &'static str, ty: Type, help: &str, of: impl Fn(&Container) -> Option<f64>) {
        self.family_with(name, ty, help, &[], of);
    }

    fn family_with(
        &mut self,
        name: &'static str,
        ty: Type,
        help: &str,
        more: &[(&'static str, &str)],
        of: impl Fn(&Container) -> Option<f64>,
    ) {
        self.text.family_as(name, ty, Stability::None, help);
        self.samples(more, of);
    }

    fn samples(&mut self, more: &[(&'static str, &str)], of: impl Fn(&Container) -> Option<f64>) {
        for (labels, container) in &self.all {
            let Some(value) = of(container) else { continue };
            let mut labels: Vec<(&'static str, &str)> = labels
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            labels.extend(more);
            labels.sort_unstable();
            self.text.sample(&labels, value, Some(container.at));
        }
    }

    fn processor(&mut self) {
        use Type::Counter;
        self.family_with(
            "container_cpu_usage_seconds_total",
            Counter,
            "Cumulative cpu time consumed in seconds.",
            &[("cpu", "total")],
            |c| Some(seconds(c.stats.cpu_usage_nanos)),
        );
        self.family(
            "container_cpu_user_seconds_total",
            Counter,
            "Cumulative user cpu time consumed in seconds.",
            |c| Some(seconds(c.stats.cpu_user_nanos)),
        );
        self.family(
            "container_cpu_system_seconds_total",
            Counter,
            "Cumulative system cpu time consumed in seconds.",
            |c| Some(seconds(c.stats.cpu_system_nanos)),
        );
        // Without a limit there is nothing to be throttled by.
        let limited = |c: &Container, value: f64| cpu_of(&c.pod, &c.name)?.quota().map(|_| value);
        self.family(
            "container_cpu_cfs_periods_total",
            Counter,
            "Number of elapsed enforcement period intervals.",
            |c| limited(c, bytes(c.stats.cpu_periods)),
        );
        self.family(
            "container_cpu_cfs_throttled_periods_total",
            Counter,
            "Number of throttled period intervals.",
            |c| limited(c, bytes(c.stats.cpu_throttled_periods)),
        );
        self.family(
            "container_cpu_cfs_throttled_seconds_total",
            Counter,
            "Total time duration the container has been throttled.",
            |c| limited(c, seconds(c.stats.cpu_throttled_nanos)),
        );
    }

    fn memory(&mut self) {
        use Type::{Counter, Gauge};
        self.family(
            "container_memory_cache",
            Gauge,
            "Number of bytes of page cache memory.",
            |c| Some(bytes(c.stats.memory_cache)),
        );
        self.family(
            "container_memory_mapped_file",
            Gauge,
            "Size of memory mapped files in bytes.",
            |c| Some(bytes(c.stats.memory_mapped)),
        );
        self.family(
            "container_memory_swap",
            Gauge,
            "Container swap usage in bytes.",
            |c| Some(bytes(c.stats.memory_swap)),
        );
        self.family(
            "container_memory_failcnt",
            Counter,
            "Number of memory usage hits limits",
            |c| Some(bytes(c.stats.memory_failures)),
        );
        self.family(
            "container_memory_max_usage_bytes",
            Gauge,
            "Maximum memory usage recorded in bytes",
            |c| is_one(c).then(|| bytes(c.stats.memory_max)),
        );
    }

    fn usage(&mut self) {
        use Type::{Counter, Gauge};
        self.family(
            "container_memory_usage_bytes",
            Gauge,
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |c| Some(bytes(c.stats.memory_usage)),
        );
        self.family(
            "container_memory_working_set_bytes",
            Gauge,
            "Current working set in bytes.",
            |c| Some(bytes(c.stats.working_set())),
        );
        self.family("container_memory_rss", Gauge, "Size of RSS in bytes.", |c| {
            Some(bytes(c.stats.memory_anon))
        });
        self.family(
            "container_memory_total_inactive_file_bytes",
            Gauge,
            "Current total inactive file in bytes.",
            |c| Some(bytes(c.stats.memory_inactive_file)),
        );
        self.family_with(
            "container_memory_failures_total",
            Counter,
            "Cumulative count of memory allocation failures.",
            &[("failure_type", "pgfault"), ("scope", "container")],
            |c| Some(bytes(c.stats.page_faults)),
        );
        self.samples(&[("failure_type", "pgmajfault"), ("scope", "container")], |c| {
            Some(bytes(c.stats.major_page_faults))
        });
        self.family(
            "container_oom_events_total",
            Counter,
            "Count of out of memory events observed for the container",
            |c| Some(bytes(c.stats.oom_kills)),
        );
        self.family(
            "container_threads",
            Gauge,
            "Number of threads running inside the container",
            |c| Some(bytes(c.stats.pids)),
        );
        self.family(
            "container_start_time_seconds",
            Gauge,
            "Start time of the container since unix epoch in seconds.",
            |c| Some(since_epoch(c.started_at)),
        );
        self.family(
            "container_last_seen",
            Gauge,
            "Last time a container was seen by the exporter",
            |c| Some(since_epoch(c.at).floor()),
        );
    }

    fn processes(&mut self, counted: &HashMap<String, Processes>) {
        let families: [(&'static str, &str, fn(&Processes) -> Option<u64>); 3] = [
            (
                "container_processes",
                "Number of processes running inside the container.",
                |all| Some(all.processes),
            ),
            (
                "container_file_descriptors",
                "Number of open file descriptors for the container.",
                |all| Some(all.open?.descriptors),
            ),
            (
                "container_sockets",
                "Number of open sockets for the container.",
                |all| Some(all.open?.sockets),
            ),
        ];
        for (name, help, of) in families {
            self.family(name, Type::Gauge, help, |c| of(counted.get(&c.id)?).map(bytes));
        }
    }

    fn limits(&mut self) {
        use Type::Gauge;
        self.family(
            "container_spec_memory_limit_bytes",
            Gauge,
            "Memory limit for the container.",
            |c| {
                let limit = Some(c.stats.memory_limit).filter(|limit| *limit != u64::MAX);
                is_one(c).then(|| bytes(limit.unwrap_or(0)))
            },
        );
        self.family(
            "container_spec_cpu_shares",
            Gauge,
            "CPU share of the container.",
            |c| cpu_of(&c.pod, &c.name)?.shares().map(bytes),
        );
        self.family(
            "container_spec_cpu_period",
            Gauge,
            "CPU period of the container.",
            |c| is_one(c).then(|| bytes(PERIOD_MICROS)),
        );
        self.family(
            "container_spec_cpu_quota",
            Gauge,
            "CPU quota of the container.",
            |c| {
                let quota = cpu_of(&c.pod, &c.name)?.quota()?;
                u64::try_from(quota).ok().map(bytes)
            },
        );
    }

    fn disk(&mut self, station: &Station) {
        let whole = host::disk(station.disks.layout().data()).ok();
        let of_machine = whole.map(|disk| (ROOT.to_owned(), disk.bytes.saturating_sub(disk.free_bytes)));
        let of_containers = self.all.iter().filter(|(_, c)| is_one(c));
        let used: BTreeMap<String, u64> = of_containers
            .filter_map(|(_, c)| {
                let found = station.disks.of(PodView::new(&c.pod)?, &disks::running(&c.pod));
                Some((c.id.clone(), found.layers.get(&c.name)?.bytes))
            })
            .chain(of_machine)
            .collect();
        self.family(
            "container_fs_usage_bytes",
            Type::Gauge,
            "Number of bytes that are consumed by the container on this filesystem.",
            |c| used.get(&c.id).copied().map(bytes),
        );
        let all = whole.map(|disk| bytes(disk.bytes));
        self.family(
            "container_fs_limit_bytes",
            Type::Gauge,
            "Number of bytes that can be consumed by the container on this filesystem.",
            |c| all.filter(|_| is_one(c) || c.id == ROOT),
        );
    }
}

/// Whether it is a container's, and no total.
fn is_one(container: &Container) -> bool {
    !container.name.is_empty()
}

/// What a container has of the processors, by what it and its Pod say.
fn cpu_of(pod: &Pod, name: &str) -> Option<LinuxCpu> {
    let view = PodView::new(pod)?;
    let (container, _) = view.container(name)?;
    limits_of(&container, view.spec.resources.as_ref()).cpu().clone()
}

fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    containers::statuses(pod).find(|status| status.name == name)
}

fn labels(station: &Station, container: &Container) -> Labels {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let metadata = &container.pod.metadata;
    let uid = text(&metadata.uid);
    let image = status_of(&container.pod, &container.name).map(|status| status.image.clone());
    vec![
        ("container", container.name.clone()),
        ("id", format!("/{}/pod{uid}/{}", station.cluster, container.id)),
        ("image", image.unwrap_or_default()),
        ("name", container.id.clone()),
        ("namespace", text(&metadata.namespace)),
        ("pod", text(&metadata.name)),
    ]
}

fn since_epoch(at: Timestamp) -> f64 {
    at.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

/// A network is a Pod's, not a container's; what is neither a Pod's nor the host's own to itself is the machine's.
fn network(out: &mut Exposition, station: &Station, containers: &[Container]) {
    let links = links::all();
    let now = Timestamp::now();
    let of_pods = containers
        .chunk_by(|a, b| a.pod.metadata.uid == b.pod.metadata.uid)
        .filter_map(|pod| {
            let pod = pod.first()?.pod.as_ref();
            Some((
                totals::id_of(station, pod),
                "eth0",
                pod,
                station.link_of(pod, &links)?,
            ))
        });
    let nobodys = Pod::default();
    let of_machine = links
        .iter()
        .filter(|(name, _)| *name != LOOPBACK && !station.is_pods_link(name))
        .map(|(name, counters)| (ROOT.to_owned(), name.as_str(), &nobodys, *counters));
    let all: Vec<(String, &str, &Pod, Counters)> = of_machine.chain(of_pods).collect();
    let families: [(&'static str, &str, fn(&Counters) -> u64); 8] = [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            |c| c.received.bytes,
        ),
        (
            "container_network_receive_packets_total",
            "Cumulative count of packets received",
            |c| c.received.packets,
        ),
        (
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            |c| c.received.errors,
        ),
        (
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            |c| c.received.dropped,
        ),
        (
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            |c| c.sent.bytes,
        ),
        (
            "container_network_transmit_packets_total",
            "Cumulative count of packets transmitted",
            |c| c.sent.packets,
        ),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            |c| c.sent.errors,
        ),
        (
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            |c| c.sent.dropped,
        ),
    ];
    for (name, help, of) in families {
        out.family_as(name, Type::Counter, Stability::None, help);
        for (id, interface, pod, counters) in &all {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let (namespace, pod_name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
            let labels = [
                ("container", ""),
                ("id", id.as_str()),
                ("image", ""),
                ("interface", interface),
                ("name", ""),
                ("namespace", &namespace),
                ("pod", &pod_name),
            ];
            out.sample(&labels, bytes(of(counters)), Some(now));
        }
    }
}

fn machine(out: &mut Exposition, wrong: bool) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, help, value) in [
        (
            "machine_cpu_cores",
            "Number of logical CPU cores.",
            bytes(cores as u64),
        ),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            bytes(host::memory().total),
        ),
        (
            "container_scrape_error",
            "1 if there was an error while getting container metrics, 0 otherwise",
            if wrong { 1.0 } else { 0.0 },
        ),
    ] {
        out.family_as(name, Type::Gauge, Stability::None, help);
        out.sample(&[], value, None);
    }
}
