//! Environment variables of Services, in the form Docker links gave them (core/v1 Service,
//! "Discovering services"). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The API server's own Service, known to every Pod.
const API_NAMESPACE: &str = "default";
const API_SERVICE: &str = "kubernetes";

/// Variables of the Services a Pod in `namespace` sees; without `links` only the API server's.
pub fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut made = BTreeMap::new();
    let ours = |s: &Service| s.metadata.namespace.as_deref() == Some(namespace);
    let api = |s: &Service| {
        s.metadata.namespace.as_deref() == Some(API_NAMESPACE)
            && s.metadata.name.as_deref() == Some(API_SERVICE)
    };
    services.iter().filter(|s| api(s)).for_each(|s| add(s, &mut made));
    services
        .iter()
        .filter(|s| links && ours(s))
        .for_each(|s| add(s, &mut made));
    made
}

fn add(service: &Service, made: &mut BTreeMap<String, String>) {
    let spec = service.spec.as_ref();
    let ip = spec
        .and_then(|s| s.cluster_ip.as_deref())
        .filter(|ip| !ip.is_empty() && *ip != "None");
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let (Some(ip), Some(first)) = (ip, ports.first()) else {
        return;
    };
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    made.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    made.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            made.insert(
                format!("{name}_SERVICE_PORT_{}", variable_name(port_name)),
                port.port.to_string(),
            );
        }
    }
    made.insert(format!("{name}_PORT"), url(ip, first));
    ports.iter().for_each(|port| add_link(&name, ip, port, made));
}

fn add_link(name: &str, ip: &str, port: &ServicePort, made: &mut BTreeMap<String, String>) {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_uppercase();
    let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
    made.insert(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
    made.insert(format!("{prefix}_PORT"), port.port.to_string());
    made.insert(format!("{prefix}_ADDR"), ip.to_owned());
    made.insert(prefix, url(ip, port));
}

fn url(ip: &str, port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    format!("{protocol}://{host}:{}", port.port)
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}
