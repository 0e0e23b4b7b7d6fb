//! Endpoints and EndpointSlices.
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{PROTOCOLS, Seen, complain, complain_number, immutable, ip, maybe_one_of, one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

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
                errors.extend(ip(&format!("{path}.{list}[{j}].ip"), address.text("ip")));
            }
        }
        errors.extend(subset_ports(subset.list("ports"), &format!("{path}.ports")));
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
            name => errors.extend(complain(&format!("{at}.name"), name, names::label(name))),
        }
        let number = port.int("port").unwrap_or(0);
        errors.extend(complain_number(
            &format!("{at}.port"),
            number,
            names::port_number(number),
        ));
        errors.extend(one_of(
            format!("{at}.protocol"),
            port.text("protocol"),
            &PROTOCOLS,
        ));
    }
    errors
}

pub fn endpoints_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    endpoints(new)
}

pub fn slice(object: &Value) -> FieldErrors {
    let kind = object.text("addressType");
    let mut errors: FieldErrors = one_of("addressType".into(), kind, &ADDRESS_TYPES)
        .into_iter()
        .collect();
    let endpoints = object.list("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        errors.extend(slice_endpoint(endpoint, kind, &format!("endpoints[{i}]")));
    }
    errors.extend(slice_ports(object.list("ports")));
    errors
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &str) -> FieldErrors {
    let (addresses, at) = (endpoint.list("addresses"), format!("{path}.addresses"));
    let mut errors = Vec::new();
    match addresses.len() {
        0 => errors.push(FieldError::required(
            at.clone(),
            "must contain at least 1 address",
        )),
        n if n > MAX_ADDRESSES => errors.push(FieldError::too_many(at.clone(), n, MAX_ADDRESSES)),
        _ => {}
    }
    for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        errors.extend(slice_address(address, kind, &format!("{at}[{i}]")));
    }
    for key in ["nodeName", "hostname"] {
        if let Some(name) = endpoint.at(key).as_str() {
            let complaints = if key == "hostname" {
                names::label(name)
            } else {
                names::subdomain(name)
            };
            errors.extend(complain(&format!("{path}.{key}"), name, complaints));
        }
    }
    errors
}

fn slice_address(address: &str, kind: &str, path: &str) -> FieldErrors {
    match kind {
        "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
            vec![FieldError::invalid(path, address, "must be a valid IPv4 address")]
        }
        "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
            vec![FieldError::invalid(path, address, "must be a valid IPv6 address")]
        }
        "FQDN" => complain(path, address, names::subdomain(address)),
        _ => Vec::new(),
    }
}

fn slice_ports(ports: &[Value]) -> FieldErrors {
    if ports.len() > MAX_PORTS {
        return vec![FieldError::too_many("ports", ports.len(), MAX_PORTS)];
    }
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (format!("ports[{i}]"), port.text("name"));
        if !name.is_empty() {
            errors.extend(complain(&format!("{path}.name"), name, names::label(name)));
        }
        if seen.again(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        errors.extend(maybe_one_of(port, "protocol", &path, &PROTOCOLS));
        if let Some(number) = port.int("port") {
            errors.extend(complain_number(
                &format!("{path}.port"),
                number,
                names::port_number(number),
            ));
        }
    }
    errors
}

pub fn slice_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = slice(new);
    errors.extend(immutable(new, old, "addressType"));
    errors
}
