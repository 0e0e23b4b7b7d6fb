//! `SelfSubjectRulesReview`: everything that one may do in a namespace.
use super::super::Call;
use super::super::status::{ApiError, Result};
use crate::auth::rbac::{Missing, Rule, aggregate};
use serde_json::{Value, json};

const NODES: &str = "node authorizer does not support user rule resolution";

pub fn of_self(call: &Call, question: &Value) -> Result<Value> {
    let namespace = question["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, missing) = call.api.authorizer.policy().rules_of(&call.who, Some(namespace));
    let (urls, resources): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|rule| !rule.urls.is_empty());
    let of_node = call.who.node().map(|_| NODES.to_owned());
    let errors: Vec<String> = of_node
        .into_iter()
        .chain(missing.iter().map(Missing::to_string))
        .collect();
    Ok(json!({
        "resourceRules": resources.iter().map(Rule::show).collect::<Vec<_>>(),
        "nonResourceRules": urls.iter().map(Rule::show).collect::<Vec<_>>(),
        "incomplete": !errors.is_empty(),
        "evaluationError": aggregate(errors),
    }))
}
