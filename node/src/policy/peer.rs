//! A Pod as policies see it: its labels, its addresses and the names of its ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use amphipod_shim_api::network::{Ports, Protocol};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

pub type Labels = BTreeMap<String, String>;

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
}

/// Who may be selected. One that shares its node's network is none: its address says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub namespace: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<NamedPort>,
}

impl Peer {
    /// A Pod with a network of its own that has not ended: the address of one that has may be another's.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true))?;
        let status = pod.status.as_ref();
        if matches!(
            status.and_then(|s| s.phase.as_deref()),
            Some("Succeeded" | "Failed")
        ) {
            return None;
        }
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: status.map(addresses).unwrap_or_default(),
            ports: named_ports(spec),
        })
    }

    /// The numbers of a port by its name.
    pub fn port(&self, protocol: Protocol, name: &str) -> impl Iterator<Item = Ports> {
        self.ports
            .iter()
            .filter(move |port| port.protocol == protocol && port.name == name)
            .map(|port| Ports::one(port.protocol, port.number))
    }
}

fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let mut all: Vec<IpAddr> = all
        .chain(&status.pod_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn named_ports(spec: &PodSpec) -> Vec<NamedPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                protocol: Protocol::parse(port.protocol.as_deref())?,
                number: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn peer(spec: Value, status: Value) -> Option<Peer> {
        let metadata = json!({"name": "p", "namespace": "n", "labels": {"app": "web"}});
        let pod = json!({"metadata": metadata, "spec": spec, "status": status});
        Peer::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_is_seen_of_a_pod() {
        let port = |name: &str, number: u16| json!({"name": name, "containerPort": number});
        let spec = json!({
            "containers": [{"name": "a", "ports": [port("http", 80), {"containerPort": 81}]}],
            "initContainers": [
                {"name": "b", "restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                {"name": "c", "ports": [port("gone", 1)]},
            ],
        });
        let status = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        let peer = peer(spec, status).unwrap();
        assert_eq!(
            (peer.namespace.as_str(), peer.labels["app"].as_str()),
            ("n", "web")
        );
        assert_eq!(
            peer.addresses,
            ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            peer.port(Protocol::Udp, "dns").collect::<Vec<_>>(),
            [Ports::one(Protocol::Udp, 53)]
        );
        assert_eq!(
            peer.port(Protocol::Tcp, "dns").count() + peer.port(Protocol::Tcp, "gone").count(),
            0
        );
        assert_eq!(peer.ports.len(), 2);
    }

    #[test]
    fn who_is_none() {
        let spec = json!({"containers": []});
        assert!(peer(json!({"containers": [], "hostNetwork": true}), json!({})).is_none());
        assert!(peer(spec.clone(), json!({"phase": "Succeeded", "podIP": "10.0.0.1"})).is_none());
        assert!(peer(spec, json!({})).unwrap().addresses.is_empty());
    }
}
