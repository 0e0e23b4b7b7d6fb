//! The annotations that named containers' AppArmor profiles before there was a field for them: what they mean in its terms, and
//! that a new Pod has both. KEP-24, "Version Skew Strategy".
use serde_json::{Value, json};

use super::validate::app_armor_errors;
use super::view::{View, set_missing};

/// What the annotations begin with; the container's name follows.
pub(super) const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The profile that an annotation names, as the field says it; `None` when it names none.
pub(super) fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let local = other
                .strip_prefix("localhost/")
                .filter(|local| !local.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": local}))
        }
    }
}

/// A container that has an annotation and no field, where the annotation says something else than its Pod's field.
struct Lone {
    list: &'static str,
    index: usize,
    annotation: String,
    /// `None` when the annotation cannot be said by a field.
    profile: Option<Value>,
}

fn lone(pod: &Value) -> Vec<Lone> {
    let Some(annotations) = pod.map("metadata.annotations") else {
        return Vec::new();
    };
    if pod.text("spec.os.name") == "windows" {
        return Vec::new();
    }
    let pods = pod.at("spec.securityContext.appArmorProfile");
    let of = |list: &'static str| {
        pod.at("spec")
            .list(list)
            .iter()
            .enumerate()
            .map(move |c| (list, c))
    };
    let all = CONTAINERS.into_iter().flat_map(of);
    let fieldless = all.filter(|(_, (_, container))| !container.has("securityContext.appArmorProfile"));
    fieldless
        .filter_map(|(list, (index, container))| {
            let annotation = format!("{ANNOTATION}{}", container.text("name"));
            let profile = profile(annotations.get(&annotation)?.as_str()?)
                .filter(|profile| app_armor_errors(profile).is_empty());
            (profile.as_ref() != Some(pods)).then_some(Lone {
                list,
                index,
                annotation,
                profile,
            })
        })
        .collect()
}

/// Gives containers of a new Pod the field that says the same as their annotation.
pub(super) fn carry(pod: &mut Value) {
    for found in lone(pod) {
        let Some(profile) = found.profile else { continue };
        let context = &mut pod["spec"][found.list][found.index]["securityContext"];
        if context.is_null() {
            *context = json!({});
        }
        if let Some(context) = context.as_object_mut() {
            set_missing(context, "appArmorProfile", profile);
        }
    }
}

/// What to tell who wrote a new Pod, before its annotations are carried into fields.
pub(super) fn warnings(pod: &Value) -> Vec<String> {
    let told = |found: Lone| deprecated("metadata.annotations", &found.annotation);
    lone(pod).into_iter().map(told).collect()
}

/// That an annotation among those at `path` should be a field.
pub(super) fn deprecated(path: &str, annotation: &str) -> String {
    format!("{path}[{annotation}]: deprecated since v1.30; use the \"appArmorProfile\" field instead")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The container's field and how often was warned, for a Pod with this annotation, field of the container and of the Pod.
    fn carried(annotation: &str, own: Value, pods: Value, os: &str) -> (Value, usize) {
        let mut pod = json!({"metadata": {"annotations": {format!("{ANNOTATION}c"): annotation}}, "spec": {
            "os": {"name": os}, "securityContext": {"appArmorProfile": pods}, "containers": [{"name": "c"}]}});
        if !own.is_null() {
            pod["spec"]["containers"][0]["securityContext"] = json!({"appArmorProfile": own});
        }
        let told = warnings(&pod).len();
        carry(&mut pod);
        (
            pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"].take(),
            told,
        )
    }

    #[test]
    fn annotations_become_fields_where_there_are_none() {
        let local = json!({"type": "Localhost", "localhostProfile": "foo"});
        let default = json!({"type": "RuntimeDefault"});
        let unconfined = json!({"type": "Unconfined"});
        let none = || Value::Null;
        for (annotation, own, pods, os, want) in [
            ("localhost/foo", none(), none(), "linux", (local, 1)),
            ("unconfined", none(), none(), "linux", (unconfined.clone(), 1)),
            ("runtime/default", none(), none(), "linux", (default.clone(), 1)),
            (
                "unconfined",
                none(),
                default.clone(),
                "linux",
                (unconfined.clone(), 1),
            ),
            ("runtime/default", none(), default.clone(), "linux", (none(), 0)),
            (
                "runtime/default",
                unconfined.clone(),
                none(),
                "linux",
                (unconfined, 0),
            ),
            ("localhost/", none(), none(), "linux", (none(), 1)),
            ("localhost/ x", none(), none(), "linux", (none(), 1)),
            ("nonsense", none(), default, "linux", (none(), 1)),
            ("unconfined", none(), none(), "windows", (none(), 0)),
        ] {
            assert_eq!(carried(annotation, own, pods, os), want, "{annotation} {os}");
        }
    }
}
