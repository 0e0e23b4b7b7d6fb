//! The names of a cluster: a pure function of Services and EndpointSlices.
//!
//! Follows the Kubernetes DNS-based service discovery specification, version 1.1.0. Refuses to know messages and sockets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// The version of the specification, as its record says it.
const SPECIFICATION: &str = "1.1.0";

/// The label that says whose endpoints a slice holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// A or AAAA
    Address(IpAddr),
    /// CNAME
    Alias(String),
    /// SRV
    Location { port: u16, target: String },
    /// PTR
    Pointer(String),
    /// TXT
    Text(String),
}

/// A record and whose it is; names are lower-case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub name: String,
    pub data: Data,
}

/// What the cluster knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Not the cluster's: somebody else may know it.
    Elsewhere,
    /// The cluster's, and nobody's.
    Nobody,
    /// All that is under this name, of whatever type; a name may have only names below it.
    Known(Vec<Record>),
}

/// All names of a cluster at one moment.
#[derive(Debug, Default)]
pub struct Zone {
    /// By `name.namespace`.
    services: HashMap<String, Entry>,
    namespaces: HashSet<String>,
    pointers: HashMap<IpAddr, BTreeSet<String>>,
}

#[derive(Debug)]
enum Entry {
    /// An ExternalName.
    External(String),
    /// A Service with addresses of its own.
    Cluster(Vec<IpAddr>, Vec<Port>),
    /// One whose endpoints are found by its name.
    Headless(Vec<Member>),
}

/// An endpoint of a headless Service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    host: String,
    ip: IpAddr,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    /// `tcp`, `udp` or `sctp`
    protocol: String,
    number: u16,
}

impl Zone {
    pub fn new<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut members = by_service(slices);
        let mut zone = Self::default();
        for service in services {
            let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) else {
                continue;
            };
            let key = format!("{name}.{namespace}");
            let members = members.remove(&key).unwrap_or_default();
            zone.namespaces.insert(namespace.clone());
            if let Some(entry) = entry(service, members) {
                zone.point_at(&key, &entry);
                zone.services.insert(key, entry);
            }
        }
        zone
    }

    fn point_at(&mut self, key: &str, entry: &Entry) {
        let service = service_name(key);
        let mut add = |ip, name| {
            self.pointers.entry(ip).or_default().insert(name);
        };
        match entry {
            Entry::External(_) => {}
            Entry::Cluster(ips, _) => ips.iter().for_each(|ip| add(*ip, service.clone())),
            Entry::Headless(members) => members
                .iter()
                .for_each(|member| add(member.ip, format!("{}.{service}", member.host))),
        }
    }

    /// What is under `name`, which is lower-case and without a dot at the end.
    pub fn look_up(&self, name: &str) -> Knowledge {
        if let Some(ip) = reversed(name) {
            return self.pointer(name, ip);
        }
        let below = match name.strip_suffix(DOMAIN) {
            Some("") => "",
            Some(below) if below.ends_with('.') => below.trim_end_matches('.'),
            _ => return Knowledge::Elsewhere,
        };
        let labels: Vec<&str> = below.split('.').filter(|label| !label.is_empty()).collect();
        let data = match labels.as_slice() {
            [] | ["svc"] | ["pod"] => Some(Vec::new()),
            ["dns-version"] => Some(vec![Data::Text(SPECIFICATION.into())]),
            [namespace, "svc"] => self.namespaces.contains(*namespace).then(Vec::new),
            [ip, _, "pod"] => undashed(ip).map(|ip| vec![Data::Address(ip)]),
            [service, namespace, "svc"] => self.service(&format!("{service}.{namespace}")),
            [first, service, namespace, "svc"] => self.below(first, &format!("{service}.{namespace}")),
            [port, protocol, service, namespace, "svc"] => {
                self.port(port, protocol, &format!("{service}.{namespace}"))
            }
            _ => None,
        };
        let record = |data| Record {
            name: name.to_owned(),
            data,
        };
        data.map_or(Knowledge::Nobody, |data| {
            Knowledge::Known(data.into_iter().map(record).collect())
        })
    }

    fn pointer(&self, name: &str, ip: IpAddr) -> Knowledge {
        let Some(names) = self.pointers.get(&ip) else {
            return Knowledge::Elsewhere;
        };
        let record = |target: &String| Record {
            name: name.to_owned(),
            data: Data::Pointer(target.clone()),
        };
        Knowledge::Known(names.iter().map(record).collect())
    }

    fn service(&self, key: &str) -> Option<Vec<Data>> {
        Some(match self.services.get(key)? {
            Entry::External(target) => vec![Data::Alias(target.clone())],
            Entry::Cluster(ips, _) => ips.iter().copied().map(Data::Address).collect(),
            Entry::Headless(members) => {
                let ips: BTreeSet<IpAddr> = members.iter().map(|member| member.ip).collect();
                ips.into_iter().map(Data::Address).collect()
            }
        })
    }

    /// An endpoint by its host name, or a protocol, below which are ports.
    fn below(&self, first: &str, key: &str) -> Option<Vec<Data>> {
        let entry = self.services.get(key)?;
        if let Some(protocol) = first.strip_prefix('_') {
            let known = entry.ports().iter().any(|(port, _)| port.protocol == protocol);
            return known.then(Vec::new);
        }
        let Entry::Headless(members) = entry else {
            return None;
        };
        let named: Vec<Data> = members
            .iter()
            .filter(|member| member.host == first)
            .map(|member| Data::Address(member.ip))
            .collect();
        (!named.is_empty()).then_some(named)
    }

    fn port(&self, port: &str, protocol: &str, key: &str) -> Option<Vec<Data>> {
        let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
        let service = service_name(key);
        let ports = self.services.get(key)?.ports();
        let locations: BTreeSet<Data> = ports
            .into_iter()
            .filter(|(known, _)| known.name == port && known.protocol == protocol)
            .map(|(known, host)| Data::Location {
                port: known.number,
                target: host.map_or(service.clone(), |host| format!("{host}.{service}")),
            })
            .collect();
        (!locations.is_empty()).then(|| locations.into_iter().collect())
    }
}

impl Entry {
    /// Each port, and the host below the Service that has it.
    fn ports<'z>(&'z self) -> Vec<(&'z Port, Option<&'z str>)> {
        match self {
            Self::External(_) => Vec::new(),
            Self::Cluster(_, ports) => ports.iter().map(|port| (port, None)).collect(),
            Self::Headless(members) => {
                let of = |member: &'z Member| {
                    let host = member.host.as_str();
                    member.ports.iter().map(move |port| (port, Some(host)))
                };
                members.iter().flat_map(of).collect()
            }
        }
    }
}

fn service_name(key: &str) -> String {
    format!("{key}.svc.{DOMAIN}")
}

fn entry(service: &Service, members: Vec<Member>) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref()?.trim_end_matches('.');
        return Some(Entry::External(target.to_ascii_lowercase()));
    }
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if cluster_ip == "None" {
        return Some(Entry::Headless(members));
    }
    let all = spec.cluster_ips.iter().flatten().map(String::as_str);
    let ips: BTreeSet<IpAddr> = all.chain([cluster_ip]).filter_map(|ip| ip.parse().ok()).collect();
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)));
    Some(Entry::Cluster(ips.into_iter().collect(), ports.collect()))
}

/// Only ports with a name have records.
fn named_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    Some(Port {
        name: name.filter(|name| !name.is_empty())?.to_owned(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number?).ok()?,
    })
}

/// The endpoints that are ready, by `name.namespace` of their Service.
fn by_service<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> HashMap<String, Vec<Member>> {
    let mut all: HashMap<String, Vec<Member>> = HashMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let (Some(name), Some(namespace)) = (
            labels.and_then(|labels| labels.get(SERVICE_NAME)),
            &slice.metadata.namespace,
        ) else {
            continue;
        };
        let ports: Vec<Port> = slice.ports.iter().flatten().filter_map(endpoint_port).collect();
        let members = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| is_ready(endpoint));
        let members = members.flat_map(|endpoint| members_of(endpoint, &ports));
        all.entry(format!("{name}.{namespace}"))
            .or_default()
            .extend(members);
    }
    all
}

fn endpoint_port(port: &EndpointPort) -> Option<Port> {
    named_port(port.name.as_deref(), port.protocol.as_deref(), port.port)
}

/// An endpoint of which nothing is said is ready (API reference of EndpointConditions).
fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn members_of(endpoint: &Endpoint, ports: &[Port]) -> Vec<Member> {
    let ips = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
    let member = |ip| Member {
        host: endpoint.hostname.clone().unwrap_or_else(|| dashed(ip)),
        ip,
        ports: ports.to_vec(),
    };
    ips.map(member).collect()
}

/// An address as a label, as Pods and endpoints without a host name are called.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4: Option<Ipv4Addr> = label.replace('-', ".").parse().ok();
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok();
    v4.map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = digits.rsplit('.').collect();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.rsplit('.').collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    let groups: Vec<String> = digits.chunks(4).map(<[&str]>::concat).collect();
    groups.join(":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn zone() -> Zone {
        let service = |name: &str, spec: Value| -> Service {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec}))
                .unwrap()
        };
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9}]);
        let services = [
            service(
                "web",
                json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd00::7"], "ports": ports}),
            ),
            service("db", json!({"clusterIP": "None", "ports": ports})),
            service("empty", json!({"clusterIP": "None"})),
            service(
                "out",
                json!({"type": "ExternalName", "externalName": "Example.COM."}),
            ),
        ];
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "db-1", "namespace": "n", "labels": {SERVICE_NAME: "db"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.42.0.3"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.4"], "conditions": {}},
                {"addresses": ["10.42.0.5"], "hostname": "db-2", "conditions": {"ready": false}}],
        }))
        .unwrap();
        Zone::new(&services, [&slice])
    }

    fn told(name: &str) -> String {
        let data = |record: &Record| match &record.data {
            Data::Address(ip) => ip.to_string(),
            Data::Alias(name) | Data::Pointer(name) | Data::Text(name) => name.clone(),
            Data::Location { port, target } => format!("{target}:{port}"),
        };
        match zone().look_up(name) {
            Knowledge::Elsewhere => "elsewhere".into(),
            Knowledge::Nobody => "nobody".into(),
            Knowledge::Known(records) => records.iter().map(data).collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn names_of_the_specification() {
        let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        let cases = [
            ("dns-version.cluster.local", "1.1.0"),
            ("web.n.svc.cluster.local", "10.43.0.7 fd00::7"),
            ("_http._tcp.web.n.svc.cluster.local", "web.n.svc.cluster.local:80"),
            ("_dns._udp.web.n.svc.cluster.local", "web.n.svc.cluster.local:53"),
            ("_dns._tcp.web.n.svc.cluster.local", "nobody"),
            ("_tcp.web.n.svc.cluster.local", ""),
            ("_sctp.web.n.svc.cluster.local", "nobody"),
            ("7.0.43.10.in-addr.arpa", "web.n.svc.cluster.local"),
            (v6, "web.n.svc.cluster.local"),
            ("db.n.svc.cluster.local", "10.42.0.3 10.42.0.4"),
            ("db-0.db.n.svc.cluster.local", "10.42.0.3"),
            ("10-42-0-4.db.n.svc.cluster.local", "10.42.0.4"),
            ("db-2.db.n.svc.cluster.local", "nobody"),
            (
                "_http._tcp.db.n.svc.cluster.local",
                "10-42-0-4.db.n.svc.cluster.local:8080 db-0.db.n.svc.cluster.local:8080",
            ),
            ("3.0.42.10.in-addr.arpa", "db-0.db.n.svc.cluster.local"),
            ("empty.n.svc.cluster.local", ""),
            ("out.n.svc.cluster.local", "example.com"),
            ("10-42-0-9.n.pod.cluster.local", "10.42.0.9"),
            ("fd00--9.n.pod.cluster.local", "fd00::9"),
            ("web-1.n.pod.cluster.local", "nobody"),
            ("n.svc.cluster.local", ""),
            ("other.svc.cluster.local", "nobody"),
            ("web.other.svc.cluster.local", "nobody"),
            ("cluster.local", ""),
            ("xcluster.local", "elsewhere"),
            ("a.b.web.n.svc.cluster.local", "nobody"),
            ("example.com", "elsewhere"),
            ("8.8.8.8.in-addr.arpa", "elsewhere"),
            ("8.8.8.in-addr.arpa", "elsewhere"),
            ("", "elsewhere"),
        ];
        for (name, want) in cases {
            assert_eq!(told(name), want, "{name}");
        }
    }
}
