//! Groups of the Kubernetes community say by an annotation who approved their API: asked for when a definition is written, and told
//! in its conditions. apiextensions' `GetAPIApprovalState`; kubernetes/enhancements, "API review for CRDs".
use crate::kinds::error::{FieldError, quote};
use crate::kinds::view::View;
use serde_json::Value;

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the annotation says.
enum Said<'a> {
    Nothing,
    Unapproved(&'a str),
    ApprovedIn(&'a str),
    Other(&'a str),
}

fn said(definition: &Value) -> Said<'_> {
    let annotation = definition.at("metadata.annotations").get(ANNOTATION);
    let place = |text: &str| {
        text.parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some())
    };
    match annotation.and_then(Value::as_str).unwrap_or_default() {
        "" => Said::Nothing,
        text if text.starts_with("unapproved") => Said::Unapproved(text),
        text if place(text) => Said::ApprovedIn(text),
        text => Said::Other(text),
    }
}

fn missing() -> String {
    format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}")
}

fn invalid() -> String {
    format!(
        "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting with \
         \"unapproved\", {SEE}"
    )
}

fn protected(definition: &Value) -> bool {
    let group = definition.text("spec.group");
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")))
}

/// What is wrong with the annotation, where it is new.
pub(super) fn error(object: &Value, old: Option<&Value>) -> Option<FieldError> {
    let annotation = |object: &Value| object.at("metadata.annotations").get(ANNOTATION).cloned();
    if !protected(object) || old.is_some_and(|old| annotation(old) == annotation(object)) {
        return None;
    }
    let path = format!("metadata.annotations[{ANNOTATION}]");
    match said(object) {
        Said::Nothing => Some(FieldError::required(path, missing())),
        Said::Unapproved(_) | Said::ApprovedIn(_) => None,
        Said::Other(text) => Some(FieldError::invalid(path, text, invalid())),
    }
}

/// Condition `KubernetesAPIApprovalPolicyConformant` of a definition: its status, reason and message. `None` where nobody has to
/// approve the group.
pub fn approval(definition: &Value) -> Option<(&'static str, &'static str, String)> {
    protected(definition).then(|| match said(definition) {
        Said::Nothing => ("False", "MissingAnnotation", missing()),
        Said::Unapproved(text) => (
            "False",
            "UnapprovedAnnotation",
            format!("not approved: {}", quote(text)),
        ),
        Said::ApprovedIn(text) => ("True", "ApprovedAnnotation", format!("approved in {text}")),
        Said::Other(_) => ("False", "InvalidAnnotation", invalid()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn definitions_of_the_community_s_groups_tell_who_approved_them() {
        let see = SEE;
        for (group, annotation, want) in [
            ("e.com", "", None),
            ("notk8s.io", "", None),
            (
                "foo.k8s.io",
                "unapproved, x",
                Some((
                    "False",
                    "UnapprovedAnnotation",
                    "not approved: \"unapproved, x\"".to_owned(),
                )),
            ),
            (
                "k8s.io",
                "https://e.com/1",
                Some((
                    "True",
                    "ApprovedAnnotation",
                    "approved in https://e.com/1".to_owned(),
                )),
            ),
            (
                "foo.kubernetes.io",
                "",
                Some((
                    "False",
                    "MissingAnnotation",
                    format!(
                        "protected groups must have approval annotation \"api-approved.kubernetes.io\", {see}"
                    ),
                )),
            ),
            (
                "foo.k8s.io",
                "yes",
                Some(("False", "InvalidAnnotation", invalid())),
            ),
        ] {
            let annotations = json!({ANNOTATION: annotation});
            let definition = json!({"metadata": {"annotations": annotations}, "spec": {"group": group}});
            assert_eq!(approval(&definition), want, "{group} {annotation}");
        }
    }
}
