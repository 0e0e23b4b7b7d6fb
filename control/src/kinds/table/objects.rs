//! Rows of Nodes, Namespaces, configuration, Events and Leases.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, none_when_empty};
use crate::kinds::time;
use crate::kinds::view::View;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(object.text("status.phase")), age(object, now)]
}

pub fn component_status(object: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = object
        .list("conditions")
        .iter()
        .find(|c| c.text("type") == "Healthy");
    let healthy = healthy.unwrap_or(&Value::Null);
    let status = match healthy.text("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![
        name(object),
        json!(status),
        json!(healthy.text("message")),
        json!(healthy.text("error")),
    ]
}

pub fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |key: &str| object.map(key).map_or(0, serde_json::Map::len);
    vec![
        name(object),
        json!(count("data") + count("binaryData")),
        age(object, now),
    ]
}

pub fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = object.map("data").map_or(0, serde_json::Map::len);
    vec![
        name(object),
        json!(object.text("type")),
        json!(count),
        age(object, now),
    ]
}

pub fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(object.text("spec.holderIdentity")),
        age(object, now),
    ]
}

pub fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let info = |key: &str| match object.text(&format!("status.nodeInfo.{key}")) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    vec![
        name(object),
        json!(node_status(object)),
        json!(none_when_empty(roles(object))),
        age(object, now),
        json!(object.text("status.nodeInfo.kubeletVersion")),
        json!(address(object, "InternalIP")),
        json!(address(object, "ExternalIP")),
        json!(info("osImage")),
        json!(info("kernelVersion")),
        json!(info("containerRuntimeVersion")),
    ]
}

fn node_status(node: &Value) -> String {
    let ready = node
        .list("status.conditions")
        .iter()
        .find(|c| c.text("type") == "Ready");
    let mut status = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles = Vec::new();
    for (key, value) in node.map("metadata.labels").into_iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => roles.push(role),
            None if key == ROLE_LABEL => roles.extend(value.as_str()),
            None => {}
        }
    }
    roles.retain(|r| !r.is_empty());
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = node
        .list("status.addresses")
        .iter()
        .find(|a| a.text("type") == kind);
    found.map_or("<none>", |a| a.text("address"))
}

/// A core Event; `events.k8s.io` Events are converted first.
pub fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let object = event.at("involvedObject");
    vec![
        json!(last_seen(event, now)),
        json!(event.text("type")),
        json!(event.text("reason")),
        json!(format!(
            "{}/{}",
            object.text("kind").to_lowercase(),
            object.text("name")
        )),
        json!(object.text("fieldPath")),
        json!(source(event)),
        json!(event.text("message").trim()),
        json!(first_seen(event, now)),
        json!(count(event)),
        name(event),
    ]
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let times = [
        event.at("firstTimestamp").as_str(),
        event.at("eventTime").as_str(),
    ];
    time::age(times.into_iter().flatten().next(), now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    if event.has("series") {
        return time::age(event.at("series.lastObservedTime").as_str(), now);
    }
    match event.at("lastTimestamp").as_str() {
        Some(last) => time::age(Some(last), now),
        None => first_seen(event, now),
    }
}

fn count(event: &Value) -> i64 {
    match (event.int("series.count"), event.int("count").unwrap_or(0)) {
        (Some(series), _) => series,
        (None, 0) => 1,
        (None, count) => count,
    }
}

fn source(event: &Value) -> String {
    let component = match event.text("source.component") {
        "" => event.text("reportingComponent"),
        component => component,
    };
    let host = match event.text("source.host") {
        "" => event.text("reportingInstance"),
        host => host,
    };
    match host {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes() {
        let object = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "False"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]},
        });
        let cells = node(&object, "2024-01-01T01:00:00Z".parse().expect("time"));
        let want = [
            "n",
            "NotReady,SchedulingDisabled",
            "control-plane",
            "60m",
            "",
            "1.2.3.4",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>",
        ];
        assert_eq!(cells, want.map(|w| json!(w)));
    }

    #[test]
    fn events() {
        let object = json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R", "message": "m\n",
            "type": "Normal", "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:01:00Z", "count": 2,
            "source": {"component": "kubelet", "host": "n1"},
        });
        let cells = event(&object, "2024-01-01T00:02:00Z".parse().expect("time"));
        let want = json!([
            "60s",
            "Normal",
            "R",
            "pod/p",
            "",
            "kubelet, n1",
            "m",
            "2m",
            2,
            "e"
        ]);
        assert_eq!(json!(cells), want);
    }
}
