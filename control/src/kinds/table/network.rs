//! Rows of Services, Endpoints and EndpointSlices.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, none_when_empty};
use crate::kinds::labels::format_labels;
use crate::kinds::view::View;

/// How many addresses or ports are listed before the rest is only counted.
const LISTED: usize = 3;

pub fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.text("spec.type")),
        json!(none_when_empty(object.text("spec.clusterIP").to_owned())),
        json!(external_ip(object)),
        json!(none_when_empty(ports(object.list("spec.ports")))),
        age(object, now),
        json!(format_labels(object.at("spec.selector"))),
    ]
}

fn external_ip(service: &Value) -> String {
    let external = service
        .list("spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(",");
    match service.text("spec.type") {
        "ClusterIP" | "NodePort" => none_when_empty(external),
        "LoadBalancer" => balancer(service, &external),
        "ExternalName" => service.text("spec.externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

fn balancer(service: &Value, external: &str) -> String {
    let ingress = service.list("status.loadBalancer.ingress").iter();
    let mut addresses: Vec<&str> = ingress
        .map(|i| {
            if i.text("ip").is_empty() {
                i.text("hostname")
            } else {
                i.text("ip")
            }
        })
        .filter(|a| !a.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.extend((!external.is_empty()).then_some(external));
    match addresses.is_empty() {
        true => "<pending>".into(),
        false => addresses.join(","),
    }
}

fn ports(ports: &[Value]) -> String {
    let one = |port: &Value| {
        let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
        match port.int("nodePort").unwrap_or(0) {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

pub fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut listed = Vec::new();
    for subset in object.list("subsets") {
        let addresses = || subset.list("addresses").iter().map(|a| a.text("ip"));
        match subset.list("ports") {
            [] => listed.extend(addresses().map(str::to_owned)),
            ports => listed.extend(ports.iter().flat_map(|port| {
                let port = port.int("port").unwrap_or(0);
                addresses().map(move |address| with_port(address, port))
            })),
        }
    }
    vec![name(object), json!(some_of(&listed, "<none>")), age(object, now)]
}

fn with_port(address: &str, port: i64) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

pub fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |p: &Value| p.int("port").map_or_else(|| "*".to_owned(), |n| n.to_string());
    let ports: Vec<String> = object.list("ports").iter().map(port).collect();
    let addresses = object.list("endpoints").iter().flat_map(|e| e.list("addresses"));
    let addresses: Vec<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    vec![
        name(object),
        json!(object.text("addressType")),
        json!(some_of(&ports, "<unset>")),
        json!(some_of(&addresses, "<unset>")),
        age(object, now),
    ]
}

/// The first few, and how many more.
fn some_of(items: &[String], nothing: &str) -> String {
    match items.len() {
        0 => nothing.to_owned(),
        n if n <= LISTED => items.join(","),
        n => format!("{} + {} more...", items[..LISTED].join(","), n - LISTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_listed_by_port() {
        let ip = |last: u8| json!({"ip": format!("1.1.1.{last}")});
        let subset = json!({"addresses": [ip(1), ip(2)], "ports": [{"port": 80}, {"port": 81}]});
        let bare = json!({"addresses": [ip(3)]});
        for (subsets, wanted) in [
            (json!([]), "<none>"),
            (json!([bare]), "1.1.1.3"),
            (json!([subset]), "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more..."),
            (json!([bare, subset]), "1.1.1.3,1.1.1.1:80,1.1.1.2:80 + 2 more..."),
        ] {
            let row = endpoints(&json!({ "subsets": subsets }), Timestamp::UNIX_EPOCH);
            assert_eq!(row[1], wanted);
        }
    }
}
