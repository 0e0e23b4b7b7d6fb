//! Which Pods stand behind a Service, in which state, and under which ports.
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::toolkit::Pod;
use crate::toolkit::pod::{Container, PodSpec};
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::toolkit::pods;

/// Zone by node name.
pub type Zones = HashMap<String, String>;

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub addresses: Vec<IpAddr>,
    /// Takes new connections.
    pub ready: bool,
    /// Still answers, perhaps while terminating.
    pub serving: bool,
    pub terminating: bool,
    pub ports: Vec<Port>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    pub hostname: Option<String>,
    pub target: ObjectReference,
}

/// A port of the Service as this Pod serves it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Port {
    pub name: String,
    pub port: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// The selector of a Service whose endpoints are ours to keep.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let by_name = spec.type_.as_deref() == Some("ExternalName");
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty() && !by_name)
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub fn publishes_unready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

/// One backend for each Pod that has an address and is not finished.
pub fn of_service(service: &Service, selected: &[Arc<Pod>], zones: &Zones) -> Vec<Backend> {
    selected
        .iter()
        .filter(|pod| !pods::is_terminal(pod))
        .filter_map(|pod| backend(service, pod, zones))
        .collect()
}

fn backend(service: &Service, pod: &Pod, zones: &Zones) -> Option<Backend> {
    let addresses = addresses(pod);
    let spec = pod.spec.as_ref()?;
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pods::is_dying(pod));
    let node_name = pods::node_name(pod).map(str::to_owned);
    Some(Backend {
        addresses,
        ready: publishes_unready(service) || (serving && !terminating),
        serving,
        terminating,
        ports: ports(service, spec),
        zone: node_name.as_ref().and_then(|node| zones.get(node)).cloned(),
        node_name,
        hostname: hostname(service, spec),
        target: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..Default::default()
        },
    })
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed: Vec<&String> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|address| &address.ip)
        .collect();
    let all = if listed.is_empty() {
        status.pod_ip.iter().collect()
    } else {
        listed
    };
    all.into_iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// The Pod's own DNS name below the Service's, when it asks for one.
fn hostname(service: &Service, spec: &PodSpec) -> Option<String> {
    let wants = spec.subdomain.as_deref() == Some(service.name_any().as_str());
    spec.hostname
        .clone()
        .filter(|hostname| wants && !hostname.is_empty())
}

/// A named port that no container of the Pod has is left out.
fn ports(service: &Service, pod: &PodSpec) -> Vec<Port> {
    let wanted = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let mut ports: Vec<Port> = wanted.iter().filter_map(|port| resolve(port, pod)).collect();
    ports.sort();
    ports
}

fn resolve(port: &ServicePort, pod: &PodSpec) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &PodSpec, name: &str, protocol: &str) -> Option<i32> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = pod.init_containers.iter().flatten().filter(sidecar);
    let ports = pod
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let matches = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.into_iter().find(matches).map(|port| port.container_port)
}

#[cfg(test)]
pub mod fixtures {
    //! Services and Pods for the tables of this folder.
    use super::*;
    use serde_json::{Value, json};

    pub fn service(details: Value) -> Service {
        let mut base = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
            "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}
        });
        json_patch::merge(&mut base, &details);
        serde_json::from_value(base).expect("a Service")
    }

    pub fn pod(name: &str, ip: &str, details: Value) -> Arc<Pod> {
        let mut base = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "node1", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True"}]}
        });
        json_patch::merge(&mut base, &details);
        Arc::new(serde_json::from_value(base).expect("a Pod"))
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{pod, service};
    use super::*;
    use serde_json::{Value, json};

    fn unready() -> Value {
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    }

    fn dying() -> Value {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let publishing = json!({"spec": {"publishNotReadyAddresses": true}});
        let cases = [
            ("ready", json!({}), json!({}), Some((true, true, false))),
            ("unready", json!({}), unready(), Some((false, false, false))),
            ("terminating", json!({}), dying(), Some((false, true, true))),
            (
                "unready but published",
                publishing.clone(),
                unready(),
                Some((true, false, false)),
            ),
            (
                "terminating but published",
                publishing,
                dying(),
                Some((true, true, true)),
            ),
            (
                "finished",
                json!({}),
                json!({"status": {"phase": "Succeeded"}}),
                None,
            ),
            (
                "without address",
                json!({}),
                json!({"status": {"podIP": null, "podIPs": null}}),
                None,
            ),
        ];
        for (name, service_details, pod_details, expected) in cases {
            let backends = of_service(
                &service(service_details),
                &[pod("p", "10.1.0.1", pod_details)],
                &Zones::new(),
            );
            let got = backends
                .first()
                .map(|backend| (backend.ready, backend.serving, backend.terminating));
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn ports_resolve_per_pod() {
        let ports = |target: Value, pod_details: Value| {
            let ports = json!({"spec": {"ports": [{"name": "x", "port": 80, "targetPort": target}]}});
            let backends = of_service(
                &service(ports),
                &[pod("p", "10.1.0.1", pod_details)],
                &Zones::new(),
            );
            backends[0].ports.iter().map(|port| port.port).collect::<Vec<_>>()
        };
        let sidecar = json!({"spec": {"initContainers": [
            {"name": "s", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]}]}});
        assert_eq!(ports(json!(8000), json!({})), [8000]);
        assert_eq!(ports(json!(null), json!({})), [80]);
        assert_eq!(ports(json!("http"), json!({})), [8080]);
        assert_eq!(ports(json!("metrics"), sidecar), [9090]);
        assert_eq!(ports(json!("nosuch"), json!({})), Vec::<i32>::new());
    }

    #[test]
    fn hostname_needs_the_services_subdomain() {
        let named = |subdomain: &str| {
            let pod = pod(
                "p",
                "10.1.0.1",
                json!({"spec": {"hostname": "h", "subdomain": subdomain}}),
            );
            of_service(&service(json!({})), &[pod], &Zones::new())[0]
                .hostname
                .clone()
        };
        assert_eq!((named("web"), named("other")), (Some("h".into()), None));
    }

    #[test]
    fn services_without_selector_are_not_ours() {
        let cases = [
            (json!({}), true),
            (json!({"spec": {"selector": null}}), false),
            (json!({"spec": {"selector": {"app": null}}}), false),
            (json!({"spec": {"type": "ExternalName"}}), false),
        ];
        for (details, expected) in cases {
            assert_eq!(
                selector(&service(details.clone())).is_some(),
                expected,
                "{details}"
            );
        }
    }
}
