//! The Endpoints object of a Service, for clients older than EndpointSlices.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use kube::ResourceExt;

use super::backends::{Backend, Port, is_headless, publishes_unready};
use super::slices::HEADLESS;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Addresses in one object; beyond it the rest is left out and an annotation says so (KEP-752).
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints
        .labels()
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER)
}

/// The object as it should be, on top of what `existing` holds beside the endpoints.
pub fn endpoints(service: &Service, backends: &[Backend], existing: Option<&Endpoints>) -> Endpoints {
    let mut wanted = existing.cloned().unwrap_or_default();
    wanted.metadata.name = service.metadata.name.clone();
    wanted.metadata.namespace = service.metadata.namespace.clone();
    wanted.metadata.labels = Some(labels(service));
    let counted: Vec<&Backend> = backends
        .iter()
        .filter(|backend| !backend.terminating || publishes_unready(service))
        .collect();
    let over = counted.len() > CAPACITY;
    note_capacity(&mut wanted, over);
    let subsets = subsets(&counted[..counted.len().min(CAPACITY)], service);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn note_capacity(wanted: &mut Endpoints, over: bool) {
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    wanted
        .metadata
        .annotations
        .take_if(|annotations| annotations.is_empty());
}

/// Addresses that serve the same ports share a subset.
fn subsets(backends: &[&Backend], service: &Service) -> Vec<EndpointSubset> {
    let has_ports = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
    let mut by_ports: BTreeMap<&[Port], Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        // A Pod that serves none of the ports is no endpoint, unless the Service has no ports at all.
        if !backend.ports.is_empty() || !has_ports {
            by_ports.entry(&backend.ports).or_default().push(backend);
        }
    }
    by_ports
        .into_iter()
        .map(|(ports, backends)| subset(ports, &backends))
        .collect()
}

fn subset(ports: &[Port], backends: &[&Backend]) -> EndpointSubset {
    let pick = |ready: bool| -> Option<Vec<EndpointAddress>> {
        let mut addresses: Vec<EndpointAddress> = backends
            .iter()
            .filter(|backend| backend.ready == ready)
            .filter_map(|backend| address(backend))
            .collect();
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<EndpointPort> = ports.iter().map(wire_port).collect();
    EndpointSubset {
        addresses: pick(true),
        not_ready_addresses: pick(false),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn address(backend: &Backend) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: backend.addresses.first()?.to_string(),
        hostname: backend.hostname.clone(),
        node_name: backend.node_name.clone(),
        target_ref: Some(backend.target.clone()),
    })
}

fn wire_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::backends::fixtures::{pod, service};
    use super::super::backends::{Zones, of_service};
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_tell_ready_from_unready_and_leave_the_dying_out() {
        let service = service(json!({}));
        let pods = [
            pod("b", "10.1.0.2", json!({})),
            pod("a", "10.1.0.1", json!({})),
            pod(
                "c",
                "10.1.0.3",
                json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            ),
            pod(
                "d",
                "10.1.0.4",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            ),
        ];
        let endpoints = endpoints(&service, &of_service(&service, &pods, &Zones::new()), None);
        let subsets = serde_json::to_value(&endpoints.subsets).expect("json");
        let address = |ip: &str, name: &str| {
            json!({"ip": ip, "nodeName": "node1",
                "targetRef": {"kind": "Pod", "namespace": "n", "name": name, "uid": name}})
        };
        assert_eq!(
            subsets,
            json!([{
                "addresses": [address("10.1.0.1", "a"), address("10.1.0.2", "b")],
                "notReadyAddresses": [address("10.1.0.3", "c")],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
            }])
        );
        assert!(is_ours(&endpoints));
    }

    #[test]
    fn no_pods_no_subsets() {
        assert_eq!(endpoints(&service(json!({})), &[], None).subsets, None);
    }
}
