//! What a deletion does to an object: it goes, it is marked, or nothing changes. Pure.
use super::options::{Options, Propagation};
use crate::kinds::conduct::{Departure, pod_grace};
use crate::kinds::time::{format_seconds, now};
use crate::kinds::{Kind, mark_deleted};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion does to the object.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// It is on its way already.
    Nothing,
    Mark(Value),
    Remove,
}

/// Decides. Pure.
pub(super) fn plan(kind: &Kind, value: &Value, options: &Options, now: Timestamp) -> Step {
    let mut after = value.clone();
    set_finalizers(&mut after, policy(kind, value, options));
    if kind.departure() == Departure::Definition && !value["metadata"]["deletionTimestamp"].is_string() {
        crate::kinds::custom::begin_deletion(&mut after, &format_seconds(now));
    }
    let waiting = ["metadata", "spec"]
        .iter()
        .any(|part| has_finalizers(&after[*part]));
    let marked = value["metadata"]["deletionTimestamp"].is_string();
    let left = value["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let grace = match kind.departure() {
        Departure::Pod => pod_grace(value, options.grace),
        Departure::Immediate | Departure::Namespace | Departure::Definition => 0,
    };
    if kind.departure() == Departure::Namespace && !marked {
        after["status"]["phase"] = "Terminating".into();
    }
    match marked {
        false if grace == 0 && !waiting => Step::Remove,
        false if matches!(kind.departure(), Departure::Namespace | Departure::Definition) => {
            // No graceful deletion upstream: their storage only says since when.
            after["metadata"]["deletionTimestamp"] = format_seconds(now).into();
            Step::Mark(after)
        }
        false => mark(after, now, grace),
        true if grace == 0 && !waiting => Step::Remove,
        true if left.is_some_and(|left| grace < left) => Step::Mark(hurried(after, grace)),
        true if after != *value => Step::Mark(after),
        true => Step::Nothing,
    }
}

fn mark(mut value: Value, now: Timestamp, grace: i64) -> Step {
    let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    mark_deleted(&mut value, &format_seconds(end), grace);
    Step::Mark(value)
}

/// Less time for what is leaving already: the end moves, the beginning stays.
pub(super) fn hurried(mut value: Value, grace: i64) -> Value {
    let meta = &mut value["metadata"];
    let left = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let end = meta["deletionTimestamp"]
        .as_str()
        .and_then(|end| end.parse::<Timestamp>().ok());
    if let Some(end) = end.and_then(|end| end.checked_add(SignedDuration::from_secs(grace - left)).ok()) {
        meta["deletionTimestamp"] = format_seconds(end).into();
    }
    meta["deletionGracePeriodSeconds"] = grace.into();
    value
}

/// What a deletion answers with: a graceful kind shows that its time was up.
pub(super) fn last_state(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    match kind.departure() {
        Departure::Pod if value["metadata"]["deletionTimestamp"].is_string() => hurried(value, 0),
        Departure::Pod => {
            mark_deleted(&mut value, &now(), 0);
            value
        }
        Departure::Immediate | Departure::Namespace | Departure::Definition => value,
    }
}

fn has_finalizers(part: &Value) -> bool {
    part["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// What was asked for, else what the object's finalizers say already, else what its kind does.
pub(super) fn policy(kind: &Kind, value: &Value, options: &Options) -> Option<Propagation> {
    let says = |finalizer: &Value| finalizer == ORPHAN || finalizer == FOREGROUND;
    let said = value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(says));
    let default = kind.orphans_by_default() && !said;
    options.propagation.or(default.then_some(Propagation::Orphan))
}

/// The garbage collector reads the policy from the finalizers.
fn set_finalizers(value: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let list = value["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut list: Vec<Value> = list
        .into_iter()
        .filter(|f| f != ORPHAN && f != FOREGROUND)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => list.push(FOREGROUND.into()),
        Propagation::Orphan => list.push(ORPHAN.into()),
    }
    if let Some(meta) = value["metadata"].as_object_mut() {
        match list.is_empty() {
            true => drop(meta.remove("finalizers")),
            false => drop(meta.insert("finalizers".into(), list.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::delete::options::Propagation;
    use crate::kinds::Registry;
    use serde_json::json;
    use std::sync::Arc;

    fn kind(plural: &str) -> Arc<Kind> {
        let group = match plural {
            "jobs" => "batch",
            "replicasets" => "apps",
            _ => "",
        };
        Registry::builtin().resource(group, "v1", plural).unwrap().clone()
    }

    fn step(plural: &str, value: Value, options: Options) -> Step {
        plan(&kind(plural), &value, &options, Timestamp::UNIX_EPOCH)
    }

    fn marked(step: Step) -> Value {
        match step {
            Step::Mark(value) => value["metadata"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_object_goes_at_once() {
        assert_eq!(
            step("configmaps", json!({"metadata": {}}), Options::default()),
            Step::Remove
        );
    }

    #[test]
    fn finalizers_keep_it_marked() {
        let held = json!({"metadata": {"finalizers": ["x/y"]}});
        let meta = marked(step("configmaps", held, Options::default()));
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(meta["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn foreground_and_orphan_are_finalizers() {
        for (propagation, want) in [
            (Propagation::Foreground, FOREGROUND),
            (Propagation::Orphan, ORPHAN),
        ] {
            let options = Options {
                propagation: Some(propagation),
                ..Options::default()
            };
            let meta = marked(step("configmaps", json!({"metadata": {}}), options));
            assert_eq!(meta["finalizers"], json!([want]));
        }
    }

    #[test]
    fn kinds_older_than_the_garbage_collector_orphan_unless_it_is_said() {
        let background = Options {
            propagation: Some(Propagation::Background),
            ..Options::default()
        };
        let foreground = json!({"metadata": {"finalizers": [FOREGROUND]}});
        let cases = [
            (
                "replicationcontrollers",
                json!({"metadata": {}}),
                Options::default(),
                json!([ORPHAN]),
            ),
            (
                "jobs",
                json!({"metadata": {}}),
                Options::default(),
                json!([ORPHAN]),
            ),
            (
                "replicationcontrollers",
                foreground,
                Options::default(),
                json!([FOREGROUND]),
            ),
        ];
        for (plural, value, options, want) in cases {
            assert_eq!(
                marked(step(plural, value, options))["finalizers"],
                want,
                "{plural}"
            );
        }
        let object = json!({"metadata": {}});
        assert_eq!(
            step("replicationcontrollers", object.clone(), background),
            Step::Remove
        );
        assert_eq!(step("replicasets", object, Options::default()), Step::Remove);
    }

    #[test]
    fn a_pod_on_a_node_gets_its_time_and_less_when_asked_again() {
        let pod = json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let first = step("pods", pod.clone(), Options::default());
        let meta = marked(first);
        assert_eq!(
            (&meta["deletionGracePeriodSeconds"], &meta["generation"]),
            (&json!(20), &json!(2))
        );
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:20Z");
        let going = json!({"metadata": meta, "spec": pod["spec"]});
        assert_eq!(step("pods", going.clone(), Options::default()), Step::Nothing);
        let sooner = Options {
            grace: Some(5),
            ..Options::default()
        };
        let hurried = marked(step("pods", going.clone(), sooner));
        assert_eq!(hurried["deletionGracePeriodSeconds"], 5);
        assert_eq!(hurried["deletionTimestamp"], "1970-01-01T00:00:05Z");
        assert_eq!(hurried["generation"], 2);
        let now = Options {
            grace: Some(0),
            ..Options::default()
        };
        assert_eq!(step("pods", going, now), Step::Remove);
    }

    #[test]
    fn a_namespace_is_emptied_first() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let Step::Mark(value) = step("namespaces", namespace, Options::default()) else {
            panic!()
        };
        assert_eq!(value["status"]["phase"], "Terminating");
        assert_eq!(step("namespaces", value, Options::default()), Step::Nothing);
    }
}
