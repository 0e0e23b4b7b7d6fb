//! Replays requests recorded with a real API server's answers through the pure pipeline, without a server.
//!
//! `data/extract_cases.py` makes the recording. What admission adds (service account, addresses) is left out of both.
use std::collections::HashMap;

use serde_json::{Value, json};

use super::error::join;
use super::{Kind, Registry};

const CASES: &str = include_str!("data/cases.jsonl");
/// Answers that come from admission, other subresources or the request itself rather than from a kind.
const ELSEWHERE: [&str; 7] = [
    "default/limitrange",
    "invalid/pod-namespace-mismatch",
    "update/finalizers",
    "update/ephemeral",
    "update/resize",
    "auth/token",
    "auth/limitrange",
];
const VOLATILE: [&str; 9] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "lastPhaseTransitionTime",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "healthCheckNodePort",
    "namespace",
];

#[derive(Default)]
struct Stored(HashMap<(String, String), Value>);

impl Stored {
    fn run(&mut self, step: &Value) -> Result<Value, String> {
        let (group, resource) = (step["g"].as_str().unwrap_or(""), step["r"].as_str().unwrap_or(""));
        let kind = Registry::builtin()
            .resource(group, "v1", resource)
            .ok_or("not served")?;
        let written = match step["m"].as_str() {
            Some("POST") => create(kind, step["b"].clone())?,
            _ => self.update(kind, step)?,
        };
        let name = written["metadata"]["name"].to_string();
        self.0.insert((resource.to_owned(), name), written.clone());
        Ok(written)
    }

    fn update(&self, kind: &Kind, step: &Value) -> Result<Value, String> {
        let old = self
            .0
            .iter()
            .find(|((r, _), _)| *r == kind.plural)
            .map(|(_, o)| o)
            .ok_or("not found")?;
        let mut new = match step["how"].as_str() {
            Some("strategic") => kind.strategic_merge(old, &step["b"]).map_err(|e| e.to_string())?,
            Some(_) => merged(old.clone(), &step["b"]),
            None => step["b"].clone(),
        };
        kind.prune(&mut new)
            .map_err(|e| kind.decode_message(&e.to_string()))?;
        kind.default(&mut new);
        kind.prepare_update(None, &mut new, old);
        let errors = kind.validate_update(None, &new, old);
        finish(kind, new, &errors)
    }
}

fn create(kind: &Kind, mut object: Value) -> Result<Value, String> {
    kind.prune(&mut object)
        .map_err(|e| kind.decode_message(&e.to_string()))?;
    kind.default(&mut object);
    object["metadata"]["uid"] = "UID".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    kind.prepare_create(&mut object);
    if object["spec"]["ipFamilies"].is_array() && !object["spec"]["clusterIP"].is_string() {
        object["spec"]["clusterIP"] = "10.96.0.9".into();
        object["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    }
    let errors = kind.validate_create(&object);
    finish(kind, object, &errors)
}

fn finish(kind: &Kind, mut object: Value, errors: &[super::FieldError]) -> Result<Value, String> {
    kind.normalise(&mut object);
    match errors.is_empty() {
        true => Ok(object),
        false => Err(format!(
            "{} {} is invalid: {}",
            kind.group_kind(),
            object["metadata"]["name"],
            join(errors)
        )),
    }
}

fn merged(mut current: Value, patch: &Value) -> Value {
    json_patch::merge(&mut current, patch);
    current
}

/// Without what differs from run to run and what admission adds.
fn comparable(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        map.retain(|key, value| !VOLATILE.contains(&key.as_str()) && !is_token(value));
        // What protects a volume in use is added by admission.
        map.retain(|key, value| key != "finalizers" || value[0] != "kubernetes.io/pv-protection");
        if map.get("serviceAccount").is_some_and(|n| n == "default") {
            map.retain(|key, _| !key.starts_with("serviceAccount"));
        }
        map.values_mut().for_each(|v| *v = comparable(v.take()));
        map.retain(|key, value| {
            !(["volumes", "volumeMounts", "tolerations"].contains(&key.as_str()) && *value == json!([]))
        });
        // Admission completes Pods.
        map.retain(|key, _| !["priority", "preemptionPolicy"].contains(&key.as_str()));
    } else if let Some(list) = value.as_array_mut() {
        list.retain(|v| !is_token(v) && v["tolerationSeconds"] != 300);
        list.iter_mut().for_each(|v| *v = comparable(v.take()));
    }
    value
}

fn is_token(value: &Value) -> bool {
    value["name"] == "kube-api-access-RAND"
}

/// Our words for an answer of upstream, as far as they are ours: addresses blanked, no dump of internal structs.
fn comparable_message(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first
        .replace("10.96.200.200", "IP")
        .replace("10.9.8.7", "IP")
        .replace("{ns}", "ns")
        .replace("{x:1100000}", &"x".repeat(10))
}

fn body(step: &Value) -> Value {
    let text = step.to_string().replace("{ns}", "ns");
    serde_json::from_str(&text.replace("{x:1100000}", &"x".repeat(1_100_000))).expect("still JSON")
}

#[test]
fn recorded_answers_hold() {
    let mut failures = Vec::new();
    for case in CASES
        .replace("{ns}", "ns")
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("case"))
    {
        let name = case["case"].as_str().unwrap_or_default();
        if ELSEWHERE.contains(&name) {
            continue;
        }
        let mut stored = Stored::default();
        for (i, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            if step["sub"].is_string()
                || step["want"]
                    .as_str()
                    .is_some_and(|w| w.contains("name on the URL"))
            {
                continue;
            }
            if let Some(difference) = difference(stored.run(&body(step)), &step["want"]) {
                failures.push(format!("{name}[{i}]{difference}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn difference(got: Result<Value, String>, want: &Value) -> Option<String> {
    let (got, want) = match (got, want) {
        (Ok(got), Value::Object(_)) => (comparable(got).to_string(), comparable(want.clone()).to_string()),
        (Ok(got), want) => (comparable(got).to_string(), want.to_string()),
        (Err(got), Value::String(want)) => (comparable_message(&got), comparable_message(want)),
        (Err(got), want) => (got, want.to_string()),
    };
    (got != want).then(|| format!("\n  upstream {want}\n  here     {got}"))
}

/// Every object that a case creates, as stored.
fn stored_objects() -> Vec<(&'static Kind, Value)> {
    let cases = CASES
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("case"));
    let steps: Vec<Value> = cases
        .flat_map(|c| c["steps"].as_array().cloned().unwrap_or_default())
        .collect();
    let created = steps
        .iter()
        .filter(|s| s["m"] == "POST" && s["code"] == 201 && s["sub"].is_null());
    let object = |step: &Value| {
        let (group, resource) = (step["g"].as_str()?, step["r"].as_str()?);
        let kind = Registry::builtin().resource(group, "v1", resource)?;
        Some((kind.as_ref(), create(kind, body(step)["b"].clone()).ok()?))
    };
    created.filter_map(object).collect()
}

#[test]
fn a_stored_object_passes_through_unchanged() {
    let objects = stored_objects();
    assert!(objects.len() > 20);
    for (kind, stored) in objects {
        let mut again = stored.clone();
        assert_eq!(kind.prune(&mut again), Ok(Vec::new()));
        kind.default(&mut again);
        kind.prepare_update(None, &mut again, &stored);
        assert_eq!(kind.validate_update(None, &again, &stored), []);
        kind.normalise(&mut again);
        assert_eq!(again, stored);
    }
}

#[test]
fn a_row_has_a_cell_for_each_column() {
    for (kind, stored) in stored_objects() {
        let cells = kind.row(&stored, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), kind.columns().len(), "{}", kind.kind);
    }
    for kind in Registry::builtin().iter() {
        let cells = kind.row(&json!({}), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), kind.columns().len(), "{}", kind.kind);
    }
}
