//! Rows of CertificateSigningRequests.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, or_none};
use crate::kinds::time;
use crate::kinds::view::View;

pub fn request(object: &Value, now: Timestamp) -> Vec<Value> {
    let duration = object.int("spec.expirationSeconds").map(time::human_duration);
    vec![
        name(object),
        age(object, now),
        or_none(object.text("spec.signerName")),
        json!(object.text("spec.username")),
        or_none(&duration.unwrap_or_default()),
        json!(condition(object)),
    ]
}

fn condition(object: &Value) -> String {
    let has = |kind: &str| {
        object
            .list("status.conditions")
            .iter()
            .any(|c| c.text("type") == kind)
    };
    let decided = match (has("Approved"), has("Denied")) {
        (_, true) => "Denied",
        (true, false) => "Approved",
        (false, false) => "Pending",
    };
    let mut told = vec![decided];
    if has("Failed") {
        told.push("Failed");
    }
    if !object.text("status.certificate").is_empty() {
        told.push("Issued");
    }
    told.join(",")
}
