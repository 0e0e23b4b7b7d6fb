//! Rows of `meta.k8s.io/v1` Tables: what `kubectl get` prints for one object.
//!
//! Owns the frame every row has; the cells of a kind are in its own module. Refuses to know requests.
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
