//! Rows of networking rules, priorities, flow control, webhooks and devices.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, or_none};
use crate::kinds::labels::format_selector;
use crate::kinds::view::View;

/// Hosts that are listed before the rest is only counted.
const HOSTS: usize = 3;

/// The name, marked when an annotation makes the class the default one.
fn marked_name(object: &Value, annotation: &str) -> Value {
    let default = object
        .at("metadata.annotations")
        .get(annotation)
        .is_some_and(|v| v == "true");
    let mark = if default { " (default)" } else { "" };
    json!(format!("{}{mark}", object.text("metadata.name")))
}

pub fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    let selector = json!(format_selector(object.at("spec.podSelector")));
    vec![name(object), selector, age(object, now)]
}

pub fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let class = object.at("spec.ingressClassName").as_str().unwrap_or("<none>");
    let addresses = object.list("status.loadBalancer.ingress").iter();
    let addresses: Vec<&str> = addresses
        .map(|i| match i.text("ip") {
            "" => i.text("hostname"),
            ip => ip,
        })
        .filter(|a| !a.is_empty())
        .collect();
    let ports = match object.list("spec.tls").is_empty() {
        true => "80",
        false => "80, 443",
    };
    vec![
        name(object),
        json!(class),
        json!(hosts(object.list("spec.rules"))),
        json!(addresses.join(",")),
        json!(ports),
        age(object, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let named: Vec<&str> = rules
        .iter()
        .map(|r| r.text("host"))
        .filter(|h| !h.is_empty())
        .collect();
    match named.len() {
        0 => "*".into(),
        n if n > HOSTS => format!("{} + {} more...", named[..HOSTS].join(","), rules.len() - HOSTS),
        _ => named.join(","),
    }
}

pub fn ingress_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match object.at("spec.parameters") {
        Value::Null => "<none>".to_owned(),
        p => match p.at("apiGroup").as_str() {
            Some(group) => format!("{}.{group}/{}", p.text("kind"), p.text("name")),
            None => format!("{}/{}", p.text("kind"), p.text("name")),
        },
    };
    vec![
        marked_name(object, "ingressclass.kubernetes.io/is-default-class"),
        json!(object.text("spec.controller")),
        json!(parameters),
        age(object, now),
    ]
}

pub fn ip_address(object: &Value, _: Timestamp) -> Vec<Value> {
    let parent = object.at("spec.parentRef");
    let shown = match parent {
        Value::Null => "<none>".to_owned(),
        _ => {
            let (group, resource) = (parent.text("group"), parent.text("resource"));
            let dot = if group.is_empty() { "" } else { "." };
            let parts = [parent.text("namespace"), parent.text("name")];
            let rest: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
            format!("{resource}{dot}{group}/{}", rest.join("/")).to_lowercase()
        }
    };
    vec![name(object), json!(shown)]
}

pub fn service_cidr(object: &Value, now: Timestamp) -> Vec<Value> {
    let cidrs: Vec<&str> = object
        .list("spec.cidrs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    vec![name(object), json!(cidrs.join(",")), age(object, now)]
}

pub fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.int("value").unwrap_or(0)),
        json!(object.flag("globalDefault")),
        age(object, now),
        json!(object.text("preemptionPolicy")),
    ]
}

pub fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(object.text("handler")), age(object, now)]
}

pub fn flow_schema(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut conditions = object.list("status.conditions").iter();
    let dangling = conditions.find(|c| c.text("type") == "Dangling");
    vec![
        name(object),
        json!(object.text("spec.priorityLevelConfiguration.name")),
        json!(object.int("spec.matchingPrecedence").unwrap_or(0)),
        or_none(object.text("spec.distinguisherMethod.type")),
        age(object, now),
        json!(dangling.map_or("?", |c| c.text("status"))),
    ]
}

pub fn priority_level(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &str| object.int(path).map_or_else(|| json!("<none>"), |n| json!(n));
    vec![
        name(object),
        json!(object.text("spec.type")),
        number("spec.limited.nominalConcurrencyShares"),
        number("spec.limited.limitResponse.queuing.queues"),
        number("spec.limited.limitResponse.queuing.handSize"),
        number("spec.limited.limitResponse.queuing.queueLengthLimit"),
        age(object, now),
    ]
}

pub fn webhooks(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.list("webhooks").len()),
        age(object, now),
    ]
}

pub fn resource_claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let deleted = object.has("metadata.deletionTimestamp");
    let allocated = object.has("status.allocation");
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (
            allocated && !object.list("status.reservedFor").is_empty(),
            "reserved",
        ),
    ];
    let states: Vec<&str> = states
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, state)| state)
        .collect();
    vec![name(object), json!(states.join(",")), age(object, now)]
}

pub fn resource_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.text("spec.nodeName")),
        json!(object.text("spec.driver")),
        json!(object.text("spec.pool.name")),
        age(object, now),
    ]
}
