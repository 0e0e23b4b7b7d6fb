//! Whether a request is one that a policy or binding concerns (`MatchResources`). Pure.
use super::super::Review;
use crate::kinds::view::View;
use serde_json::Value;

/// What is known of a request.
pub(super) struct Request<'r> {
    pub review: &'r Review<'r>,
    pub object: &'r Value,
    pub old: &'r Value,
    pub namespace: Option<&'r Value>,
}

impl Request<'_> {
    /// Whether the rules and selectors of a `MatchResources` take this request. Without rules all are meant.
    pub fn matches(&self, resources: &Value) -> bool {
        let rules = resources.list("resourceRules");
        let excluded = resources
            .list("excludeResourceRules")
            .iter()
            .any(|rule| self.is(rule, resources));
        let included = rules.is_empty() || rules.iter().any(|rule| self.is(rule, resources));
        included && !excluded && self.in_namespace(resources) && self.is_selected(resources)
    }

    fn is(&self, rule: &Value, resources: &Value) -> bool {
        let kind = self.review.kind;
        let any = |list: &[Value], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        // An equivalent version of the resource stands for the one that is named.
        let equivalent = resources.text("matchPolicy") != "Exact";
        let scope = match rule.text("scope") {
            "Namespaced" => kind.namespaced,
            "Cluster" => !kind.namespaced,
            _ => true,
        };
        let named = rule.list("resourceNames");
        scope
            && any(rule.list("operations"), self.review.action.word())
            && any(rule.list("apiGroups"), &kind.group)
            && (equivalent || any(rule.list("apiVersions"), &kind.version))
            && rule
                .list("resources")
                .iter()
                .filter_map(Value::as_str)
                .any(|r| self.is_resource(r))
            && (named.is_empty() || named.iter().any(|name| name == self.review.name))
    }

    /// `pods`, `pods/status`, `*`, `*/*`, `pods/*`, `*/scale`.
    fn is_resource(&self, pattern: &str) -> bool {
        let (resource, subresource) = match pattern.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (pattern, None),
        };
        let own = resource == "*" || resource == self.review.kind.plural;
        let below = match (subresource, self.review.subresource) {
            (Some("*"), _) => true,
            (wanted, found) => wanted == found,
        };
        own && below
    }

    fn in_namespace(&self, resources: &Value) -> bool {
        match self.namespace {
            Some(namespace) => selects(resources.at("namespaceSelector"), namespace.at("metadata.labels")),
            None => true,
        }
    }

    fn is_selected(&self, resources: &Value) -> bool {
        let selector = resources.at("objectSelector");
        let of = |object: &Value| !object.is_null() && selects(selector, object.at("metadata.labels"));
        is_everything(selector) || of(self.object) || of(self.old)
    }
}

fn is_everything(selector: &Value) -> bool {
    selector.list("matchExpressions").is_empty() && selector.map("matchLabels").is_none_or(|m| m.is_empty())
}

/// Whether a label selector takes these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.map("matchLabels").into_iter().flatten();
    let mut wanted = wanted.map(|(key, value)| labels.get(key) == Some(value));
    let mut terms = selector.list("matchExpressions").iter();
    wanted.all(|holds| holds) && terms.all(|term| term_holds(term, labels))
}

fn term_holds(term: &Value, labels: &Value) -> bool {
    let value = labels.get(term.text("key"));
    let among = || value.is_some_and(|value| term.list("values").contains(value));
    match term.text("operator") {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
