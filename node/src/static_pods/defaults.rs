//! The defaults of a Pod that no API server has completed (core/v1, API reference). Pure; fields that nothing here reads have
//! none.

use serde_json::{Map, Value, json};

/// Completes a `spec`.
pub fn apply(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    for (name, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
        ("schedulerName", json!("default-scheduler")),
    ] {
        default(spec, name, value);
    }
    let of_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for c in objects(spec, list) {
            container(c, of_host);
        }
    }
    for v in objects(spec, "volumes") {
        volume(v);
    }
}

fn default(object: &mut Map<String, Value>, name: &str, value: Value) {
    let held = object.entry(name).or_insert(Value::Null);
    if held.is_null() {
        *held = value;
    }
}

fn objects<'a>(
    of: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = of.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn container(c: &mut Map<String, Value>, of_host: bool) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or_default();
    let tag = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"));
    let policy = if latest { "Always" } else { "IfNotPresent" };
    default(c, "imagePullPolicy", json!(policy));
    default(c, "terminationMessagePath", json!("/dev/termination-log"));
    default(c, "terminationMessagePolicy", json!("File"));
    default(c, "resources", json!({}));
    let limits = c["resources"]["limits"].as_object().cloned().unwrap_or_default();
    if let (Some(resources), false) = (c["resources"].as_object_mut(), limits.is_empty()) {
        default(resources, "requests", json!({}));
        if let Some(requests) = resources["requests"].as_object_mut() {
            limits
                .into_iter()
                .for_each(|(name, limit)| default(requests, &name, limit));
        }
    }
    for port in objects(c, "ports") {
        default(port, "protocol", json!("TCP"));
        if of_host {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            default(port, "hostPort", number);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = c.get_mut(name).and_then(Value::as_object_mut) {
            probe(found);
        }
    }
    for hook in ["postStart", "preStop"] {
        let http = c
            .get_mut("lifecycle")
            .and_then(|l| l.get_mut(hook))
            .and_then(|h| h.get_mut("httpGet"));
        http_get(http);
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (name, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        default(probe, name, json!(value));
    }
    http_get(probe.get_mut("httpGet"));
}

fn http_get(get: Option<&mut Value>) {
    if let Some(get) = get.and_then(Value::as_object_mut) {
        default(get, "path", json!("/"));
        default(get, "scheme", json!("HTTP"));
    }
}

fn volume(volume: &mut Map<String, Value>) {
    let sources = [
        "emptyDir",
        "hostPath",
        "downwardAPI",
        "projected",
        "nfs",
        "image",
        "iscsi",
        "fc",
    ];
    if !sources.iter().any(|source| volume.contains_key(*source)) && volume.len() == 1 {
        volume.insert("emptyDir".into(), json!({}));
    }
    for (source, field, value) in [
        ("hostPath", "type", json!("")),
        ("downwardAPI", "defaultMode", json!(0o644)),
        ("projected", "defaultMode", json!(0o644)),
    ] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            default(source, field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_completed() {
        let mut spec = json!({"hostNetwork": true, "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/x"}}],
            "containers": [{"name": "c", "image": "r:5000/i", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}},
                "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3}}]});
        apply(&mut spec);
        let c = &spec["containers"][0];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(c["imagePullPolicy"], "Always");
        assert_eq!(c["resources"]["requests"], json!({"cpu": "1", "memory": "1"}));
        assert_eq!(
            c["ports"][0],
            json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})
        );
        assert_eq!(c["livenessProbe"]["periodSeconds"], 3);
        assert_eq!(c["livenessProbe"]["httpGet"]["path"], "/");
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["hostPath"]["type"], "");
    }
}
