//! Rows of Deployments and ReplicaSets.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name};
use crate::kinds::labels::format_selector;
use crate::kinds::view::View;

pub fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| object.int(path).unwrap_or(0);
    let ready = format!("{}/{}", count("status.readyReplicas"), count("spec.replicas"));
    let mut cells = vec![
        name(object),
        json!(ready),
        json!(count("status.updatedReplicas")),
        json!(count("status.availableReplicas")),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

pub fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| json!(object.int(path).unwrap_or(0));
    let mut cells = vec![
        name(object),
        count("spec.replicas"),
        count("status.replicas"),
        count("status.readyReplicas"),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

/// Containers, images and selector.
fn template_cells(object: &Value) -> [Value; 3] {
    let containers = object.list("spec.template.spec.containers");
    let join = |key: &str| {
        containers
            .iter()
            .map(|c| c.text(key))
            .collect::<Vec<_>>()
            .join(",")
    };
    [
        json!(join("name")),
        json!(join("image")),
        json!(format_selector(object.at("spec.selector"))),
    ]
}
