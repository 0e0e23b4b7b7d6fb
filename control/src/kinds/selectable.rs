//! Field labels: what a field selector of each kind may name, and the value an object has there.
use serde_json::Value;

use super::view::View;

pub(super) fn pod(pod: &Value) -> Vec<(String, String)> {
    let ip = match pod.list("status.podIPs").first() {
        Some(ip) => ip.text("ip"),
        None => pod.text("status.podIP"),
    };
    let mut fields = texts(
        pod,
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.nominatedNodeName",
        ],
    );
    fields.push(("status.podIP".into(), ip.to_owned()));
    fields.push((
        "spec.hostNetwork".into(),
        pod.flag("spec.hostNetwork").to_string(),
    ));
    fields
}

pub(super) fn node(node: &Value) -> Vec<(String, String)> {
    vec![(
        "spec.unschedulable".into(),
        node.flag("spec.unschedulable").to_string(),
    )]
}

pub(super) fn namespace(namespace: &Value) -> Vec<(String, String)> {
    texts(namespace, &["status.phase"])
}

pub(super) fn certificate_request(request: &Value) -> Vec<(String, String)> {
    texts(request, &["spec.signerName"])
}

pub(super) fn secret(secret: &Value) -> Vec<(String, String)> {
    texts(secret, &["type"])
}

pub(super) fn service(service: &Value) -> Vec<(String, String)> {
    texts(service, &["spec.clusterIP", "spec.type"])
}

pub(super) fn replication_controller(set: &Value) -> Vec<(String, String)> {
    vec![(
        "status.replicas".into(),
        set.int("status.replicas").unwrap_or(0).to_string(),
    )]
}

pub(super) fn ip_address(address: &Value) -> Vec<(String, String)> {
    let parent = address.at("spec.parentRef");
    [
        ("resource", "resource"),
        ("name", "name"),
        ("namespace", "namespace"),
        ("group", "group"),
    ]
    .iter()
    .map(|(label, key)| (format!("spec.parentRef.{label}"), parent.text(key).to_owned()))
    .collect()
}

pub(super) fn resource_slice(slice: &Value) -> Vec<(String, String)> {
    texts(slice, &["spec.nodeName", "spec.driver"])
}

pub(super) fn job(job: &Value) -> Vec<(String, String)> {
    vec![(
        "status.successful".into(),
        job.int("status.succeeded").unwrap_or(0).to_string(),
    )]
}

fn texts(object: &Value, paths: &[&str]) -> Vec<(String, String)> {
    paths
        .iter()
        .map(|path| ((*path).to_owned(), object.text(path).to_owned()))
        .collect()
}
