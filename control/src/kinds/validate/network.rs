//! Endpoints and EndpointSlices.
use std::net::IpAddr;

use serde_json::Value;

use super::address::strict_ip;
use super::service::external_ip;
use super::{PROTOCOLS, Seen, complain, complain_number, immutable, ip, maybe_one_of, one_of};
use crate::kinds::address::sloppy;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

pub fn endpoints(object: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, subset) in object.list("subsets").iter().enumerate() {
        let path = format!("subsets[{i}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|l| subset.list(l).is_empty()) {
            errors.push(FieldError::required(
                path.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for list in lists {
            for (j, address) in subset.list(list).iter().enumerate() {
                errors.extend(subset_address(address, &format!("{path}.{list}[{j}]")));
            }
        }
        errors.extend(subset_ports(subset.list("ports"), &format!("{path}.ports")));
    }
    errors
}

/// An address that clients can be led to. One of loopback is let be, unlike upstream: an API server that listens there is
/// the endpoint of the `kubernetes` Service.
fn reachable(address: &str, path: &str) -> FieldErrors {
    match address.parse::<IpAddr>() {
        Ok(parsed) if parsed.is_loopback() => Vec::new(),
        _ => external_ip(address, path),
    }
}

fn subset_address(address: &Value, path: &str) -> FieldErrors {
    let (at, value) = (format!("{path}.ip"), address.text("ip"));
    let mut errors = ip(&at, value);
    let (host, node) = (address.text("hostname"), address.at("nodeName").as_str());
    if !host.is_empty() {
        errors.extend(complain(
            format_args!("{path}.hostname"),
            host,
            names::label(host),
        ));
    }
    if let Some(node) = node {
        errors.extend(complain(
            format_args!("{path}.nodeName"),
            node,
            names::subdomain(node),
        ));
    }
    match sloppy(value) {
        Some((address, true)) => errors.extend(reachable(&address.to_string(), &at)),
        Some(_) => errors.extend(reachable(value, &at)),
        None => errors.push(FieldError::invalid(at, value, "must be a valid IP address")),
    }
    errors
}

fn subset_ports(ports: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("{path}[{i}]");
        match port.text("name") {
            "" if ports.len() > 1 => errors.push(FieldError::required(format!("{at}.name"), "")),
            "" => {}
            name => errors.extend(complain(format_args!("{at}.name"), name, names::label(name))),
        }
        let number = port.int("port").unwrap_or(0);
        errors.extend(complain_number(
            format_args!("{at}.port"),
            number,
            names::port_number(number),
        ));
        errors.extend(one_of(
            format_args!("{at}.protocol"),
            port.text("protocol"),
            &PROTOCOLS,
        ));
        if let Some(protocol) = port.at("appProtocol").as_str() {
            let at = format!("{at}.appProtocol");
            errors.extend(complain(&at, protocol, names::qualified(protocol)));
        }
    }
    errors
}

pub fn endpoints_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    endpoints(new)
}

pub fn slice(object: &Value) -> FieldErrors {
    let mut errors = slice_frame(object);
    errors.extend(slice_endpoints(object));
    errors
}

/// All but the endpoints.
fn slice_frame(object: &Value) -> FieldErrors {
    let kind = object.text("addressType");
    let mut errors: FieldErrors = one_of("addressType", kind, &ADDRESS_TYPES).into_iter().collect();
    errors.extend(slice_ports(object.list("ports")));
    errors
}

fn slice_endpoints(object: &Value) -> FieldErrors {
    let endpoints = object.list("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS)];
    }
    let kind = object.text("addressType");
    let each = endpoints.iter().enumerate();
    each.flat_map(|(i, endpoint)| slice_endpoint(endpoint, kind, &format!("endpoints[{i}]")))
        .collect()
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &str) -> FieldErrors {
    let (addresses, at) = (endpoint.list("addresses"), format!("{path}.addresses"));
    let mut errors = Vec::new();
    match addresses.len() {
        0 => errors.push(FieldError::required(
            at.as_str(),
            "must contain at least 1 address",
        )),
        n if n > MAX_ADDRESSES => errors.push(FieldError::too_many(at.as_str(), n, MAX_ADDRESSES)),
        _ => {}
    }
    for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        errors.extend(slice_address(address, kind, &at, i));
    }
    if let Some(name) = endpoint.at("nodeName").as_str() {
        errors.extend(complain(
            format_args!("{path}.nodeName"),
            name,
            names::subdomain(name),
        ));
    }
    let topology = endpoint.at("deprecatedTopology");
    let count = topology.as_object().map_or(0, serde_json::Map::len);
    let topology_at = format!("{path}.deprecatedTopology");
    if count > MAX_TOPOLOGY {
        errors.push(FieldError::too_many(topology_at.as_str(), count, MAX_TOPOLOGY));
    }
    errors.extend(crate::kinds::meta::labels(topology, &topology_at));
    if let Some(name) = endpoint.at("hostname").as_str() {
        errors.extend(complain(
            format_args!("{path}.hostname"),
            name,
            names::label(name),
        ));
    }
    let hints = endpoint.at("hints");
    errors.extend(hinted(
        hints,
        "forZones",
        names::label_value,
        &format!("{path}.hints"),
    ));
    errors.extend(hinted(
        hints,
        "forNodes",
        names::subdomain,
        &format!("{path}.hints"),
    ));
    errors
}

fn slice_address(address: &str, kind: &str, list: &str, i: usize) -> FieldErrors {
    let at = format!("{list}[{i}]");
    let mut errors = match kind {
        "IPv4" => ip(&at, address),
        "IPv6" => strict_ip(&at, address),
        "FQDN" => return domain_name(address, &at),
        _ => return Vec::new(),
    };
    if let Some(parsed) = address.parse::<IpAddr>().ok().filter(|_| errors.is_empty()) {
        if parsed.is_ipv4() != (kind == "IPv4") {
            errors.push(FieldError::invalid(
                list,
                address,
                format!("must be an {kind} address"),
            ));
        }
        errors.extend(reachable(address, &at));
    }
    errors
}

/// A name with at least one dot.
fn domain_name(name: &str, path: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let whole = names::subdomain(name);
    if !whole.is_empty() {
        return vec![FieldError::invalid(path, name, whole.join(","))];
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return vec![FieldError::invalid(path, name, detail)];
    }
    let bad = name.split('.').find(|label| !names::label(label).is_empty());
    bad.map(|label| FieldError::invalid(path, label, names::label(label).join(",")))
        .into_iter()
        .collect()
}

/// Zones or nodes that an endpoint is for.
fn hinted(hints: &Value, key: &str, check: fn(&str) -> Vec<String>, path: &str) -> FieldErrors {
    let (list, at) = (hints.list(key), format!("{path}.{key}"));
    if list.len() > MAX_HINTS {
        return vec![FieldError::too_many(at, list.len(), MAX_HINTS)];
    }
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, name) in list.iter().map(|hint| hint.text("name")).enumerate() {
        let at = format!("{at}[{i}].name");
        if seen.again(name) {
            errors.push(FieldError::duplicate(at.as_str(), name));
        }
        errors.extend(complain(&at, name, check(name)));
    }
    errors
}

fn slice_ports(ports: &[Value]) -> FieldErrors {
    if ports.len() > MAX_PORTS {
        return vec![FieldError::too_many("ports", ports.len(), MAX_PORTS)];
    }
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (format!("ports[{i}]"), port.text("name"));
        if !name.is_empty() {
            errors.extend(complain(format_args!("{path}.name"), name, names::label(name)));
        }
        if seen.again(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        match port.at("protocol").as_str() {
            None => errors.push(FieldError::required(format!("{path}.protocol"), "")),
            Some(_) => errors.extend(maybe_one_of(port, "protocol", &path, &PROTOCOLS)),
        }
        if let Some(protocol) = port.at("appProtocol").as_str() {
            let at = format!("{path}.appProtocol");
            errors.extend(complain(&at, protocol, names::qualified(protocol)));
        }
    }
    errors
}

pub fn slice_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = slice_frame(new);
    // Endpoints that were there before are let be.
    if new.at("endpoints") != old.at("endpoints") {
        errors.extend(slice_endpoints(new));
    }
    errors.extend(immutable(new, old, "addressType"));
    errors
}
