//! The slices that show what an Endpoints object holds, and what must be written for it. Pure.
//!
//! Addresses that serve the same ports are in one slice for each family, so there are no more than 1000 of them.
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::controllers::endpoints::slices::{MANAGED_BY, SERVICE_NAME};
use crate::toolkit::{names, owners};

pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses shown of those that serve the same ports (upstream's `--mirroring-max-endpoints-per-subset`).
pub const MOST: usize = 1000;
/// What says nothing about endpoints.
const LEFT_OUT: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Addresses that are none, and those beyond [`MOST`].
    pub invalid: usize,
    pub skipped: usize,
}

/// Name, number, protocol and protocol of the application.
type Port = (String, i32, String, Option<String>);
/// Whom each address stands for: its text and the uid of its target.
type Addresses<'a> = BTreeMap<(&'a str, &'a str), (bool, &'a EndpointAddress)>;

pub fn plan(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: Vec<EndpointSlice> = Vec::new();
    for (ports, addresses) in repacked(endpoints) {
        wanted.extend(plan.slices(endpoints, &ports, &addresses));
    }
    let mut left: Vec<Arc<EndpointSlice>> = existing.to_vec();
    let mut taken: HashSet<String> = existing.iter().map(|slice| slice.name_any()).collect();
    // One of the same ports stays; any other of the same family is better than a new one.
    let (same, rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|slice| {
        let same = |old: &&Arc<EndpointSlice>| {
            old.address_type == slice.address_type && ports_of(old) == ports_of(slice)
        };
        left.iter().any(|old| same(&old))
    });
    for mut slice in same.into_iter().chain(rest) {
        let exact = left
            .iter()
            .position(|old| old.address_type == slice.address_type && ports_of(old) == ports_of(&slice));
        let at = exact.or_else(|| left.iter().position(|old| old.address_type == slice.address_type));
        match at.map(|at| left.remove(at)) {
            Some(old) => plan.update.extend(adopted(old, slice)),
            None => {
                slice.metadata.name = Some(free_name(endpoints, &slice, &mut taken));
                plan.create.push(slice);
            }
        }
    }
    plan.delete = left;
    plan
}

/// The old slice and what it should be, unless it is.
fn adopted(old: Arc<EndpointSlice>, wanted: EndpointSlice) -> Option<(Arc<EndpointSlice>, EndpointSlice)> {
    let mut changed = old.as_ref().clone();
    changed.metadata.labels = wanted.metadata.labels;
    changed.metadata.annotations = wanted.metadata.annotations;
    changed.metadata.owner_references = wanted.metadata.owner_references;
    changed.endpoints = wanted.endpoints;
    // None and an empty list are the same to the API.
    if changed.ports.as_deref().unwrap_or_default() != wanted.ports.as_deref().unwrap_or_default() {
        changed.ports = wanted.ports;
    }
    (changed != *old).then_some((old, changed))
}

fn ports_of(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

impl Plan {
    /// A slice for each family of these addresses.
    fn slices(&mut self, of: &Endpoints, ports: &[Port], addresses: &Addresses<'_>) -> Vec<EndpointSlice> {
        let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
        let mut shown = 0;
        let (ready, unready): (Vec<_>, Vec<_>) = addresses.values().partition(|(ready, _)| *ready);
        for (ready, address) in ready.into_iter().chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                self.invalid += 1;
                continue;
            };
            if shown == MOST {
                self.skipped += 1;
                continue;
            }
            shown += 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            families
                .entry(family)
                .or_default()
                .push(endpoint(&ip, address, ready));
        }
        let slices = families
            .into_iter()
            .map(|(family, endpoints)| slice(of, family, ports, endpoints));
        slices.collect()
    }
}

/// Ports, and the addresses that serve just these: upstream's canonical form of subsets. Who is unready at a port once is unready.
fn repacked(endpoints: &Endpoints) -> Vec<(Vec<Port>, Addresses<'_>)> {
    let mut by_port: BTreeMap<Option<Port>, Addresses<'_>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<Option<Port>> = subset.ports.iter().flatten().map(|p| Some(port(p))).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|address| (true, address));
        let unready = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (false, address));
        let all: Vec<(bool, &EndpointAddress)> = ready.chain(unready).collect();
        for port in ports {
            let addresses = by_port.entry(port).or_default();
            for (ready, address) in &all {
                let uid = address
                    .target_ref
                    .as_ref()
                    .and_then(|target| target.uid.as_deref());
                let known = addresses.entry((&address.ip, uid.unwrap_or_default()));
                known.or_insert((*ready, address)).0 &= *ready;
            }
        }
    }
    let mut groups: Vec<(Vec<Port>, Addresses<'_>)> = Vec::new();
    for (port, addresses) in by_port {
        let states = |all: &Addresses<'_>| {
            all.iter()
                .map(|(key, (ready, _))| (*key, *ready))
                .eq(addresses.iter().map(|(key, (ready, _))| (*key, *ready)))
        };
        match groups.iter_mut().find(|(_, all)| states(all)) {
            Some((ports, _)) => ports.extend(port),
            None => groups.push((port.into_iter().collect(), addresses)),
        }
    }
    groups
}

fn port(port: &core::EndpointPort) -> Port {
    (
        port.name.clone().unwrap_or_default(),
        port.port,
        port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port.app_protocol.clone(),
    )
}

fn endpoint(ip: &IpAddr, address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(of: &Endpoints, family: &str, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let wire = |(name, port, protocol, app_protocol): &Port| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    };
    let mut labels = of.labels().clone();
    labels.insert(SERVICE_NAME.into(), of.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = of.annotations().clone();
    annotations.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", of.name_any())),
            namespace: of.namespace(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owners::controller_reference(of)]),
            ..ObjectMeta::default()
        },
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(wire).collect()),
    }
}

/// The same slice gets the same name each time it is asked for, until the cache shows it.
fn free_name(of: &Endpoints, slice: &EndpointSlice, taken: &mut HashSet<String>) -> String {
    let (uid, ports) = (of.uid().unwrap_or_default(), format!("{:?}", slice.ports));
    let mut index: usize = 0;
    loop {
        let number = index.to_le_bytes();
        let parts = [
            uid.as_bytes(),
            slice.address_type.as_bytes(),
            ports.as_bytes(),
            &number,
        ];
        let name = format!("{}-{}", of.name_any(), names::suffix(parts));
        if taken.insert(name.clone()) {
            return name;
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: &Value) -> Endpoints {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "n", "uid": "e", "labels": {"a": "b"},
            "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "subsets": subsets}))
        .expect("Endpoints")
    }

    /// Family, ports and addresses of slices; an unready address has a `!`.
    fn shown(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let one = |slice: &Arc<EndpointSlice>| {
            let ports: Vec<String> = slice
                .ports
                .iter()
                .flatten()
                .map(|p| p.port.unwrap_or_default().to_string())
                .collect();
            let address = |e: &Endpoint| {
                let ready = e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                format!("{}{}", e.addresses[0], if ready { "" } else { "!" })
            };
            let addresses: Vec<String> = slice.endpoints.iter().flatten().map(address).collect();
            format!(
                "{} {}: {}",
                slice.address_type,
                ports.join(","),
                addresses.join(" ")
            )
        };
        let mut all: Vec<String> = slices.iter().map(one).collect();
        all.sort();
        all
    }

    fn applied(existing: Vec<Arc<EndpointSlice>>, plan: Plan) -> Vec<Arc<EndpointSlice>> {
        let gone: HashSet<String> = plan
            .delete
            .iter()
            .chain(plan.update.iter().map(|(old, _)| old))
            .map(|s| s.name_any())
            .collect();
        let kept = existing
            .into_iter()
            .filter(|slice| !gone.contains(&slice.name_any()));
        let new = plan.update.into_iter().map(|(_, new)| Arc::new(new));
        kept.chain(new)
            .chain(plan.create.into_iter().map(Arc::new))
            .collect()
    }

    #[test]
    fn subsets_become_slices_and_settle() {
        let port = |number: i32| json!({"port": number, "protocol": "TCP"});
        let ips = |all: &[&str]| all.iter().map(|ip| json!({"ip": ip})).collect::<Value>();
        let mut slices = Vec::new();
        for (subsets, expected) in [
            (json!([]), vec![]),
            (
                json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port(80)]}]),
                vec!["IPv4 80: 10.0.0.1"],
            ),
            (
                json!([{"addresses": ips(&["10.0.0.2", "fd00::1"]), "notReadyAddresses": ips(&["10.0.0.3"]), "ports": [port(80)]}]),
                vec!["IPv4 80: 10.0.0.2 10.0.0.3!", "IPv6 80: fd00::1"],
            ),
            (
                json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port(443)]}, {"addresses": ips(&["10.0.0.1"]), "ports": [port(80)]}]),
                vec!["IPv4 80,443: 10.0.0.1"],
            ),
            (
                json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port(80)]}, {"notReadyAddresses": ips(&["10.0.0.1"]), "ports": [port(80)]}]),
                vec!["IPv4 80: 10.0.0.1!"],
            ),
            (
                json!([{"addresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4 : 10.0.0.1"],
            ),
            (
                json!([{"addresses": ips(&["10.0.0.1"]), "ports": [port(1)]}, {"addresses": ips(&["10.0.0.2"]), "ports": [port(2)]}]),
                vec!["IPv4 1: 10.0.0.1", "IPv4 2: 10.0.0.2"],
            ),
        ] {
            let endpoints = endpoints(&subsets);
            slices = applied(slices.clone(), plan(&endpoints, &slices));
            assert_eq!(shown(&slices), expected, "{subsets}");
            let settled = plan(&endpoints, &slices);
            assert!(
                settled.create.is_empty() && settled.update.is_empty() && settled.delete.is_empty(),
                "{subsets}: {settled:?}"
            );
        }
    }

    #[test]
    fn a_slice_says_whose_it_is() {
        let subsets =
            json!([{"addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n1"}, {"ip": "none"}]}]);
        let plan = plan(&endpoints(&subsets), &[]);
        assert_eq!((plan.invalid, plan.skipped), (1, 0));
        let meta = &plan.create[0].metadata;
        let labels = serde_json::to_value(&meta.labels).expect("labels");
        assert_eq!(labels, json!({"a": "b", SERVICE_NAME: "db", MANAGED_BY: MANAGER}));
        let annotations = serde_json::to_value(&meta.annotations).expect("annotations");
        assert_eq!(annotations, json!({"note": "x"}));
        let owner = meta
            .owner_references
            .as_ref()
            .map(|all| (all[0].kind.as_str(), all[0].uid.as_str()));
        assert_eq!(owner, Some(("Endpoints", "e")));
        let endpoint = serde_json::to_value(&plan.create[0].endpoints).expect("endpoints");
        let expected = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "n1"}]);
        assert_eq!(endpoint, expected);
    }

    #[test]
    fn there_is_an_end_to_addresses() {
        let many: Vec<Value> = (0..1003)
            .map(|i| json!({"ip": format!("10.0.{}.{}", i / 250, i % 250)}))
            .collect();
        let plan = plan(&endpoints(&json!([{"addresses": many}])), &[]);
        assert_eq!((plan.create.len(), plan.skipped), (1, 3));
        assert_eq!(plan.create[0].endpoints.as_ref().map(Vec::len), Some(MOST));
    }
}
