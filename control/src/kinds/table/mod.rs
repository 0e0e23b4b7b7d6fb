//! Rows of `meta.k8s.io/v1` Tables: what `kubectl get` prints for one object.
//!
//! Owns the frame every row has; the cells of a kind are in its own module. Refuses to know requests.
pub(super) mod certificates;
pub(super) mod cluster;
pub(super) mod metrics;
pub(super) mod network;
pub(super) mod objects;
pub(super) mod pod;
pub(super) mod rbac;
pub(super) mod scaling;
pub(super) mod storage;
pub(super) mod workloads;

use jiff::Timestamp;
use serde_json::Value;

use super::kind::Kind;
use super::time;
use super::view::View;

/// The cells of one object, one for each column.
pub(super) fn row(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    match kind.rules.row {
        Some(cells) => cells(object, now),
        None => kind
            .columns
            .iter()
            .map(|c| generic_cell(&c.name, object, now))
            .collect(),
    }
}

fn generic_cell(column: &str, object: &Value, now: Timestamp) -> Value {
    match column {
        "Name" => name(object),
        "Age" => age(object, now),
        "Created At" => object.at("metadata.creationTimestamp").clone(),
        _ => Value::from(""),
    }
}

/// The cell of column Name.
pub(super) fn name(object: &Value) -> Value {
    Value::from(object.text("metadata.name"))
}

/// The cell of column Age.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    Value::from(time::age(object.at("metadata.creationTimestamp").as_str(), now))
}

/// A text, or `<none>` when there is none.
fn or_none(text: &str) -> Value {
    Value::from(none_when_empty(text.to_owned()))
}

fn none_when_empty(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}
