//! APIService as a kind: who serves a group and version, and which place they have in discovery.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::{FieldError, FieldErrors};
use super::names::{self, NameRule};
use super::prepare;
use super::rows::RESOURCE_METRICS;
use super::rules::Rules;
use super::table;
use super::view::{View, object_mut, set_missing};

const HTTPS: i64 = 443;
/// Of a group that a definition made: after all built-in ones.
const CUSTOM: (i64, i64) = (1000, 100);
/// As metrics-server registers itself.
const METRICS: (i64, i64) = (100, 100);
/// Priorities of groups in discovery, highest first, as upstream's.
const GROUPS: [(&str, i64); 20] = [
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("admissionregistration.k8s.io", 16700),
    ("apiextensions.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("resource.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
];

pub(super) static RULES: Rules = Rules {
    name_rule: NameRule::PathSegment,
    default,
    prepare_create,
    prepare_update: prepare::split_status,
    validate_create,
    validate_update: |subresource, new, _| match subresource {
        Some(_) => statuses(new),
        None => validate_create(new),
    },
    row: Some(row),
    ..Rules::PLAIN
};

/// The group itself is served by nobody else, and stands before all others.
pub const GROUP: &str = "apiregistration.k8s.io";
pub const LOCAL: (&str, &str) = ("Local", "Local APIServices are always available");

/// The places of a group and of one of its versions that this server serves itself.
pub fn priority(group: &str, version: &str) -> (i64, i64) {
    let Some((_, of_group)) = GROUPS.iter().find(|(name, _)| *name == group) else {
        return match group {
            GROUP => (i64::MAX, 1),
            RESOURCE_METRICS => METRICS,
            _ => CUSTOM,
        };
    };
    let of_version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        _ => 9,
    };
    (*of_group, of_version)
}

/// `spec.service` is what makes an APIService another server's.
pub fn is_local(object: &Value) -> bool {
    object.at("spec.service").is_null()
}

/// Marks what is registered for what is served here; others' are left alone.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

pub fn is_managed(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED].is_string()
}

fn default(object: &mut Value) {
    if let Some(service) = object.pointer_mut("/spec/service").and_then(Value::as_object_mut) {
        set_missing(service, "port", HTTPS);
    }
}

fn prepare_create(object: &mut Value) {
    prepare::without_status(object);
    if !is_local(object) {
        return;
    }
    let (reason, message) = LOCAL;
    let since = object.at("metadata.creationTimestamp").clone();
    if let Some(status) = object_mut(object, "status") {
        let condition = json!({"type": "Available", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": since});
        status.insert("conditions".into(), json!([condition]));
    }
}

fn validate_create(object: &Value) -> FieldErrors {
    let spec = object.at("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let (name, required) = (object.text("metadata.name"), format!("{version}.{group}"));
    let mut errors = Vec::new();
    if name != required {
        let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required("spec.group", why));
    }
    if !group.is_empty() {
        let complaints = names::subdomain(group).into_iter();
        errors.extend(complaints.map(|why| FieldError::invalid("spec.group", group, why)));
    }
    let complaints = names::label_1035(version).into_iter();
    errors.extend(complaints.map(|why| FieldError::invalid("spec.version", version, why)));
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = spec.int(key).unwrap_or(0);
        if !(1..=most).contains(&value) {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(format!("spec.{key}"), value, why));
        }
    }
    errors.extend(server(spec));
    errors
}

/// What is said about the other server, or of none.
fn server(spec: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let (bundle, trusting) = (spec.text("caBundle"), spec.flag("insecureSkipTLSVerify"));
    let service = spec.at("service");
    if service.is_null() {
        if !bundle.is_empty() {
            let why = "local APIServices may not have a caBundle";
            let shown = format!("{} bytes", bundle.len() / 4 * 3);
            errors.push(FieldError::invalid("spec.caBundle", shown, why));
        }
        if trusting {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
        }
        return errors;
    }
    for key in ["namespace", "name"] {
        if service.text(key).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{key}"), ""));
        }
    }
    let port = service.int("port").unwrap_or(HTTPS);
    if !(1..=65_535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid("spec.service.port", port, why));
    }
    if trusting && !bundle.is_empty() {
        let why = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
    }
    errors
}

fn statuses(object: &Value) -> FieldErrors {
    let conditions = object.list("status.conditions").iter().enumerate();
    let known = ["False", "True", "Unknown"];
    conditions
        .filter(|(_, c)| !known.contains(&c.text("status")))
        .map(|(i, c)| {
            FieldError::not_supported(format!("status.conditions[{i}].status"), c.text("status"), &known)
        })
        .collect()
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = object.at("spec.service");
    let server = match service.is_null() {
        true => "Local".to_owned(),
        false => format!("{}/{}", service.text("namespace"), service.text("name")),
    };
    let conditions = object.list("status.conditions");
    let available = conditions.iter().find(|c| c.text("type") == "Available");
    let available = match available.map(|c| (c.text("status"), c.text("reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![
        table::name(object),
        server.into(),
        available.into(),
        table::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;
    use crate::kinds::{Kind, Registry};

    fn kind() -> &'static Kind {
        let found = Registry::builtin().resource(GROUP, "v1", "apiservices");
        found.expect("served")
    }

    fn service(name: &str, more: Value) -> Value {
        let mut object = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"group": "e.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10}});
        json_patch::merge(&mut object["spec"], &more);
        kind().default(&mut object);
        object
    }

    #[test]
    fn errors_are_upstreams() {
        assert_eq!(
            join(&kind().validate_create(&service("v1.e.com", json!({})))),
            "[]"
        );
        for (name, more, want) in [
            (
                "x",
                json!({}),
                "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.e.com\"",
            ),
            (
                "v1.e.com",
                json!({"groupPriorityMinimum": 0}),
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
            ),
            (
                "v1.e.com",
                json!({"insecureSkipTLSVerify": true, "caBundle": "YQ==", "service": {"name": "s", "namespace": "n"}}),
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ),
            (
                "v1.e.com",
                json!({"service": {"name": "s"}}),
                "spec.service.namespace: Required value",
            ),
        ] {
            let found = join(&kind().validate_create(&service(name, more)));
            assert!(found.contains(want), "{found}");
        }
    }

    #[test]
    fn local_ones_are_available_from_the_beginning() {
        let mut local = service("v1.e.com", json!({}));
        kind().prepare_create(&mut local);
        assert_eq!(
            kind().row(&local, Timestamp::UNIX_EPOCH)[1..3],
            [json!("Local"), json!("True")]
        );
        let mut remote = service("v1.e.com", json!({"service": {"name": "s", "namespace": "n"}}));
        kind().prepare_create(&mut remote);
        assert_eq!(
            kind().row(&remote, Timestamp::UNIX_EPOCH)[1..3],
            [json!("n/s"), json!("Unknown")]
        );
        assert_eq!(remote["spec"]["service"]["port"], 443);
    }
}
