//! Roles and their bindings.
use serde_json::Value;

use super::complain;
use crate::kinds::error::{FieldError, FieldErrors, quote};
use crate::kinds::labels::validate_selector;
use crate::kinds::names;
use crate::kinds::view::View;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn role(object: &Value) -> FieldErrors {
    rules(object, true)
}

pub fn role_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    role(new)
}

pub fn cluster_role(object: &Value) -> FieldErrors {
    let mut errors = rules(object, false);
    if object.has("aggregationRule") {
        let path = "aggregationRule.clusterRoleSelectors";
        let selectors = object.list(path);
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(path, detail));
        }
        for (i, selector) in selectors.iter().enumerate() {
            let at = format!("{path}[{i}]");
            let wrong = validate_selector(selector, &at);
            if !wrong.is_empty() {
                errors.extend(wrong);
                // Upstream shows what it could not make of it.
                errors.push(FieldError::invalid(at, Value::Null, "invalid label selector."));
            }
        }
    }
    errors
}

pub fn cluster_role_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    cluster_role(new)
}

fn rules(object: &Value, namespaced: bool) -> FieldErrors {
    let rules = object.list("rules").iter().enumerate();
    rules
        .flat_map(|(i, each)| rule(each, namespaced, &format!("rules[{i}]")))
        .collect()
}

fn rule(rule: &Value, namespaced: bool, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = |key: &str| rule.list(key).is_empty();
    if empty("verbs") {
        let detail = "verbs must contain at least one value";
        errors.push(FieldError::required(format!("{path}.verbs"), detail));
    }
    if !empty("nonResourceURLs") {
        let mut bad = |detail: &str| {
            let urls = rule.at("nonResourceURLs").clone();
            errors.push(FieldError::invalid(
                format!("{path}.nonResourceURLs"),
                urls,
                detail,
            ));
        };
        if namespaced {
            bad("namespaced rules cannot apply to non-resource URLs");
        }
        if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
            bad("rules cannot apply to both regular resources and non-resource URLs");
        }
        return errors;
    }
    for (key, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        if empty(key) {
            let detail = format!("resource rules must supply at least one {what}");
            errors.push(FieldError::required(format!("{path}.{key}"), detail));
        }
    }
    errors
}

pub fn role_binding(object: &Value) -> FieldErrors {
    binding(object, &["Role", "ClusterRole"], true)
}

pub fn role_binding_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = role_binding(new);
    errors.extend(role_kept(new, old));
    errors
}

pub fn cluster_role_binding(object: &Value) -> FieldErrors {
    binding(object, &["ClusterRole"], false)
}

pub fn cluster_role_binding_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = cluster_role_binding(new);
    errors.extend(role_kept(new, old));
    errors
}

fn binding(object: &Value, kinds: &[&str], namespaced: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let text = |key: &str| object.at("roleRef").text(key);
    if text("apiGroup") != GROUP {
        errors.push(FieldError::not_supported(
            "roleRef.apiGroup",
            text("apiGroup"),
            &[GROUP],
        ));
    }
    if !kinds.contains(&text("kind")) {
        errors.push(FieldError::not_supported("roleRef.kind", text("kind"), kinds));
    }
    match text("name") {
        "" => errors.push(FieldError::required("roleRef.name", "")),
        name => errors.extend(complain("roleRef.name", name, names::path_segment(name))),
    }
    for (i, each) in object.list("subjects").iter().enumerate() {
        errors.extend(subject(each, namespaced, &format!("subjects[{i}]")));
    }
    errors
}

fn subject(subject: &Value, namespaced: bool, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let (kind, name, group) = (
        subject.text("kind"),
        subject.text("name"),
        subject.text("apiGroup"),
    );
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    let group_path = format!("{path}.apiGroup");
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(complain(
                    format_args!("{path}.name"),
                    name,
                    names::subdomain(name),
                ));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(group_path, group, &[""]));
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" if group != GROUP => {
            errors.push(FieldError::not_supported(group_path, group, &[GROUP]));
        }
        "User" | "Group" => {}
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(format!("{path}.kind"), other, &kinds));
        }
    }
    errors
}

fn role_kept(new: &Value, old: &Value) -> Option<FieldError> {
    if new.at("roleRef") == old.at("roleRef") {
        return None;
    }
    let text = |key: &str| quote(new.at("roleRef").text(key));
    let shown = format!(
        "{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}",
        text("apiGroup"),
        text("kind"),
        text("name")
    );
    Some(FieldError::invalid_shown(
        "roleRef",
        shown,
        "cannot change roleRef",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::error::join;

    #[test]
    fn rules_name_verbs_groups_and_resources() {
        let of = |rule: Value| join(&role(&json!({"rules": [rule]})));
        assert_eq!(
            of(json!({"apiGroups": [""], "resources": ["pods"]})),
            "rules[0].verbs: Required value: verbs must contain at least one value"
        );
        assert_eq!(
            of(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"
        );
        assert_eq!(
            join(&cluster_role(
                &json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]})
            )),
            "[]"
        );
        assert!(
            join(&cluster_role(&json!({"aggregationRule": {}}))).contains("at least one clusterRoleSelector")
        );
    }

    #[test]
    fn a_binding_keeps_its_role() {
        let of = |name: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name}});
        assert_eq!(
            join(&role_binding_update(None, &of("b"), &of("a"))),
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"b\"}: cannot \
             change roleRef"
        );
        assert_eq!(
            join(&cluster_role_binding(&of("a"))),
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""
        );
    }
}
