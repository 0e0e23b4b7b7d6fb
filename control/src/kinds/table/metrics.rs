//! Rows of the resource metrics API, as metrics-server prints them.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::name;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

pub fn node(object: &Value, _: Timestamp) -> Vec<Value> {
    let usage = object.at("usage");
    vec![
        name(object),
        json!(usage.text("cpu")),
        json!(usage.text("memory")),
        json!(object.text("window")),
    ]
}

/// A Pod's containers together.
pub fn pod(object: &Value, _: Timestamp) -> Vec<Value> {
    let containers = object.list("containers");
    let total = |resource: &str| {
        let amounts = containers.iter().map(|c| c.at("usage").text(resource));
        let amounts = amounts.filter_map(|text| Quantity::parse(text).ok());
        amounts
            .reduce(Quantity::plus)
            .map(|sum| sum.to_string())
            .unwrap_or_default()
    };
    vec![
        name(object),
        json!(total("cpu")),
        json!(total("memory")),
        json!(object.text("window")),
    ]
}
