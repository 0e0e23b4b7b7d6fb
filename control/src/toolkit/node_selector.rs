//! Node selectors (core/v1 NodeSelector): which nodes a term means, by labels and by name.
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use kube::ResourceExt;

/// Whether one of the terms means the node.
pub fn matches(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(term, node))
}

pub fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions
        .iter()
        .flatten()
        .chain(term.match_fields.iter().flatten())
        .next()
        .is_none()
}

/// An empty required term matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |key: &str| node.labels().get(key).map(String::as_str);
    let field = |key: &str| {
        let name = node.metadata.name.as_deref();
        name.filter(|_| key == "metadata.name")
    };
    !is_empty(term)
        && term
            .match_expressions
            .iter()
            .flatten()
            .all(|wanted| requirement_holds(wanted, label(&wanted.key)))
        && term
            .match_fields
            .iter()
            .flatten()
            .all(|wanted| requirement_holds(wanted, field(&wanted.key)))
}

fn requirement_holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|candidate| candidate == value);
    match wanted.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(value, values, |value, bound| value > bound),
        "Lt" => compare(value, values, |value, bound| value < bound),
        _ => false,
    }
}

fn compare(value: Option<&str>, values: &[String], holds: impl Fn(i64, i64) -> bool) -> bool {
    let value = value.and_then(|value| value.parse().ok());
    let bound = values.first().and_then(|bound| bound.parse().ok());
    matches!((value, bound), (Some(value), Some(bound)) if holds(value, bound))
}
