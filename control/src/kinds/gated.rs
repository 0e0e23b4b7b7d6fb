//! Fields of Pods and their templates behind feature gates that are off in this version: who does not have one does not get one
//! (upstream's `dropDisabledFields`), so that nothing promises what no node keeps.
use serde_json::{Map, Value};

use super::error::{FieldError, FieldErrors};
use super::kind::Kind;
use super::view::{View, existing_mut, items_mut};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// Sources of projected volumes (gates `ClusterTrustBundleProjection`, `PodCertificateRequest`).
const SOURCES: [&str; 2] = ["clusterTrustBundle", "podCertificate"];
const POLICY: &str = "securityContext.seLinuxChangePolicy";

/// Where objects of a kind have the specification of Pods.
fn pod_spec(kind: &Kind) -> Option<String> {
    let pods = kind.group.is_empty() && kind.plural == "pods";
    match pods {
        true => Some("spec".to_owned()),
        false => kind.template_path().map(|path| format!("{path}.spec")),
    }
}

/// Takes from `new` what `old`, which is null for a new object, does not have either.
pub(super) fn drop_fields(kind: &Kind, new: &mut Value, old: &Value) {
    let Some(path) = pod_spec(kind) else { return };
    let Some(spec) = existing_mut(new, &path) else {
        return;
    };
    let old = old.at(&path);
    // Gate `GenericWorkload`.
    if !old.has("schedulingGroup") {
        spec.remove("schedulingGroup");
    }
    let stops = |list: &&str| old.list(list).iter().any(|c| c.has("lifecycle.stopSignal"));
    if !CONTAINERS.iter().any(stops) {
        for list in CONTAINERS {
            items_mut(spec, list).for_each(drop_stop_signal);
        }
    }
    for source in SOURCES {
        let projects = |volume: &Value| volume.list("projected.sources").iter().any(|s| s.has(source));
        if !old.list("volumes").iter().any(projects) {
            items_mut(spec, "volumes").for_each(|volume| drop_source(volume, source));
        }
    }
}

/// Gate `ContainerStopSignals`.
fn drop_stop_signal(container: &mut Map<String, Value>) {
    let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else {
        return;
    };
    if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
        container.remove("lifecycle");
    }
}

fn drop_source(volume: &mut Map<String, Value>, source: &str) {
    let projected = volume.get_mut("projected").and_then(Value::as_object_mut);
    for projection in projected.into_iter().flat_map(|p| items_mut(p, "sources")) {
        projection.remove(source);
    }
}

/// What is asked for by a value that is behind the gate `SELinuxMount`.
pub(super) fn errors(kind: &Kind, new: &Value, old: &Value) -> FieldErrors {
    let asked =
        pod_spec(kind).filter(|path| new.at(path).text(POLICY) == "MountOption" && !old.at(path).has(POLICY));
    let error = |path| FieldError::not_supported(format!("{path}.{POLICY}"), "MountOption", &["Recursive"]);
    asked.map(error).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn spec() -> Value {
        json!({"schedulingGroup": {"podGroupName": "g"}, "containers": [
                {"name": "c", "lifecycle": {"stopSignal": "SIGUSR1"}},
                {"name": "d", "lifecycle": {"stopSignal": "SIGUSR1", "preStop": {"sleep": {"seconds": 1}}}}],
            "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"name": "b", "path": "p"}},
                {"podCertificate": {"signerName": "s/n", "keyType": "ED25519"}}, {"secret": {"name": "s"}}]}}]})
    }

    fn without() -> Value {
        json!({"containers": [{"name": "c"}, {"name": "d", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}],
            "volumes": [{"name": "v", "projected": {"sources": [{}, {}, {"secret": {"name": "s"}}]}}]})
    }

    #[test]
    fn fields_behind_gates_are_not_given_to_who_has_none() {
        let kind = |group, plural| Registry::builtin().resource(group, "v1", plural).expect("served");
        let pod = |spec: Value| json!({"spec": spec});
        let deployment = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
        let job = |spec: Value| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}});
        let template = |spec: Value| json!({"template": {"spec": spec}});
        let cases: [(_, _, &dyn Fn(Value) -> Value); 4] = [
            ("", "pods", &pod),
            ("apps", "deployments", &deployment),
            ("batch", "cronjobs", &job),
            ("", "podtemplates", &template),
        ];
        for (group, plural, holder) in cases {
            let kind = kind(group, plural);
            for (old, want) in [
                (Value::Null, without()),
                (holder(without()), without()),
                (holder(spec()), spec()),
            ] {
                let mut new = holder(spec());
                drop_fields(kind, &mut new, &old);
                assert_eq!(new, holder(want), "{plural}");
            }
        }
    }

    #[test]
    fn labels_of_mounts_are_for_who_has_them() {
        let pods = Registry::builtin().resource("", "v1", "pods").expect("served");
        let pod = |policy: &str| json!({"spec": {"securityContext": {"seLinuxChangePolicy": policy}}});
        let told = |new: &str, old: &Value| {
            let told = errors(pods, &pod(new), old);
            told.iter().map(ToString::to_string).collect::<Vec<_>>().join("")
        };
        let refused = "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \
            \"Recursive\"";
        assert_eq!(told("MountOption", &Value::Null), refused);
        assert_eq!(told("MountOption", &pod("Recursive")), "");
        assert_eq!(told("Recursive", &Value::Null), "");
    }
}
