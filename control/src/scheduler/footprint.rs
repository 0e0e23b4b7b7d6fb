//! What a Pod takes from a node: resource requests and host ports.
use std::collections::{BTreeMap, HashMap};

use crate::toolkit::Pod;
use crate::toolkit::pod::{Container, PodSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::toolkit::quantity;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";
/// What a container without requests counts for when nodes are compared (upstream's non-zero defaults).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource name: CPU in thousandths, all else in whole units.
pub type Resources = BTreeMap<String, i64>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    pub requests: Resources,
    /// For scores only: requests with defaults for containers that ask for nothing.
    pub milli_cpu: i64,
    pub memory: i64,
    pub host_ports: Vec<HostPort>,
}

/// A port taken on the node itself.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Two collide when protocol and port are equal and either listens on all addresses or both on the same.
    pub fn collides(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        (self.port, &self.protocol) == (other.port, &other.protocol)
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

pub fn of_pod(pod: &Pod) -> Footprint {
    let Some(spec) = &pod.spec else {
        return Footprint::default();
    };
    let requests = requests(spec, &|_| Resources::new());
    let compared = self::requests(spec, &|own| defaults(own));
    Footprint {
        milli_cpu: compared.get(CPU).copied().unwrap_or(0),
        memory: compared.get(MEMORY).copied().unwrap_or(0),
        requests,
        host_ports: host_ports(spec),
    }
}

/// What the node offers.
pub fn allocatable(node: &Node) -> Resources {
    node.status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .map(amounts)
        .unwrap_or_default()
}

/// The Pod's effective requests: containers and sidecars run together; before them each init container runs beside the
/// sidecars started so far (KEP-753). Pod-level requests (KEP-2837) replace the sum. Overhead comes on top.
fn requests(spec: &PodSpec, default: &dyn Fn(&Resources) -> Resources) -> Resources {
    let mut running = Resources::new();
    for container in &spec.containers {
        add(&mut running, &own_requests(container, default));
    }
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let own = own_requests(container, default);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut peak, &together);
        }
    }
    add(&mut running, &sidecars);
    raise(&mut running, &peak);
    if let Some(pod_level) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
    {
        running.extend(amounts(pod_level));
    }
    if let Some(overhead) = &spec.overhead {
        add(&mut running, &amounts(overhead));
    }
    running
}

fn own_requests(container: &Container, default: &dyn Fn(&Resources) -> Resources) -> Resources {
    let own = container
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
        .map(amounts);
    let mut own = own.unwrap_or_default();
    own.extend(default(&own));
    own
}

fn defaults(own: &Resources) -> Resources {
    let mut missing = Resources::new();
    for (name, amount) in [(CPU, DEFAULT_MILLI_CPU), (MEMORY, DEFAULT_MEMORY)] {
        if !own.contains_key(name) {
            missing.insert(name.to_owned(), amount);
        }
    }
    missing
}

fn amounts(quantities: &BTreeMap<String, Quantity>) -> Resources {
    let amount = |name: &str, quantity| {
        if name == CPU {
            quantity::milli(quantity)
        } else {
            quantity::units(quantity)
        }
    };
    quantities
        .iter()
        .map(|(name, quantity)| (name.clone(), amount(name, quantity)))
        .collect()
}

pub fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_insert(0);
        *sum = sum.saturating_add(*amount);
    }
}

pub fn subtract(total: &mut Resources, less: &Resources) {
    for (name, amount) in less {
        let rest = total.entry(name.clone()).or_insert(0);
        *rest = rest.saturating_sub(*amount);
    }
}

fn raise(total: &mut Resources, to: &Resources) {
    for (name, amount) in to {
        let value = total.entry(name.clone()).or_insert(0);
        *value = (*value).max(*amount);
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let ip = port
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".into());
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            port.host_port
                .filter(|port| *port > 0)
                .map(|port| HostPort { ip, protocol, port })
        })
        .collect()
}

/// How many Pods use each host port entry of a node.
pub type PortsInUse = HashMap<HostPort, usize>;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn footprint(spec: Value) -> Footprint {
        of_pod(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod"))
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": "c", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn effective_cpu_is_the_peak_of_what_runs_together() {
        let cases = [
            (
                "sum of containers",
                json!({"containers": [container("100m"), container("200m")]}),
                300,
            ),
            (
                "a greedy init container",
                json!({"containers": [container("100m")], "initContainers": [container("1")]}),
                1000,
            ),
            (
                "init containers follow each other",
                json!({"containers": [container("1")], "initContainers": [container("600m"), container("700m")]}),
                1000,
            ),
            (
                "a sidecar stays",
                json!({"containers": [container("100m")], "initContainers": [sidecar("50m"), container("200m")]}),
                250,
            ),
            (
                "overhead on top",
                json!({"containers": [container("100m")], "overhead": {"cpu": "10m"}}),
                110,
            ),
            (
                "pod level wins",
                json!({"containers": [container("100m")], "resources": {"requests": {"cpu": "2"}}}),
                2000,
            ),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(footprint(spec).requests.get(CPU), Some(&expected), "{name}");
        }
    }

    #[test]
    fn what_asks_for_nothing_still_counts_when_nodes_are_compared() {
        let got = footprint(json!({"containers": [{"name": "c"}]}));
        assert_eq!((got.milli_cpu, got.memory), (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
        assert!(got.requests.is_empty());
    }

    #[test]
    fn host_ports_collide_by_protocol_port_and_address() {
        let port = |ip: &str, protocol: &str, port| HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        };
        let base = port("0.0.0.0", "TCP", 80);
        let cases = [
            (port("0.0.0.0", "TCP", 80), true),
            (port("127.0.0.1", "TCP", 80), true),
            (port("0.0.0.0", "UDP", 80), false),
            (port("0.0.0.0", "TCP", 81), false),
        ];
        for (other, expected) in cases {
            assert_eq!(base.collides(&other), expected, "{other:?}");
        }
        assert!(!port("127.0.0.1", "TCP", 80).collides(&port("127.0.0.2", "TCP", 80)));
    }
}
