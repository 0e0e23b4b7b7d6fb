//! Which changes a webhook wants to see: rules, selectors, and equivalent versions of a resource.
use super::super::{Objects, ResourceName, Review};
use crate::kinds::view::View;
use crate::kinds::{Kind, Registry, labels};
use serde_json::Value;
use std::sync::Arc;

const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");

/// How a webhook matches.
pub(super) enum Match {
    /// By the version that was asked for.
    Exact,
    /// By another version of the same resource (`matchPolicy: Equivalent`).
    As(Arc<Kind>),
}

impl Match {
    /// The version in which the webhook wants the object.
    pub fn kind<'a>(&'a self, review: &Review<'a>) -> &'a Kind {
        match self {
            Match::Exact => review.kind,
            Match::As(kind) => kind,
        }
    }
}

/// How the webhook matches this change; none when it does not.
pub(super) fn matching(
    objects: &dyn Objects,
    review: &Review<'_>,
    object: &Value,
    webhook: &Value,
) -> Option<Match> {
    let matched = by_rules(&objects.kinds(), review, webhook)?;
    (in_namespace(objects, review, object, webhook) && by_labels(review, object, webhook)).then_some(matched)
}

fn by_rules(kinds: &Registry, review: &Review<'_>, webhook: &Value) -> Option<Match> {
    let rules = webhook.list("rules");
    if rules.iter().any(|rule| covers(rule, review, review.kind)) {
        return Some(Match::Exact);
    }
    if webhook.text("matchPolicy") == "Exact" {
        return None;
    }
    let mut others = kinds.iter().filter(|kind| {
        kind.storage_prefix == review.kind.storage_prefix
            && (&kind.group, &kind.version) != (&review.kind.group, &review.kind.version)
    });
    others
        .find(|kind| rules.iter().any(|rule| covers(rule, review, kind)))
        .cloned()
        .map(Match::As)
}

fn covers(rule: &Value, review: &Review<'_>, kind: &Kind) -> bool {
    let has = |key: &str, wanted: &str| rule.list(key).iter().any(|v| v == "*" || v == wanted);
    let scope = match rule.text("scope") {
        "Cluster" => !kind.namespaced || is_namespace(kind),
        "Namespaced" => kind.namespaced && !is_namespace(kind),
        _ => true,
    };
    let resource = |pattern: &Value| {
        names(
            pattern.as_str().unwrap_or_default(),
            &kind.plural,
            review.subresource,
        )
    };
    has("operations", review.action.word())
        && has("apiGroups", &kind.group)
        && has("apiVersions", &kind.version)
        && scope
        && rule.list("resources").iter().any(resource)
}

fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// Whether `pods`, `pods/status`, `*`, `pods/*`, `*/status` or `*/*` means this.
fn names(pattern: &str, plural: &str, subresource: Option<&str>) -> bool {
    let (resource, sub) = match pattern.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub)),
        None => (pattern, None),
    };
    let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
    let sub_fits = match (sub, subresource) {
        (None, None) => true,
        // `*/*` and `pods/*` take in the resources themselves, too.
        (Some("*"), None) => true,
        (Some(sub), Some(asked)) => fits(sub, asked),
        _ => false,
    };
    fits(resource, plural) && sub_fits
}

/// Cluster-scoped objects have no namespace that could be passed over; a Namespace is judged by its own labels.
fn in_namespace(objects: &dyn Objects, review: &Review<'_>, object: &Value, webhook: &Value) -> bool {
    let selector = webhook.at("namespaceSelector");
    if selects_all(selector) {
        return true;
    }
    if is_namespace(review.kind) {
        let object = if object.is_null() {
            review.action.old()
        } else {
            object
        };
        return labels::matches(selector, object.at("metadata.labels"));
    }
    let Some(name) = review.namespace else {
        return true;
    };
    let namespace = objects.get(NAMESPACES, None, name).unwrap_or_default();
    labels::matches(selector, namespace.at("metadata.labels"))
}

fn by_labels(review: &Review<'_>, object: &Value, webhook: &Value) -> bool {
    let selector = webhook.at("objectSelector");
    let picks = |object: &Value| !object.is_null() && labels::matches(selector, object.at("metadata.labels"));
    selects_all(selector) || picks(object) || picks(review.action.old())
}

fn selects_all(selector: &Value) -> bool {
    selector.map("matchLabels").is_none_or(serde_json::Map::is_empty)
        && selector.list("matchExpressions").is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::super::Action;
    use super::super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn webhook(resources: &[&str]) -> Value {
        json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"],
            "resources": resources, "scope": "*"}]})
    }

    #[test]
    fn resources() {
        for (pattern, plural, subresource, want) in [
            ("pods", "pods", None, true),
            ("pods", "pods", Some("status"), false),
            ("pods/status", "pods", Some("status"), true),
            ("pods/*", "pods", Some("status"), true),
            ("*", "pods", None, true),
            ("*", "pods", Some("status"), false),
            ("*/*", "services", None, true),
            ("*/status", "services", Some("status"), true),
            ("pods", "services", None, false),
        ] {
            assert_eq!(names(pattern, plural, subresource), want, "{pattern}");
        }
    }

    #[test]
    fn selectors_look_at_namespace_and_object() {
        let namespace = json!({"metadata": {"name": "n", "labels": {"env": "prod"}}});
        let objects = Fixed(vec![("namespaces", namespace)]);
        let review = review("pods", Action::Create);
        let matched =
            |webhook: &Value, object: &Value| matching(&objects, &review, object, webhook).is_some();
        let plain = json!({"metadata": {}});
        let mut hook = webhook(&["pods"]);
        assert!(matched(&hook, &plain));
        hook["namespaceSelector"] = json!({"matchLabels": {"env": "test"}});
        assert!(!matched(&hook, &plain));
        hook["namespaceSelector"] = json!({"matchLabels": {"env": "prod"}});
        hook["objectSelector"] = json!({"matchLabels": {"a": "b"}});
        assert!(!matched(&hook, &plain));
        assert!(matched(&hook, &json!({"metadata": {"labels": {"a": "b"}}})));
        assert!(!matched(&webhook(&["services"]), &plain));
    }

    #[test]
    fn other_versions_are_equivalent() {
        let review = review("horizontalpodautoscalers.autoscaling", Action::Create);
        let mut hook = webhook(&["horizontalpodautoscalers"]);
        hook["rules"][0]["apiVersions"] = json!(["v2"]);
        let object = json!({"metadata": {}});
        let matched = matching(&Fixed::default(), &review, &object, &hook).expect("equivalent");
        assert_eq!(matched.kind(&review).version, "v2");
        hook["matchPolicy"] = json!("Exact");
        assert!(matching(&Fixed::default(), &review, &object, &hook).is_none());
    }
}
