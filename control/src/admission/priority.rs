//! Priority: a Pod's priority is that of its class, and at most one class is the default. KEP-268.
use super::{Action, Denial, Objects, ResourceName, Review};
use crate::kinds::view::View;
use serde_json::Value;
use std::sync::Arc;

const CLASSES: ResourceName<'_> = ("scheduling.k8s.io", "v1", "priorityclasses");
const PREEMPTS: &str = "PreemptLowerPriority";

/// Sets priority and preemption policy of a new Pod; an update keeps what it leaves out.
pub(super) fn pod(objects: &dyn Objects, review: &Review<'_>, pod: &mut Value) -> Result<(), Denial> {
    match review.action {
        Action::Create => created(objects, pod),
        Action::Update { old } => {
            for key in ["priority", "preemptionPolicy"] {
                if !pod["spec"].has(key) && old["spec"].has(key) {
                    pod["spec"][key] = old["spec"][key].clone();
                }
            }
            Ok(())
        }
        Action::Delete { .. } | Action::Connect { .. } | Action::Post { .. } => Ok(()),
    }
}

fn created(objects: &dyn Objects, pod: &mut Value) -> Result<(), Denial> {
    let class = match pod.text("spec.priorityClassName") {
        "" => default_class(objects),
        name => {
            let missing = || Denial::Forbidden(format!("no PriorityClass with name {name} was found"));
            Some(objects.get(CLASSES, None, name).ok_or_else(missing)?)
        }
    };
    let (priority, policy) = match &class {
        Some(class) => (class.int("value").unwrap_or(0), class.text("preemptionPolicy")),
        None => (0, PREEMPTS),
    };
    if let Some(said) = pod.int("spec.priority").filter(|said| *said != priority) {
        return Err(Denial::Forbidden(format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    let said = pod.text("spec.preemptionPolicy");
    if !policy.is_empty() && !said.is_empty() && said != policy {
        return Err(Denial::Forbidden(format!(
            "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    let spec = &mut pod["spec"];
    if let Some(class) = &class {
        spec["priorityClassName"] = class.text("metadata.name").into();
    }
    spec["priority"] = priority.into();
    if !policy.is_empty() {
        spec["preemptionPolicy"] = policy.into();
    }
    Ok(())
}

/// The default class; of several the lowest.
fn default_class(objects: &dyn Objects) -> Option<Arc<Value>> {
    let classes = objects.list(CLASSES, None).into_iter();
    classes
        .filter(|class| class.flag("globalDefault"))
        .min_by_key(|class| class.int("value").unwrap_or(0))
}

/// There is one default at most.
pub(super) fn class(objects: &dyn Objects, review: &Review<'_>, class: &Value) -> Result<(), Denial> {
    if !class.flag("globalDefault") {
        return Ok(());
    }
    let other = default_class(objects).map(|c| c.text("metadata.name").to_owned());
    match (other, review.action) {
        (Some(other), Action::Create) => Err(taken(&other)),
        (Some(other), Action::Update { .. }) if other != review.name => Err(taken(&other)),
        _ => Ok(()),
    }
}

fn taken(name: &str) -> Denial {
    Denial::Forbidden(format!(
        "PriorityClass {name} is already marked as default. Only one default can exist"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn admitted(classes: &[Value], spec: Value) -> Result<Value, Denial> {
        let objects = Fixed(classes.iter().map(|c| ("priorityclasses", c.clone())).collect());
        let mut object = json!({"spec": spec});
        pod(&objects, &review("pods", Action::Create), &mut object)?;
        Ok(object["spec"].take())
    }

    #[test]
    fn a_class_becomes_a_number() {
        let high = json!({"metadata": {"name": "high"}, "value": 9, "preemptionPolicy": "Never"});
        let usual = json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true});
        assert_eq!(
            admitted(&[], json!({})).expect("admitted"),
            json!({"priority": 0, "preemptionPolicy": PREEMPTS})
        );
        let spec =
            admitted(std::slice::from_ref(&high), json!({"priorityClassName": "high"})).expect("admitted");
        assert_eq!(
            (&spec["priority"], &spec["preemptionPolicy"]),
            (&json!(9), &json!("Never"))
        );
        let spec = admitted(&[usual], json!({})).expect("admitted");
        assert_eq!(spec["priorityClassName"], "usual");
        for refused in [json!({"priorityClassName": "none"}), json!({"priority": 5})] {
            assert!(matches!(
                admitted(std::slice::from_ref(&high), refused),
                Err(Denial::Forbidden(_))
            ));
        }
    }
}
