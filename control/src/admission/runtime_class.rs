//! RuntimeClass: what a runtime itself takes, and the nodes it is on. KEP-688.
use super::{Action, Denial, Objects, ResourceName, Review};
use crate::kinds::view::View;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const CLASSES: ResourceName<'_> = ("node.k8s.io", "v1", "runtimeclasses");
const UNKNOWN: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

pub(super) fn pod(objects: &dyn Objects, review: &Review<'_>, pod: &mut Value) -> Result<(), Denial> {
    if !matches!(review.action, Action::Create) {
        return Ok(());
    }
    let class = class(objects, pod)?;
    overhead(&class, pod)?;
    scheduling(&class, pod)
}

/// Judges the Pod as others have left it.
pub(super) fn check(objects: &dyn Objects, review: &Review<'_>, pod: &Value) -> Result<(), Denial> {
    if !matches!(review.action, Action::Create) {
        return Ok(());
    }
    let class = class(objects, pod)?;
    let wanted = class.at("overhead.podFixed");
    match wanted.is_object() {
        true if pod.at("spec.overhead") != wanted => Err(Denial::Forbidden(MISMATCH.into())),
        false if has_overhead(pod) => Err(Denial::Forbidden(UNKNOWN.into())),
        _ => Ok(()),
    }
}

/// The Pod's class; nothing of one without.
fn class(objects: &dyn Objects, pod: &Value) -> Result<Arc<Value>, Denial> {
    let unknown = |name| Denial::Forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found"));
    match pod.text("spec.runtimeClassName") {
        "" => Ok(Arc::default()),
        name => objects.get(CLASSES, None, name).ok_or_else(|| unknown(name)),
    }
}

fn overhead(class: &Value, pod: &mut Value) -> Result<(), Denial> {
    let wanted = class.at("overhead.podFixed");
    if !wanted.is_object() {
        return Ok(());
    }
    if has_overhead(pod) && pod.at("spec.overhead") != wanted {
        return Err(Denial::Forbidden(MISMATCH.into()));
    }
    pod["spec"]["overhead"] = wanted.clone();
    Ok(())
}

fn has_overhead(pod: &Value) -> bool {
    pod.map("spec.overhead")
        .is_some_and(|overhead| !overhead.is_empty())
}

fn scheduling(class: &Value, pod: &mut Value) -> Result<(), Denial> {
    for (key, wanted) in class.map("scheduling.nodeSelector").into_iter().flatten() {
        let said = pod.at("spec.nodeSelector").get(key).and_then(Value::as_str);
        let wanted = wanted.as_str().unwrap_or_default();
        if let Some(said) = said.filter(|said| *said != wanted) {
            return Err(Denial::Forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {said}"
            )));
        }
        pod["spec"]["nodeSelector"][key] = wanted.into();
    }
    let more = class.list("scheduling.tolerations");
    if !more.is_empty() {
        let mut all = pod.list("spec.tolerations").to_vec();
        let own: HashSet<&Value> = pod.list("spec.tolerations").iter().collect();
        all.extend(more.iter().filter(|t| !own.contains(t)).cloned());
        pod["spec"]["tolerations"] = json!(all);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;

    fn admitted(spec: Value) -> Result<Value, Denial> {
        let class = json!({"metadata": {"name": "vm"}, "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}});
        let mut object = json!({"spec": spec});
        let (objects, review) = (
            Fixed(vec![("runtimeclasses", class)]),
            review("pods", Action::Create),
        );
        pod(&objects, &review, &mut object)?;
        check(&objects, &review, &object)?;
        Ok(object["spec"].take())
    }

    #[test]
    fn overhead_without_a_class_is_refused_once_the_pod_is_valid() {
        let (objects, review) = (Fixed(Vec::new()), review("pods", Action::Create));
        let mut object = json!({"spec": {"overhead": {"cpu": "1"}}});
        pod(&objects, &review, &mut object).expect("nothing to add");
        match check(&objects, &review, &object) {
            Err(Denial::Forbidden(why)) => assert_eq!(why, UNKNOWN),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_class_adds_its_overhead_and_its_nodes() {
        let spec = admitted(json!({"runtimeClassName": "vm"})).expect("admitted");
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"vm": "yes"}));
        assert_eq!(spec["tolerations"], json!([{"key": "vm"}]));
        for refused in [
            json!({"overhead": {"cpu": "1"}}),
            json!({"runtimeClassName": "none"}),
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
        ] {
            assert!(matches!(admitted(refused), Err(Denial::Forbidden(_))));
        }
    }
}
