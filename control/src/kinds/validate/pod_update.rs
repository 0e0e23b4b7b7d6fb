//! What an update of a Pod may change: next to nothing.
use std::collections::HashSet;

use serde_json::Value;

use super::{container, pod, pod_annotations, resize, scheduling};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::indexed::by_text;
use crate::kinds::names;
use crate::kinds::view::View;

const FROZEN: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    match subresource {
        Some("status") => pod::status_update(new, old),
        // What these set is not the client's but for the node, which is checked there; the Pod itself was valid before.
        Some("binding" | "eviction") => FieldErrors::new(),
        Some("ephemeralcontainers") => ephemeral_update(new, old),
        Some("resize") => resize::update(new, old),
        _ => spec_update(new, old),
    }
}

fn spec_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = pod::pod_body(new);
    errors.extend(pod_annotations::update(new, old));
    for list in ["containers", "initContainers"] {
        let path = format!("spec.{list}");
        if new.list(&path).len() != old.list(&path).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(path, detail));
            return errors;
        }
        for (i, container) in new.list(&path).iter().enumerate() {
            let at = format!("{path}[{i}]");
            errors.extend(super::present(container, "image", &at));
            errors.extend(container::image_padding(container, &at));
        }
    }
    match deadline(new, old) {
        Deadline::Wrong(error) => {
            errors.push(error);
            return errors;
        }
        Deadline::Gone(error) => errors.push(error),
        Deadline::Good => {}
    }
    errors.extend(kept_tolerations(new, old));
    errors.extend(only_opened_gates(new, old));
    errors.extend(gated_placement(new, old));
    if frozen_part(new, old) != frozen_part(old, old) {
        let detail = format!("{FROZEN}\n{}", changed(new, old));
        errors.push(FieldError::forbidden("spec", detail));
    }
    errors
}

/// Ephemeral containers are added, never changed or taken away. KEP-277.
fn ephemeral_update(new: &Value, old: &Value) -> FieldErrors {
    if resize::is_static(old) {
        return vec![FieldError::forbidden(
            "",
            "static pods do not support ephemeral containers",
        )];
    }
    let mut errors = pod::pod_body(new);
    let path = "spec.ephemeralContainers";
    let now = by_text(new.list(path), "name");
    for before in old.list(path) {
        let name = before.text("name");
        let why = match now.get(name) {
            None => "may not be removed\n".to_owned(),
            Some(same) if *same == before => continue,
            Some(other) => format!("may not be changed\n{}", super::changed_members(before, other)),
        };
        errors.push(FieldError::forbidden(
            path,
            format!("existing ephemeral containers {name:?} {why}"),
        ));
    }
    errors
}

/// What became of `spec.activeDeadlineSeconds`.
enum Deadline {
    Good,
    /// Nothing else is looked at then.
    Wrong(FieldError),
    Gone(FieldError),
}

fn deadline(new: &Value, old: &Value) -> Deadline {
    let path = "spec.activeDeadlineSeconds";
    let (now, before) = (new.int(path), old.int(path));
    match (now, before) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            let detail = names::in_range(seconds, 0, i64::from(i32::MAX)).concat();
            Deadline::Wrong(FieldError::invalid(path, seconds, detail))
        }
        (Some(seconds), Some(before)) if before < seconds => {
            let detail = "must be less than or equal to previous value";
            Deadline::Wrong(FieldError::invalid(path, seconds, detail))
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            Deadline::Gone(FieldError::invalid(path, Value::Null, detail))
        }
        _ => Deadline::Good,
    }
}

/// A Pod that waits may ask for less of the nodes, never for more. KEP-3838.
fn gated_placement(new: &Value, old: &Value) -> FieldErrors {
    if old.list("spec.schedulingGates").is_empty() {
        return Vec::new();
    }
    let mut errors: FieldErrors = narrowed_selector(new, old).into_iter().collect();
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (before, now) = (old.list(path), new.list(path));
    if before.is_empty() || before == now {
        return errors;
    }
    if before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, now.to_vec(), detail));
        return errors;
    }
    for (i, (now, before)) in now.iter().zip(before).enumerate() {
        if !only_added(now, before) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(format!("{path}[{i}]"), now.clone(), detail));
        }
    }
    errors
}

fn narrowed_selector(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "spec.nodeSelector";
    let (now, before) = (new.at(path), old.map(path)?);
    let kept = before.iter().all(|(key, value)| now.get(key) == Some(value));
    let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
    (!kept).then(|| FieldError::invalid(path, now.clone(), detail))
}

fn only_added(now: &Value, before: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let empty = |term: &Value| lists.iter().all(|list| term.list(list).is_empty());
    (!empty(before) || empty(now))
        && lists
            .iter()
            .all(|list| now.list(list).starts_with(before.list(list)))
}

/// Tolerations may be added, and how long they last may change.
fn kept_tolerations(new: &Value, old: &Value) -> FieldErrors {
    let path = "spec.tolerations";
    let essence = |t: &Value| {
        let mut t = t.clone();
        t.as_object_mut().map(|m| m.remove("tolerationSeconds"));
        t.to_string()
    };
    let now: HashSet<String> = new.list(path).iter().map(essence).collect();
    let mut before = old.list(path).iter().map(essence);
    if before.any(|t| !now.contains(&t)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        return vec![FieldError::forbidden(path, detail)];
    }
    scheduling::tolerations(new.list(path), path)
}

fn only_opened_gates(new: &Value, old: &Value) -> FieldErrors {
    let gates = new.list("spec.schedulingGates").iter().enumerate();
    let before = old.list("spec.schedulingGates").iter().map(|g| g.text("name"));
    let before: HashSet<&str> = before.collect();
    let added = gates.filter(|(_, g)| !before.contains(g.text("name")));
    let error = |(i, gate): (usize, &Value)| {
        let detail = format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            gate.text("name")
        );
        FieldError::forbidden(format!("spec.schedulingGates[{i}].name"), detail)
    };
    added.map(error).collect()
}

/// The spec with everything an update may change taken from `old`.
fn frozen_part(pod: &Value, old: &Value) -> Value {
    let mut spec = pod.at("spec").clone();
    let gated = !old.list("spec.schedulingGates").is_empty();
    let mut movable = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if gated {
        movable.push("nodeSelector");
    }
    let lists = ["containers", "initContainers"];
    if let Some(map) = spec.as_object_mut() {
        map.retain(|key, _| !movable.contains(&key.as_str()));
        let container = |c: &mut Value| drop(c.as_object_mut().map(|c| c.remove("image")));
        for list in lists {
            map.get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
                .for_each(container);
        }
        let shortened = old
            .int("spec.terminationGracePeriodSeconds")
            .is_some_and(|s| s < 0);
        if shortened && map.get("terminationGracePeriodSeconds") == Some(&Value::from(1)) {
            map.insert(
                "terminationGracePeriodSeconds".into(),
                old.at("spec.terminationGracePeriodSeconds").clone(),
            );
        }
        if gated && let Some(Value::Object(affinity)) = map.get_mut("affinity") {
            affinity.remove("nodeAffinity");
        }
    }
    spec
}

/// The fields that differ, one line each: `-` as it was, `+` as asked.
fn changed(new: &Value, old: &Value) -> String {
    let (before, after) = (frozen_part(old, old), frozen_part(new, old));
    super::changed_members(&before, &after)
}

/// Everything wrong with a Binding's target.
pub fn binding(binding: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let kind = binding.text("target.kind");
    if !["", "Node"].contains(&kind) {
        errors.push(FieldError::not_supported(
            "target.kind",
            kind,
            &["Node", "<empty>"],
        ));
    }
    if binding.text("target.name").is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

/// Effects a taint or toleration may have.
pub(super) fn taint_effects() -> &'static [&'static str] {
    &scheduling::TAINT_EFFECTS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::error::join;

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        crate::kinds::defaults::pod::pod(&mut pod);
        pod
    }

    #[test]
    fn images_and_tolerations_may_change() {
        let old = pod(json!({"containers": [{"name": "c", "image": "a:1"}]}));
        let mut new = pod(
            json!({"containers": [{"name": "c", "image": "b:1"}], "tolerations": [{"operator": "Exists"}]}),
        );
        assert_eq!(update(None, &new, &old), []);
        new["spec"]["nodeName"] = "x".into();
        assert!(
            join(&update(None, &new, &old))
                .starts_with("spec: Forbidden: pod updates may not change fields other")
        );
        assert!(join(&update(None, &old, &new)).contains("existing toleration can not be modified"));
    }

    #[test]
    fn ephemeral_containers_are_only_added() {
        let with = |ephemeral: Value| {
            pod(json!({"containers": [{"name": "c", "image": "a"}], "ephemeralContainers": ephemeral}))
        };
        let common = json!({"image": "a", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"});
        let one = |name: &str, more: Value| {
            let mut container = common.clone();
            container["name"] = name.into();
            json_patch::merge(&mut container, &more);
            container
        };
        let (old, say) = (with(json!([one("e", json!({}))])), Some("ephemeralcontainers"));
        let two = with(json!([
            one("e", json!({})),
            one("f", json!({"targetContainerName": "c"}))
        ]));
        assert_eq!(update(say, &two, &old), []);
        let said = |containers: Value| join(&update(say, &with(containers), &old));
        assert!(said(json!([])).contains("existing ephemeral containers \"e\" may not be removed"));
        let changed =
            "existing ephemeral containers \"e\" may not be changed\n- image: \"a\"\n+ image: \"b\"\n";
        let told = said(json!([one("e", json!({"image": "b"}))]));
        assert!(told.ends_with(changed), "{told}");
        let bad = one(
            "f",
            json!({"targetContainerName": "x", "ports": [{"containerPort": 1}]}),
        );
        let said = said(json!([one("e", json!({})), bad]));
        assert!(
            said.contains("spec.ephemeralContainers[1].targetContainerName: Not found: \"x\""),
            "{said}"
        );
        assert!(
            said.contains("ports: Forbidden: cannot be set for an Ephemeral Container"),
            "{said}"
        );
    }

    #[test]
    fn containers_stay() {
        let old = pod(json!({"containers": [{"name": "c", "image": "a"}]}));
        let new = pod(json!({"containers": [{"name": "c", "image": "a"}, {"name": "d", "image": "a"}]}));
        assert_eq!(
            join(&update(None, &new, &old)),
            "spec.containers: Forbidden: pod updates may not add or remove containers"
        );
    }
}
