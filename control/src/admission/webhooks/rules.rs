//! Which changes a webhook wants to see: by its rules and selectors.
use super::super::equivalent::{Match, by_rules, is_namespace};
use super::super::{Objects, ResourceName, Review};
use crate::kinds::labels;
use crate::kinds::view::View;
use serde_json::Value;

const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");

/// How the webhook matches this change; none when it does not.
pub(super) fn matching(
    objects: &dyn Objects,
    review: &Review<'_>,
    object: &Value,
    webhook: &Value,
) -> Option<Match> {
    let matched = by_rules(
        &objects.kinds(),
        review,
        webhook.list("rules"),
        webhook.text("matchPolicy"),
    )?;
    (in_namespace(objects, review, object, webhook) && by_labels(review, object, webhook)).then_some(matched)
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
}
