//! Whether a request is one that a policy or binding concerns (`MatchResources`). Pure.
use super::super::Review;
use super::super::equivalent::{Match, by_rules};
use crate::kinds::Registry;
use crate::kinds::view::View;
use serde_json::Value;

/// What is known of a request.
pub(super) struct Request<'r> {
    pub kinds: &'r Registry,
    pub review: &'r Review<'r>,
    pub object: &'r Value,
    pub old: &'r Value,
    pub namespace: Option<&'r Value>,
}

impl Request<'_> {
    /// How the rules and selectors of a `MatchResources` take this request. Without rules all are meant.
    pub fn matches(&self, resources: &Value) -> Option<Match> {
        if !self.in_namespace(resources) || !self.is_selected(resources) {
            return None;
        }
        let by = |key: &str| {
            by_rules(
                self.kinds,
                self.review,
                resources.list(key),
                resources.text("matchPolicy"),
            )
        };
        match by("excludeResourceRules") {
            Some(_) => None,
            None if resources.list("resourceRules").is_empty() => Some(Match::Exact),
            None => by("resourceRules"),
        }
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
