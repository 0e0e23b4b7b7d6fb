//! PodSecurity: the levels that a namespace's labels ask for. KEP-2579.
//!
//! `enforce` refuses Pods, `warn` tells the client, `audit` the log; workloads are only warned about.
mod checks;
mod level;

pub use level::{Level, UnknownLevel};

use super::{Action, Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::FieldError;
use crate::kinds::view::View;
use level::Policy;
use serde_json::Value;
use std::collections::BTreeMap;

const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");
const PODS: ResourceName<'_> = ("", "v1", "pods");
const AUDIT: &str = "pod-security.kubernetes.io/";
/// Existing Pods that a stricter namespace is checked against (upstream's `defaultNamespaceMaxPodsToCheck`).
const CHECKED: usize = 3000;

/// Judges a Pod, a workload with a template, or a namespace's labels.
pub(super) fn check(
    objects: &dyn Objects,
    default: Level,
    review: &Review<'_>,
    object: &Value,
    notes: &mut Notes,
) -> Result<(), Denial> {
    let (group, plural, subresource) = review.resource();
    match (group, plural, subresource) {
        ("", "namespaces", None) => namespace(objects, default, review, object, notes),
        ("", "pods", None | Some("ephemeralcontainers" | "resize")) => {
            if matters(review.action, object) {
                let policy = policy(objects, default, review);
                return pod(&policy, object.at("metadata"), object.at("spec"), true, notes);
            }
            Ok(())
        }
        (_, _, None) => match template(group, plural, object) {
            Some(found) => {
                let policy = policy(objects, default, review);
                pod(&policy, found.at("metadata"), found.at("spec"), false, notes)
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn policy(objects: &dyn Objects, default: Level, review: &Review<'_>) -> Policy {
    let name = review.namespace.unwrap_or_default();
    let namespace = objects.get(NAMESPACES, None, name).unwrap_or_default();
    level::of(namespace.at("metadata.labels"), default).0
}

/// The Pod template of a workload.
fn template<'v>(group: &str, plural: &str, object: &'v Value) -> Option<&'v Value> {
    let path = match (group, plural) {
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "spec.template",
        ("batch", "cronjobs") => "spec.jobTemplate.spec.template",
        ("", "podtemplates") => "template",
        _ => return None,
    };
    Some(object.at(path)).filter(|template| template.is_object())
}

/// A refusal comes with what is to be told in the audit log all the same, and without warnings, as upstream's.
fn pod(policy: &Policy, meta: &Value, spec: &Value, enforce: bool, notes: &mut Notes) -> Result<(), Denial> {
    let found = |at: &level::LevelVersion| detail(&checks::violations(at, meta, spec));
    let would = |at: &level::LevelVersion| {
        found(at).map(|detail| format!("would violate PodSecurity \"{at}\": {detail}"))
    };
    let refused = match enforce {
        true => {
            let level = policy.enforce.to_string();
            notes.audit.push((format!("{AUDIT}enforce-policy"), level));
            found(&policy.enforce)
        }
        false => None,
    };
    if let Some(violation) = would(&policy.audit) {
        notes.audit.push((format!("{AUDIT}audit-violations"), violation));
    }
    if let Some(detail) = refused {
        let level = policy.enforce;
        return Err(Denial::Forbidden(format!(
            "violates PodSecurity \"{level}\": {detail}"
        )));
    }
    notes.warnings.extend(would(&policy.warn));
    Ok(())
}

/// `reason (detail), reason (detail)`.
fn detail(violations: &[checks::Violation]) -> Option<String> {
    let parts: Vec<String> = violations
        .iter()
        .map(|v| format!("{} ({})", v.reason, v.detail))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Only images and containers of a Pod can change in a way that matters here.
fn matters(action: Action<'_>, pod: &Value) -> bool {
    let Action::Update { old } = action else {
        return matches!(action, Action::Create);
    };
    let images = |pod: &Value, list: &str| -> Vec<(String, String)> {
        let containers = pod.at("spec").list(list).iter();
        containers
            .map(|c| (c.text("name").to_owned(), c.text("image").to_owned()))
            .collect()
    };
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| images(pod, list) != images(old, list))
}

/// Labels must be readable; a stricter level tells which Pods it would not have let in.
fn namespace(
    objects: &dyn Objects,
    default: Level,
    review: &Review<'_>,
    object: &Value,
    notes: &mut Notes,
) -> Result<(), Denial> {
    let (new, errors) = level::of(object.at("metadata.labels"), default);
    let old = match review.action {
        Action::Update { old } => Some(level::of(old.at("metadata.labels"), default)),
        _ => None,
    };
    let known = old.as_ref().is_some_and(|(_, before)| *before == errors);
    if !errors.is_empty() && !known {
        let invalid = |e: &level::BadLabel| {
            let path = format!("metadata.labels[{}]", e.label);
            match e.is_level {
                true => FieldError::invalid(
                    path,
                    e.value.as_str(),
                    "must be one of privileged, baseline, restricted",
                ),
                false => FieldError::invalid(path, e.value.as_str(), level::BAD_VERSION),
            }
        };
        return Err(Denial::Invalid(errors.iter().map(invalid).collect()));
    }
    if let Some((old, _)) = old
        && new.enforce.is_stricter_than(&old.enforce)
    {
        notes
            .warnings
            .extend(existing(objects, review.name, &new.enforce));
    }
    Ok(())
}

/// What of the namespace's Pods violates its new level.
fn existing(objects: &dyn Objects, namespace: &str, enforce: &level::LevelVersion) -> Vec<String> {
    let pods = objects.list(PODS, Some(namespace));
    let mut violating: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(CHECKED) {
        let found = checks::violations(enforce, pod.at("metadata"), pod.at("spec"));
        if !found.is_empty() {
            let reasons: Vec<&str> = found.iter().map(|v| v.reason.as_str()).collect();
            violating
                .entry(reasons.join(", "))
                .or_default()
                .push(pod.text("metadata.name"));
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > CHECKED {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {CHECKED} of {} existing pods",
            pods.len()
        ));
    }
    if !violating.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = violating
        .into_iter()
        .map(|(reason, mut names)| {
            names.sort_unstable();
            match names.len() {
                1 => format!("{}: {reason}", names[0]),
                2 => format!("{} (and 1 other pod): {reason}", names[0]),
                n => format!("{} (and {} other pods): {reason}", names[0], n - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn objects(labels: Value) -> Fixed {
        Fixed(vec![(
            "namespaces",
            json!({"metadata": {"name": "n", "labels": labels}}),
        )])
    }

    #[test]
    fn a_restricted_namespace_refuses_in_upstreams_words() {
        let pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "image": "x", "securityContext": {"privileged": true}}], "hostNetwork": true}});
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let judged = check(
            &objects(labels),
            Level::Privileged,
            &review("pods", Action::Create),
            &pod,
            &mut Notes::default(),
        );
        let Err(Denial::Forbidden(why)) = judged else {
            panic!()
        };
        assert_eq!(
            why,
            "violates PodSecurity \"restricted:latest\": host namespaces (hostNetwork=true), privileged (container \
             \"c\" must not set securityContext.privileged=true), allowPrivilegeEscalation != false (container \"c\" \
             must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must \
             set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn what_is_refused_is_told_in_the_audit_log_too() {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "securityContext": {"privileged": true}}]}});
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/audit": "restricted",
            "pod-security.kubernetes.io/warn": "restricted"});
        let mut notes = Notes::default();
        let judged = check(
            &objects(labels),
            Level::Privileged,
            &review("pods", Action::Create),
            &pod,
            &mut notes,
        );
        assert!(judged.is_err());
        let told = |name: &str| {
            notes
                .audit
                .iter()
                .find(|(key, _)| *key == format!("{AUDIT}{name}"))
        };
        assert_eq!(told("enforce-policy").unwrap().1, "baseline:latest");
        let violations = &told("audit-violations").unwrap().1;
        assert!(
            violations.starts_with("would violate PodSecurity \"restricted:latest\": "),
            "{violations}"
        );
        assert!(notes.warnings.is_empty(), "who is refused is not warned");
    }

    #[test]
    fn rules_are_those_of_the_version_that_is_asked_for() {
        let adds = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "securityContext": {"procMount": "Unmasked",
            "capabilities": {"add": ["NET_ADMIN"]}}}]}});
        let said = |profile: &str| {
            json!({"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": profile,
                "container.seccomp.security.alpha.kubernetes.io/c": profile}},
                "spec": {"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}})
        };
        let (unconfined, confined) = (said("unconfined"), said("docker/default"));
        for (version, pod, want) in [
            ("v1.7", &confined, &[][..]),
            ("v1.7", &unconfined, &["seccompProfile"]),
            (
                "v1.18",
                &unconfined,
                &["seccompProfile", "allowPrivilegeEscalation != false"],
            ),
            (
                "v1.19",
                &unconfined,
                &["allowPrivilegeEscalation != false", "seccompProfile"],
            ),
            (
                "v1.21",
                &adds,
                &[
                    "non-default capabilities",
                    "procMount",
                    "allowPrivilegeEscalation != false",
                    "runAsNonRoot != true",
                    "seccompProfile",
                ],
            ),
            (
                "v1.22",
                &adds,
                &[
                    "procMount",
                    "allowPrivilegeEscalation != false",
                    "unrestricted capabilities",
                    "runAsNonRoot != true",
                    "seccompProfile",
                ],
            ),
            (
                "v1.35",
                &adds,
                &[
                    "allowPrivilegeEscalation != false",
                    "unrestricted capabilities",
                    "procMount",
                    "runAsNonRoot != true",
                    "seccompProfile",
                ],
            ),
        ] {
            let labels = json!({"pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/enforce-version": version});
            let (policy, _) = level::of(&labels, Level::Privileged);
            let found = checks::violations(&policy.enforce, pod.at("metadata"), pod.at("spec"));
            let reasons: Vec<&str> = found.iter().map(|v| v.reason.as_str()).collect();
            assert_eq!(reasons, want, "{version} {pod}");
        }
        let (policy, _) = level::of(
            &json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.18"}),
            Level::Privileged,
        );
        let found = checks::violations(&policy.enforce, unconfined.at("metadata"), unconfined.at("spec"));
        assert_eq!(
            detail(&found).expect("forbidden"),
            "seccompProfile (forbidden annotations container.seccomp.security.alpha.kubernetes.io/c=\"unconfined\", \
             seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
        );
    }

    #[test]
    fn a_workload_is_warned_about() {
        let deployment = json!({"spec": {"template": {"metadata": {}, "spec": {
            "containers": [{"name": "c", "image": "x"}], "hostPID": true}}}});
        let labels = json!({"pod-security.kubernetes.io/warn": "baseline"});
        let mut notes = Notes::default();
        let review = review("deployments.apps", Action::Create);
        check(
            &objects(labels),
            Level::Privileged,
            &review,
            &deployment,
            &mut notes,
        )
        .expect("only warned");
        assert_eq!(
            notes.warnings,
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
        );
    }

    #[test]
    fn the_clusters_default_is_raised() {
        let pod = json!({"metadata": {}, "spec": {"containers": [], "hostIPC": true}});
        let review = review("pods", Action::Create);
        let judged = |level| check(&objects(json!({})), level, &review, &pod, &mut Notes::default());
        assert!(judged(Level::Privileged).is_ok());
        assert!(matches!(judged(Level::Baseline), Err(Denial::Forbidden(_))));
    }

    #[test]
    fn unreadable_labels_are_refused() {
        let namespace = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "strict"}}});
        let judged = check(
            &objects(json!({})),
            Level::Privileged,
            &review("namespaces", Action::Create),
            &namespace,
            &mut Notes::default(),
        );
        assert!(matches!(judged, Err(Denial::Invalid(_))));
    }
}
