//! Which endpoints a port of a Service leads to, as its EndpointSlices say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use super::Protocol;

/// The label that says whose endpoints a slice holds.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The slices of each Service, by namespace and name.
pub(super) type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

pub(super) fn by_service<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Slices<'a> {
    let mut map = Slices::new();
    for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        let (Some(name), Some(namespace)) = (
            labels.and_then(|l| l.get(SERVICE_NAME)),
            &slice.metadata.namespace,
        ) else {
            continue;
        };
        map.entry((namespace, name)).or_default().push(slice);
    }
    map
}

/// The endpoints to use of those that somebody may lead to: the ready ones, or, when there are none, those still serving while they
/// terminate.
pub(super) fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    may: impl Fn(&Endpoint) -> bool,
) -> BTreeSet<SocketAddrV4> {
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let Some(number) = target_port(slice, port, protocol) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| may(endpoint)) {
            let sockets = endpoint_addresses(endpoint).map(|ip| SocketAddrV4::new(ip, number));
            match Readiness::of(endpoint.conditions.as_ref()) {
                Readiness::Ready => ready.extend(sockets),
                Readiness::Draining => draining.extend(sockets),
                Readiness::Not => {}
            }
        }
    }
    if ready.is_empty() { draining } else { ready }
}

/// How many addresses of a node are ready, whatever their ports.
pub(super) fn ready_here(slices: &[&EndpointSlice], node: &str) -> usize {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let here = all.filter(|endpoint| endpoint.node_name.as_deref() == Some(node));
    let ready =
        here.filter(|endpoint| matches!(Readiness::of(endpoint.conditions.as_ref()), Readiness::Ready));
    ready.flat_map(endpoint_addresses).collect::<BTreeSet<_>>().len()
}

fn endpoint_addresses(endpoint: &Endpoint) -> impl Iterator<Item = Ipv4Addr> {
    // The API: consumers use the first address only.
    endpoint
        .addresses
        .first()
        .and_then(|ip| ip.parse().ok())
        .into_iter()
}

/// The number a slice gives to a Service's port, by the port's name.
fn target_port(slice: &EndpointSlice, port: &ServicePort, protocol: Protocol) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        p.name.as_deref().unwrap_or_default() == name
            && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
    };
    let number = slice.ports.iter().flatten().find(same)?.port?;
    u16::try_from(number).ok().filter(|n| *n != 0)
}

enum Readiness {
    Ready,
    Draining,
    Not,
}

impl Readiness {
    /// An unknown condition counts as ready, and serving defaults to ready (API reference, EndpointConditions).
    fn of(conditions: Option<&EndpointConditions>) -> Self {
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Self::Ready,
            (false, true) => Self::Draining,
            (false, false) => Self::Not,
        }
    }
}
