//! The downward API: fields of the Pod and resources of its containers as text (core/v1
//! ObjectFieldSelector, ResourceFieldSelector). Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pods::view::PodView;
use crate::quantity;

/// What a container may be told of its Pod and node.
pub struct PodFacts<'a> {
    pub pod: PodView<'a>,
    pub pod_ips: &'a [IpAddr],
    pub host_ips: &'a [IpAddr],
    pub node_name: &'a str,
    /// What the node can give: the limit of a container that has none, in a Pod that has none.
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
        .map(|(k, v)| format!("{k}={}", quoted(v)))
        .collect();
    lines.join("\n")
}

/// As Go's `%q` has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            '\r' => quoted.push_str("\\r"),
            c if is_printable(c) => quoted.push(c),
            c if c.is_ascii() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) <= 0xffff => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// A mark is printable behind another character, which is how the standard library tells.
fn is_printable(c: char) -> bool {
    c == '\'' || String::from_iter(['a', c]).escape_debug().nth(1) == Some(c)
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
    let amount = match kind {
        "limits" => limit(facts, resources, name),
        "requests" => listed_amount(resources.and_then(|r| r.requests.as_ref()), name),
        _ => return Err(unsupported()),
    };
    divided(amount, selector.divisor.as_ref(), name == "cpu")
}

fn listed_amount<'a>(list: Option<&'a BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    list?
        .get(name)
        .filter(|amount| quantity::milli(amount) != Some(0))
}

/// What bounds a container: its own limit, else its Pod's (KEP-2837), else what the node can give.
fn limit<'a>(
    facts: &'a PodFacts<'_>,
    own: Option<&'a ResourceRequirements>,
    name: &str,
) -> Option<&'a Quantity> {
    let of = |resources: Option<&'a ResourceRequirements>| {
        listed_amount(resources.and_then(|r| r.limits.as_ref()), name)
    };
    let bounded = ["cpu", "memory", "ephemeral-storage"].contains(&name);
    let node = || facts.allocatable.get(name).filter(|_| bounded);
    let whole = || of(facts.pod.spec.resources.as_ref()).filter(|_| bounded);
    of(own).or_else(whole).or_else(node)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_go_does() {
        for (text, expected) in [
            ("plain 'é' 日 e\u{301}", "\"plain 'é' 日 e\u{301}\""),
            ("\"\\\t\n\r\x07", r#""\"\\\t\n\r\a""#),
            ("\x1b\x7f\0", r#""\x1b\x7f\x00""#),
            ("\u{200b}\u{a0}", r#""\u200b\u00a0""#),
            ("\u{1f600}\u{e0001}", "\"\u{1f600}\\U000e0001\""),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
