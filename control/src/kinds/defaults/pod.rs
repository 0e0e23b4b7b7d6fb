//! Defaults of Pods and of the Pod specs inside templates.
use serde_json::{Map, Value};

use super::resources;
use super::volumes;
use crate::kinds::image;
use crate::kinds::view::{existing_mut, items_mut, object_mut, set_missing, set_zero};

type Object = Map<String, Value>;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// A Pod: everything of a spec, and what a template does not get.
pub fn pod(object: &mut Value) {
    pod_ips(object);
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    pod_spec(spec);
    for list in ["initContainers", "containers"] {
        items_mut(spec, list).for_each(resources::requests_from_limits);
    }
    resources::pod_level(spec);
    grace(spec);
    set_missing(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_ports(spec);
    }
}

/// Less than nothing is the shortest time there is; a template keeps what it says.
fn grace(spec: &mut Object) {
    const KEY: &str = "terminationGracePeriodSeconds";
    if spec
        .get(KEY)
        .and_then(Value::as_i64)
        .is_some_and(|grace| grace < 0)
    {
        spec.insert(KEY.into(), 1.into());
    }
}

/// `status.podIP` and the first of `status.podIPs` are one address; where they differ the older field wins. KEP-563.
fn pod_ips(object: &mut Value) {
    let Some(status) = existing_mut(object, "status") else {
        return;
    };
    let single = status
        .get("podIP")
        .and_then(Value::as_str)
        .filter(|ip| !ip.is_empty())
        .map(str::to_owned);
    let first = status
        .get("podIPs")
        .and_then(|ips| ips.get(0)?.get("ip")?.as_str())
        .map(str::to_owned);
    match (single, first) {
        (None, Some(first)) => drop(status.insert("podIP".into(), first.into())),
        (Some(ip), first) if first.as_ref() != Some(&ip) => {
            status.insert("podIPs".into(), serde_json::json!([{"ip": ip}]));
        }
        _ => {}
    }
}

/// The template at `spec.template` of a workload.
pub fn template(object: &mut Value) {
    spec_at(object, "spec.template.spec");
}

/// The Pod spec at a dotted path.
pub(super) fn spec_at(object: &mut Value, path: &str) {
    if let Some(spec) = object_mut(object, path) {
        pod_spec(spec);
    }
}

/// A Pod spec wherever it stands.
fn pod_spec(spec: &mut Object) {
    set_zero(spec, "dnsPolicy", "ClusterFirst");
    set_zero(spec, "restartPolicy", "Always");
    set_missing(spec, "securityContext", Object::new());
    set_missing(spec, "terminationGracePeriodSeconds", 30);
    set_zero(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    for list in CONTAINER_LISTS {
        items_mut(spec, list).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volumes::volume);
    if let Some(overhead) = spec.get_mut("overhead") {
        resources::round_up(overhead);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are served.
fn service_account(spec: &mut Object) {
    let name = |key: &str, spec: &Object| {
        spec.get(key)
            .and_then(Value::as_str)
            .filter(|s| !s.is_empty())
            .map(String::from)
    };
    if let Some(name) = name("serviceAccountName", spec).or_else(|| name("serviceAccount", spec)) {
        spec.insert("serviceAccountName".into(), name.clone().into());
        spec.insert("serviceAccount".into(), name.into());
    }
}

fn container(container: &mut Object) {
    let reference = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if image::is_latest(reference) {
        "Always"
    } else {
        "IfNotPresent"
    };
    set_zero(container, "imagePullPolicy", policy);
    set_zero(container, "terminationMessagePath", "/dev/termination-log");
    set_zero(container, "terminationMessagePolicy", "File");
    items_mut(container, "ports").for_each(|port| set_zero(port, "protocol", "TCP"));
    items_mut(container, "env").for_each(env);
    for probe in PROBES {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            self::probe(probe);
        }
    }
    lifecycle(container);
    resources::round_up_requirements(container);
}

fn env(variable: &mut Object) {
    if let Some(Value::Object(source)) = variable.get_mut("valueFrom") {
        field_reference(source);
        if let Some(Value::Object(file)) = source.get_mut("fileKeyRef") {
            set_missing(file, "optional", false);
        }
    }
}

/// A `fieldRef` inside `holder`.
pub(super) fn field_reference(holder: &mut Object) {
    if let Some(Value::Object(reference)) = holder.get_mut("fieldRef") {
        set_zero(reference, "apiVersion", "v1");
    }
}

fn probe(probe: &mut Object) {
    set_zero(probe, "timeoutSeconds", 1);
    set_zero(probe, "periodSeconds", 10);
    set_zero(probe, "successThreshold", 1);
    set_zero(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
        set_missing(grpc, "service", "");
    }
}

fn lifecycle(container: &mut Object) {
    for hook in ["postStart", "preStop"] {
        if let Some(Value::Object(handler)) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            http_get(handler);
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(Value::Object(get)) = handler.get_mut("httpGet") {
        set_zero(get, "path", "/");
        set_zero(get, "scheme", "HTTP");
    }
}

/// On the host's network a container's port is the host's port.
fn host_ports(spec: &mut Object) {
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            for port in items_mut(container, "ports") {
                let number = port.get("containerPort").cloned().unwrap_or(Value::Null);
                set_zero(port, "hostPort", number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_negative_grace_period_is_of_one_second() {
        for (asked, given) in [(-1, 1), (0, 0), (7, 7)] {
            let spec = json!({"spec": {"terminationGracePeriodSeconds": asked}});
            let (mut own, mut templated) = (spec.clone(), json!({"spec": {"template": spec}}));
            pod(&mut own);
            template(&mut templated);
            assert_eq!(own["spec"]["terminationGracePeriodSeconds"], given);
            let kept = &templated["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
            assert_eq!(*kept, asked);
        }
    }

    #[test]
    fn both_spellings_of_an_address_agree() {
        for (status, want) in [
            (
                json!({"podIP": "1"}),
                json!({"podIP": "1", "podIPs": [{"ip": "1"}]}),
            ),
            (
                json!({"podIPs": [{"ip": "1"}, {"ip": "2"}]}),
                json!({"podIP": "1", "podIPs": [{"ip": "1"}, {"ip": "2"}]}),
            ),
            (
                json!({"podIP": "3", "podIPs": [{"ip": "1"}]}),
                json!({"podIP": "3", "podIPs": [{"ip": "3"}]}),
            ),
            (json!({}), json!({})),
        ] {
            let mut object = json!({"status": status});
            pod(&mut object);
            assert_eq!(object["status"], want);
        }
    }
}
