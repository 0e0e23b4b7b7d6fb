//! The downward API: fields of the Pod and resources of its containers as text (core/v1
//! ObjectFieldSelector, ResourceFieldSelector). Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pods::view::PodView;
use crate::quantity;

/// What a container may be told of its Pod and node.
pub struct PodFacts<'a> {
    pub pod: PodView<'a>,
    pub pod_ips: &'a [IpAddr],
    pub host_ips: &'a [IpAddr],
    pub node_name: &'a str,
    /// What the node can give: the limit of a container that has none.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// A selector that names nothing.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("divisor {0} of a resource field is not a positive quantity")]
    Divisor(String),
}

/// The value of a `fieldRef`.
pub fn field(facts: &PodFacts<'_>, path: &str) -> Result<String, FieldError> {
    let meta = &facts.pod.pod.metadata;
    let spec = facts.pod.spec;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(FieldError::Path(path.into())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => facts.pod.name().to_owned(),
        "metadata.namespace" => facts.pod.namespace().to_owned(),
        "metadata.uid" => facts.pod.uid().to_owned(),
        "metadata.labels" => listed(meta.labels.as_ref()),
        "metadata.annotations" => listed(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.to_owned(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => joined(facts.host_ips),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => joined(facts.pod_ips),
        _ => return Err(FieldError::Path(path.into())),
    })
}

/// `metadata.labels['key']` → its parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let unquote = |q: char| key.strip_prefix(q).and_then(|k| k.strip_suffix(q));
    Some((map, unquote('\'').or_else(|| unquote('"')).unwrap_or(key)))
}

/// `key="value"` lines, escaped as Go's `%q`.
fn listed(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    lines.join("\n")
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(IpAddr::to_string).unwrap_or_default()
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
pub fn resource(
    facts: &PodFacts<'_>,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => facts
            .pod
            .container(name)
            .map(|(c, _)| c)
            .ok_or_else(|| FieldError::Container(name.into()))?,
        None => Cow::Borrowed(own.ok_or_else(|| FieldError::Container(String::new()))?),
    };
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let listed = |list: Option<&BTreeMap<String, Quantity>>| list.and_then(|l| l.get(name)).cloned();
    let amount = match kind {
        "limits" => {
            listed(resources.and_then(|r| r.limits.as_ref())).or_else(|| facts.allocatable.get(name).cloned())
        }
        "requests" => listed(resources.and_then(|r| r.requests.as_ref())),
        _ => return Err(unsupported()),
    };
    divided(amount.as_ref(), selector.divisor.as_ref(), name == "cpu")
}

fn divided(
    amount: Option<&Quantity>,
    divisor: Option<&Quantity>,
    is_cpu: bool,
) -> Result<String, FieldError> {
    let one = Quantity("1".into());
    let divisor = divisor.filter(|d| quantity::milli(d) != Some(0)).unwrap_or(&one);
    let bad = || FieldError::Divisor(divisor.0.clone());
    let read = if is_cpu { quantity::milli } else { quantity::value };
    let unit = read(divisor).filter(|unit| *unit > 0).ok_or_else(bad)?;
    let amount = amount.and_then(read).unwrap_or(0).max(0);
    Ok((amount / unit + i64::from(amount % unit != 0)).to_string())
}
