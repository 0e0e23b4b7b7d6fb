//! `matchLabelKeys` and `mismatchLabelKeys`: what the Pod itself has by these labels joins the selectors beside them, which are
//! all that a scheduler reads. KEP-3633, KEP-3243.
use serde_json::{Map, Value, json};

use crate::kinds::view::{View, existing_mut, items_mut};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Completes the selectors of a new Pod. One that is not there selects nothing, and stays so.
pub(super) fn join(pod: &mut Value) {
    if !pod.has("spec.affinity") && !pod.has("spec.topologySpreadConstraints") {
        return;
    }
    let labels = pod.map("metadata.labels").cloned().unwrap_or_default();
    for affinity in ["spec.affinity.podAffinity", "spec.affinity.podAntiAffinity"] {
        let Some(terms) = existing_mut(pod, affinity) else {
            continue;
        };
        for weighted in items_mut(terms, PREFERRED) {
            let term = weighted.get_mut("podAffinityTerm");
            complete(term.and_then(Value::as_object_mut), &labels);
        }
        items_mut(terms, REQUIRED).for_each(|term| complete(Some(term), &labels));
    }
    if let Some(spec) = existing_mut(pod, "spec") {
        items_mut(spec, "topologySpreadConstraints").for_each(|one| complete(Some(one), &labels));
    }
}

fn complete(term: Option<&mut Map<String, Value>>, labels: &Map<String, Value>) {
    let Some(term) = term else { return };
    let mut found = asked(term, "matchLabelKeys", "In", labels);
    found.extend(asked(term, "mismatchLabelKeys", "NotIn", labels));
    let selector = term.get_mut("labelSelector").and_then(Value::as_object_mut);
    let Some(selector) = selector.filter(|_| !found.is_empty()) else {
        return;
    };
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(before) => before.append(&mut found),
        None => drop(selector.insert("matchExpressions".into(), found.into())),
    }
}

/// Requirements by those of the keys that the Pod has a label of.
fn asked(term: &Map<String, Value>, list: &str, operator: &str, labels: &Map<String, Value>) -> Vec<Value> {
    let keys = term.get(list).and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(Value::as_str)
        .filter_map(|key| Some((key, labels.get(key)?)))
        .map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_own_labels_join_the_selectors_that_ask_for_them() {
        let hash = |operator| json!({"key": "hash", "operator": operator, "values": ["abc"]});
        let other = json!({"key": "x", "operator": "Exists"});
        for (term, want) in [
            (
                json!({"labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": ["hash", "none"]}),
                json!({"matchLabels": {"app": "x"}, "matchExpressions": [hash("In")]}),
            ),
            (
                json!({"labelSelector": {"matchExpressions": [other]}, "mismatchLabelKeys": ["hash"], "matchLabelKeys": ["app"]}),
                json!({"matchExpressions": [other, {"key": "app", "operator": "In", "values": ["x"]}, hash("NotIn")]}),
            ),
            (
                json!({"labelSelector": {}, "matchLabelKeys": ["none"]}),
                json!({}),
            ),
            (json!({"matchLabelKeys": ["hash"]}), Value::Null),
        ] {
            let all = json!({REQUIRED: [term], PREFERRED: [{"podAffinityTerm": term}]});
            let mut pod = json!({"metadata": {"labels": {"app": "x", "hash": "abc"}}, "spec": {
                "affinity": {"podAffinity": all, "podAntiAffinity": all}, "topologySpreadConstraints": [term]}});
            join(&mut pod);
            let spec = &pod["spec"];
            for affinity in ["podAffinity", "podAntiAffinity"] {
                let terms = &spec["affinity"][affinity];
                assert_eq!(terms[REQUIRED][0]["labelSelector"], want, "{term}");
                assert_eq!(terms[PREFERRED][0]["podAffinityTerm"]["labelSelector"], want);
            }
            assert_eq!(spec["topologySpreadConstraints"][0]["labelSelector"], want);
        }
    }
}
