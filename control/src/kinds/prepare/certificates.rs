//! CertificateSigningRequests: what is asked for never changes; who may decide and who may sign write different parts.
use std::collections::HashMap;

use serde_json::{Value, json};

use super::STATUS;
use crate::kinds::view::{View, copy_member};

/// Decisions: only `approval` makes them, and `status` keeps them.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

pub fn update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    copy_member(new, old, "spec");
    let conditions = match subresource {
        Some("approval") => new.list("status.conditions").to_vec(),
        Some(STATUS) => mixed(old, new),
        _ => return copy_member(new, old, STATUS),
    };
    let certificate = match subresource {
        Some(STATUS) => new.at("status.certificate").clone(),
        _ => old.at("status.certificate").clone(),
    };
    let mut status = json!({});
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    if !certificate.is_null() {
        status["certificate"] = certificate;
    }
    new[STATUS] = status;
    stamp(new, old);
}

/// The conditions of one, but for decisions as the other has them. Where some were added or taken away nothing is kept:
/// validation refuses that.
fn mixed(decided: &Value, new: &Value) -> Vec<Value> {
    let mut conditions = new.list("status.conditions").to_vec();
    for kind in DECISIONS {
        let is_one = |condition: &&Value| condition.text("type") == kind;
        let before: Vec<&Value> = decided.list("status.conditions").iter().filter(is_one).collect();
        if conditions.iter().filter(is_one).count() == before.len() {
            let places = conditions.iter_mut().filter(|c| c.text("type") == kind);
            places.zip(before).for_each(|(place, old)| *place = old.clone());
        }
    }
    conditions
}

/// New conditions begin now.
fn stamp(new: &mut Value, old: &Value) {
    let now = crate::kinds::time::now();
    let mut known = HashMap::new();
    for condition in old.list("status.conditions") {
        known.entry(condition.at("type")).or_insert(condition);
    }
    let conditions = new["status"]["conditions"].as_array_mut().into_iter().flatten();
    for condition in conditions {
        let before = known.get(&condition["type"]).copied();
        if condition["lastTransitionTime"].is_null() {
            let kept = before.filter(|c| c["status"] == condition["status"]);
            condition["lastTransitionTime"] =
                kept.map_or_else(|| now.as_str().into(), |c| c["lastTransitionTime"].clone());
        }
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.as_str().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subresource_writes_its_part() {
        let of = |kinds: &[&str], certificate: &str| {
            let conditions: Vec<Value> = kinds
                .iter()
                .map(|kind| json!({"type": kind, "status": "True", "lastUpdateTime": "t", "lastTransitionTime": "t"}))
                .collect();
            json!({"spec": {"request": "r"}, "status": {"conditions": conditions, "certificate": certificate}})
        };
        let types = |object: &Value| {
            let list = object.list("status.conditions").iter();
            list.map(|c| c.text("type").to_owned())
                .collect::<Vec<_>>()
                .join(",")
        };
        let old = of(&["Other"], "old");
        let mut approved = of(&["Approved", "Failed"], "forged");
        update(Some("approval"), &mut approved, &old);
        assert_eq!(
            (types(&approved).as_str(), approved.text("status.certificate")),
            ("Approved,Failed", "old")
        );
        let mut signed = of(&["Approved", "Failed"], "new");
        signed["status"]["conditions"][0]["reason"] = "forged".into();
        let old = of(&["Approved"], "old");
        update(Some(STATUS), &mut signed, &old);
        assert_eq!(signed["status"]["conditions"][0], old["status"]["conditions"][0]);
        assert_eq!(
            (types(&signed).as_str(), signed.text("status.certificate")),
            ("Approved,Failed", "new")
        );
        let mut plain = of(&["Approved"], "forged");
        plain["spec"]["request"] = "other".into();
        update(None, &mut plain, &old);
        assert_eq!(plain, old);
    }
}
