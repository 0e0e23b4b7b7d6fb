//! Whom `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` means (`ResourceLocation` of upstream's pods, services and nodes).
use super::super::super::Api;
use super::super::super::render;
use super::super::super::route::Target;
use super::super::super::status::{ApiError, Result};
use super::super::node;
use rand::seq::IndexedRandom;
use serde_json::Value;
use std::net::IpAddr;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// `host:port`, or `host` alone for the scheme's own port.
    pub authority: String,
    pub ip: IpAddr,
    pub port: u16,
    pub security: Security,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    /// TLS with whatever certificate: whoever says `https:` in the name knows whom it means.
    Tls,
    /// The kubelet API of this node, by the cluster's certificates.
    Kubelet(String),
}

#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    tls: bool,
    name: &'a str,
    /// A number or the name of a port; empty when it is not said.
    port: &'a str,
}

/// Upstream's `SplitSchemeNamePort`.
fn split(id: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
    known.then_some(Named {
        tls: scheme == "https",
        name,
        port,
    })
}

pub(super) async fn find(api: &Api, target: &Target) -> Result<Backend> {
    let id = target.name.as_deref().unwrap_or_default();
    let what = target.kind.singular.as_str();
    let named = split(id).ok_or_else(|| ApiError::bad_request(format!("invalid {what} request {id:?}")))?;
    match target.kind.plural.as_str() {
        "pods" => {
            let object = api.read(target, named.name).await?;
            pod(&named, &render::value(&target.kind, &object)?)
        }
        "services" => service(api, target, &named, id).await,
        "nodes" => {
            api.cache.fresh().await?;
            of_node(&named, &node::find_in(api, named.name)?)
        }
        _ => Err(ApiError::no_resource()),
    }
}

fn backend(tls: bool, ip: IpAddr, port: Option<u16>) -> Backend {
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    Backend {
        authority: port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")),
        ip,
        port: port.unwrap_or(if tls { 443 } else { 80 }),
        security: if tls { Security::Tls } else { Security::Plain },
    }
}

/// The Pod's first address, at the port said or at the first that a container has.
fn pod(named: &Named<'_>, pod: &Value) -> Result<Backend> {
    let status = &pod["status"];
    let said = status["podIPs"][0]["ip"].as_str().or(status["podIP"].as_str());
    let ip = reachable(said.unwrap_or_default())?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut declared = containers.filter_map(|c| c["ports"][0]["containerPort"].as_u64());
    let port = match named.port {
        "" => declared.next().and_then(|port| u16::try_from(port).ok()),
        port => Some(number(port)?),
    };
    Ok(backend(named.tls, ip, port))
}

fn number(port: &str) -> Result<u16> {
    let unknown = |_| ApiError::unreachable(&format!("dial tcp: lookup tcp/{port}: unknown port"));
    port.parse().map_err(unknown)
}

/// An address that is somebody's in the network: not this host's loopback, nor where clouds tell secrets.
fn reachable(ip: &str) -> Result<IpAddr> {
    let refused = || ApiError::bad_request("address not allowed");
    let ip: IpAddr = ip.parse().map_err(|_| refused())?;
    let linked = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || linked {
        true => Err(refused()),
        false => Ok(ip),
    }
}

/// One of the Pods behind the Service, at random.
async fn service(api: &Api, target: &Target, named: &Named<'_>, id: &str) -> Result<Backend> {
    let none = |of: &str| ApiError::unavailable(format!("no endpoints available for service {of:?}"));
    let mut port = named.port.to_owned();
    if let Ok(number) = named.port.parse::<i64>() {
        let object = api.read(target, named.name).await?;
        port = port_name(&render::value(&target.kind, &object)?, number, named.name)?;
    }
    let kinds = api.kinds.load();
    let kind = kinds
        .resource("", "v1", "endpoints")
        .ok_or_else(ApiError::no_resource)?;
    api.cache.fresh().await?;
    let namespace = target.namespace.as_deref();
    let object = api.cache.resource(kind)?.get(&kind.key(namespace, named.name));
    // Told of what was asked for, as upstream's storage has it.
    let object = object.ok_or_else(|| ApiError::not_found(&target.kind, named.name))?;
    let endpoints = render::value(kind, &object)?;
    if endpoints["subsets"].as_array().is_none_or(Vec::is_empty) {
        return Err(none(named.name));
    }
    let found = behind(&endpoints, &port, namespace.unwrap_or_default());
    let (ip, port) = found.choose(&mut rand::rng()).ok_or_else(|| none(id))?;
    Ok(backend(named.tls, reachable(ip)?, Some(*port)))
}

/// The name of the Service's port of this number.
fn port_name(service: &Value, number: i64, name: &str) -> Result<String> {
    let ports = service["spec"]["ports"].as_array();
    let found = ports.into_iter().flatten().find(|port| port["port"] == number);
    let missing = || ApiError::unavailable(format!("no service port {number} found for service {name:?}"));
    let port = found.ok_or_else(missing)?;
    Ok(port["name"].as_str().unwrap_or_default().to_owned())
}

/// Addresses that are Pods of the namespace and have the port of this name.
fn behind(endpoints: &Value, port: &str, namespace: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let mut ports = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port);
        let number = ports.next().and_then(|p| p["port"].as_u64());
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
            continue;
        };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        let ours =
            addresses.filter(|a| a["targetRef"]["kind"] == "Pod" && a["targetRef"]["namespace"] == namespace);
        found.extend(ours.filter_map(|a| Some((a["ip"].as_str()?.to_owned(), number))));
    }
    found
}

/// The node's kubelet API, or another port of it.
fn of_node(named: &Named<'_>, node: &node::Node) -> Result<Backend> {
    let (ip, kubelet) = (node.address.ip(), node.address.port());
    let asked = match named.port {
        "" => kubelet,
        port => number(port)?,
    };
    if asked != kubelet {
        return Ok(backend(named.tls, reachable(&ip.to_string())?, Some(asked)));
    }
    Ok(Backend {
        security: Security::Kubelet(node.name.clone()),
        ..backend(true, ip, Some(kubelet))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_carry_scheme_and_port() {
        let named = |tls, name, port| Some(Named { tls, name, port });
        for (id, want) in [
            ("a", named(false, "a", "")),
            ("a:80", named(false, "a", "80")),
            ("https:a:web", named(true, "a", "web")),
            ("http:a:", named(false, "a", "")),
            ("ftp:a:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(split(id), want, "{id}");
        }
    }

    #[test]
    fn a_pod_is_met_at_its_first_port() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"ports": [{"containerPort": 8080}]}]},
            "status": {"podIP": "10.1.2.3"}});
        let found = |id: &str| pod(&split(id).unwrap(), &object).map(|b| (b.authority, b.security));
        assert_eq!(found("p").unwrap(), ("10.1.2.3:8080".into(), Security::Plain));
        assert_eq!(found("https:p:9").unwrap(), ("10.1.2.3:9".into(), Security::Tls));
        for ip in ["", "127.0.0.1", "169.254.169.254", "::1", "0.0.0.0"] {
            let object = json!({"spec": {"containers": []}, "status": {"podIP": ip}});
            let error = pod(&split("p").unwrap(), &object).unwrap_err();
            assert_eq!(
                (error.code.as_u16(), error.message()),
                (400, "address not allowed"),
                "{ip}"
            );
        }
    }

    #[test]
    fn only_pods_of_the_namespace_are_behind_a_service() {
        let endpoints = json!({"subsets": [
            {"addresses": [
                {"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "namespace": "a"}},
                {"ip": "10.0.0.2", "targetRef": {"kind": "Pod", "namespace": "b"}},
                {"ip": "10.0.0.3"}],
             "ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]},
            {"notReadyAddresses": [{"ip": "10.0.0.4"}], "ports": [{"name": "web", "port": 80}]}]});
        assert_eq!(behind(&endpoints, "tls", "a"), [("10.0.0.1".to_owned(), 443)]);
        assert!(behind(&endpoints, "", "a").is_empty());
    }
}
