//! Which rules, of webhooks and of policies, take a request: by its own version of a resource or by an equivalent one.
use super::Review;
use crate::kinds::view::View;
use crate::kinds::{Kind, Registry};
use serde_json::Value;
use std::sync::Arc;

/// How rules match.
#[derive(Debug, Clone)]
pub(super) enum Match {
    /// By the version that was asked for.
    Exact,
    /// By another version of the same resource (`matchPolicy: Equivalent`).
    As(Arc<Kind>),
}

impl Match {
    /// The version in which the object is to be shown.
    pub fn kind<'a>(&'a self, review: &Review<'a>) -> &'a Kind {
        match self {
            Match::Exact => review.kind,
            Match::As(kind) => kind,
        }
    }
}

/// How these rules match this change; none when they do not.
pub(super) fn by_rules(
    kinds: &Registry,
    review: &Review<'_>,
    rules: &[Value],
    policy: &str,
) -> Option<Match> {
    if rules.iter().any(|rule| covers(rule, review, review.kind)) {
        return Some(Match::Exact);
    }
    if policy == "Exact" {
        return None;
    }
    let others = kinds.iter().filter(|kind| {
        kind.storage_prefix == review.kind.storage_prefix
            && (&kind.group, &kind.version) != (&review.kind.group, &review.kind.version)
    });
    let others: Vec<&Arc<Kind>> = others.collect();
    let covered = |rule: &Value| others.iter().find(|kind| covers(rule, review, kind));
    rules
        .iter()
        .find_map(covered)
        .map(|kind| Match::As((*kind).clone()))
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
    let named = rule.list("resourceNames");
    has("operations", review.action.word())
        && has("apiGroups", &kind.group)
        && has("apiVersions", &kind.version)
        && scope
        && rule.list("resources").iter().any(resource)
        && (named.is_empty() || named.iter().any(|name| name == review.name))
}

pub(super) fn is_namespace(kind: &Kind) -> bool {
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

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::super::fixtures::review;
    use super::*;
    use serde_json::json;

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
    fn other_versions_are_equivalent_if_there_are_such() {
        let review = review("horizontalpodautoscalers.autoscaling", Action::Create);
        let matched = |version: &str, policy: &str| {
            let rules = [
                json!({"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": [version],
                "resources": ["horizontalpodautoscalers"], "resourceNames": ["o"]}),
            ];
            by_rules(Registry::builtin(), &review, &rules, policy).map(|m| m.kind(&review).version.clone())
        };
        assert_eq!(matched("v2", "Equivalent").as_deref(), Some("v2"));
        assert_eq!(matched("v1", "Exact").as_deref(), Some("v1"));
        assert_eq!(matched("v2", "Exact"), None);
        assert_eq!(matched("v7", "Equivalent"), None);
    }
}
