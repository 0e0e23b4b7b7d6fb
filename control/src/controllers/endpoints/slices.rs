//! The EndpointSlices of a Service: what they should hold, and the least that must be written for it (KEP-752).
//!
//! Endpoints stay in the slice that holds them; new ones fill free places before a slice is added.
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::backends::{Backend, Port, is_headless};
use crate::toolkit::{names, owners};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints in one slice (upstream's default).
const SLICE_LIMIT: usize = 100;

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Endpoints of one address family under one set of ports.
type Groups = BTreeMap<(&'static str, Vec<Port>), Vec<Endpoint>>;

pub fn plan(service: &Service, backends: &[Backend], existing: &[Arc<EndpointSlice>]) -> Plan {
    let groups = groups(service, backends);
    let mut plan = Plan::default();
    let mut taken: HashSet<String> = existing.iter().map(|slice| slice.name_any()).collect();
    let mut kept = HashSet::new();
    for ((family, ports), endpoints) in groups {
        let ports = wire_ports(&ports);
        let mine: Vec<&Arc<EndpointSlice>> = existing
            .iter()
            .filter(|slice| slice.address_type == family && same_ports(slice, &ports))
            .collect();
        kept.extend(mine.iter().map(|slice| slice.name_any()));
        let parts = distribute(endpoints, &mine);
        for (index, part) in parts.into_iter().enumerate() {
            match mine.get(index) {
                Some(slice) => plan.keep(service, slice, part, mine.len() == 1),
                None => plan
                    .create
                    .push(new_slice(service, family, &ports, part, &mut taken)),
            }
        }
    }
    plan.delete.extend(
        existing
            .iter()
            .filter(|slice| !kept.contains(&slice.name_any()))
            .cloned(),
    );
    plan
}

impl Plan {
    /// An empty slice is deleted, unless it is the only one of its ports.
    fn keep(&mut self, service: &Service, slice: &Arc<EndpointSlice>, endpoints: Vec<Endpoint>, only: bool) {
        if endpoints.is_empty() && !only {
            self.delete.push(slice.clone());
            return;
        }
        let mut wanted = slice.as_ref().clone();
        wanted.endpoints = Some(endpoints);
        wanted.metadata.labels = Some(labels(service));
        if wanted != **slice {
            self.update.push((slice.clone(), wanted));
        }
    }
}

fn groups(service: &Service, backends: &[Backend]) -> Groups {
    let mut groups = Groups::new();
    for family in families(service) {
        let of_family = backends.iter().filter_map(|backend| {
            let address = backend
                .addresses
                .iter()
                .find(|address| self::family(address) == family)?;
            Some((backend, address))
        });
        for (backend, address) in of_family {
            groups
                .entry((family, backend.ports.clone()))
                .or_default()
                .push(endpoint(backend, address));
        }
        // A Service without Pods has one empty slice, so that consumers can tell it from one not looked at yet.
        if !groups.keys().any(|(other, _)| *other == family) {
            groups.insert((family, Vec::new()), Vec::new());
        }
    }
    groups
}

fn families(service: &Service) -> Vec<&'static str> {
    let asked = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_deref())
        .unwrap_or_default();
    let known: Vec<&str> = asked
        .iter()
        .filter_map(|family| ["IPv4", "IPv6"].into_iter().find(|known| known == family))
        .collect();
    if known.is_empty() { vec!["IPv4"] } else { known }
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn endpoint(backend: &Backend, address: &IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node_name.clone(),
        target_ref: Some(backend.target.clone()),
        zone: backend.zone.clone(),
        ..Default::default()
    }
}

fn wire_ports(ports: &[Port]) -> Vec<EndpointPort> {
    let wire = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    ports.iter().map(wire).collect()
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    slice.ports.as_deref().unwrap_or_default() == ports
}

/// Shares the endpoints out over the slices there are and as many more as it takes.
fn distribute(endpoints: Vec<Endpoint>, slices: &[&Arc<EndpointSlice>]) -> Vec<Vec<Endpoint>> {
    let mut left: BTreeMap<String, Endpoint> = endpoints
        .into_iter()
        .map(|endpoint| (address(&endpoint), endpoint))
        .collect();
    let mut parts: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| {
            slice
                .endpoints
                .iter()
                .flatten()
                .filter_map(|old| left.remove(&address(old)))
                .collect()
        })
        .collect();
    let mut waiting = left.into_values();
    for part in &mut parts {
        let room = SLICE_LIMIT.saturating_sub(part.len());
        part.extend(waiting.by_ref().take(room));
    }
    loop {
        let part: Vec<Endpoint> = waiting.by_ref().take(SLICE_LIMIT).collect();
        if part.is_empty() {
            break;
        }
        parts.push(part);
    }
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    parts
}

fn address(endpoint: &Endpoint) -> String {
    endpoint.addresses.first().cloned().unwrap_or_default()
}

fn new_slice(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    taken: &mut HashSet<String>,
) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            name: Some(free_name(service, family, ports, taken)),
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owners::controller_reference(service)]),
            ..Default::default()
        },
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

/// The same slice gets the same name each time it is asked for, until the cache shows it.
fn free_name(service: &Service, family: &str, ports: &[EndpointPort], taken: &mut HashSet<String>) -> String {
    let uid = service.uid().unwrap_or_default();
    let ports = format!("{ports:?}");
    let mut index: usize = 0;
    loop {
        let number = index.to_le_bytes();
        let hash = names::suffix([uid.as_bytes(), family.as_bytes(), ports.as_bytes(), &number]);
        let name = format!("{}-{hash}", service.name_any());
        if taken.insert(name.clone()) {
            return name;
        }
        index += 1;
    }
}

/// The Service's own labels and those by which consumers find its slices.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::super::backends::fixtures::{pod, service};
    use super::super::backends::{Zones, of_service};
    use super::*;
    use serde_json::{Value, json};

    fn backends(service: &Service, count: u8, details: &Value) -> Vec<Backend> {
        let pods: Vec<_> = (0..count)
            .map(|i| pod(&format!("p{i}"), &format!("10.1.0.{i}"), details.clone()))
            .collect();
        of_service(
            service,
            &pods,
            &Zones::from([("node1".to_owned(), "z".to_owned())]),
        )
    }

    fn applied(existing: Vec<Arc<EndpointSlice>>, plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let gone: HashSet<String> = plan.delete.iter().map(|slice| slice.name_any()).collect();
        let mut slices: Vec<Arc<EndpointSlice>> = existing
            .into_iter()
            .filter(|slice| !gone.contains(&slice.name_any()))
            .collect();
        for (old, new) in plan.update {
            slices.retain(|slice| slice.name_any() != old.name_any());
            slices.push(Arc::new(new));
        }
        slices.extend(plan.create.into_iter().map(Arc::new));
        slices.sort_by_key(|slice| slice.name_any());
        slices
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        let mut sizes: Vec<usize> = slices
            .iter()
            .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
            .collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn a_slice_says_where_its_endpoints_are() {
        let service = service(json!({}));
        let plan = plan(&service, &backends(&service, 1, &json!({})), &[]);
        let slice = serde_json::to_value(&plan.create[0]).expect("json");
        let name = slice["metadata"]["name"].clone();
        assert_eq!(
            slice,
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "generateName": "web-", "namespace": "n",
                    "labels": {"team": "a", SERVICE_NAME: "web", MANAGED_BY: MANAGER},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                        "controller": true, "blockOwnerDeletion": true}]},
                "endpoints": [{"addresses": ["10.1.0.0"],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": "node1", "zone": "z",
                    "targetRef": {"kind": "Pod", "namespace": "n", "name": "p0", "uid": "p0"}}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
            })
        );
    }

    #[test]
    fn slices_grow_shrink_and_settle() {
        let service = service(json!({}));
        let mut slices = Vec::new();
        let steps = [
            (0, vec![0]),
            (1, vec![1]),
            (150, vec![50, 100]),
            (250, vec![50, 100, 100]),
            (100, vec![50, 50]),
            (0, vec![0]),
        ];
        for (count, expected) in steps {
            let wanted = backends(&service, count, &json!({}));
            slices = applied(slices.clone(), plan(&service, &wanted, &slices));
            let settled = plan(&service, &wanted, &slices);
            assert_eq!(sizes(&slices), expected, "{count} endpoints");
            assert!(
                settled.create.is_empty() && settled.update.is_empty() && settled.delete.is_empty(),
                "{settled:?}"
            );
        }
    }

    #[test]
    fn a_stale_cache_asks_for_the_same_slice_again() {
        let service = service(json!({}));
        let backends = backends(&service, 1, &json!({}));
        let name = || plan(&service, &backends, &[]).create[0].name_any();
        assert_eq!(name(), name());
    }

    #[test]
    fn pods_with_different_ports_are_kept_apart() {
        let service = service(json!({}));
        let other =
            json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9}]}]}});
        let pods = [pod("a", "10.1.0.1", json!({})), pod("b", "10.1.0.2", other)];
        let plan = plan(&service, &of_service(&service, &pods, &Zones::new()), &[]);
        let ports: Vec<i32> = plan
            .create
            .iter()
            .filter_map(|slice| slice.ports.as_ref()?.first()?.port)
            .collect();
        assert_eq!(ports, [9, 8080]);
    }

    #[test]
    fn each_family_has_its_slices() {
        let service = service(json!({"spec": {"ipFamilies": ["IPv4", "IPv6"], "clusterIP": "None"}}));
        let both = json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]}});
        let plan = plan(
            &service,
            &of_service(&service, &[pod("a", "10.1.0.1", both)], &Zones::new()),
            &[],
        );
        let families: Vec<&str> = plan
            .create
            .iter()
            .map(|slice| slice.address_type.as_str())
            .collect();
        assert_eq!(families, ["IPv4", "IPv6"]);
        assert!(
            plan.create
                .iter()
                .all(|slice| slice.labels().contains_key(HEADLESS))
        );
    }
}
