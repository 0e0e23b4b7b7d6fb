//! Aggregated ClusterRoles: their rules are those of all roles that their selectors pick.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use serde_json::json;

use super::context::Context;
use crate::kinds::labels;
use crate::toolkit::patch::to_value;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

/// Roles computed at once: they read each other, so that more would only write more often.
const WORKERS: usize = 1;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let (roles, informer) = (queue.clone(), Arc::downgrade(&context.watches.cluster_roles));
    context.watches.cluster_roles.on_change(move |_| {
        let all = informer
            .upgrade()
            .map(|informer| informer.list())
            .unwrap_or_default();
        for role in all.iter().filter(|role| role.aggregation_rule.is_some()) {
            roles.add(role.name_any());
        }
    });
    let shutdown = context.shutdown.clone();
    work(
        "clusterrole-aggregation",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let roles = &context.watches.cluster_roles;
    let Some(role) = roles.get(&ObjectKey::cluster(&name)) else {
        return Ok(Outcome::Done);
    };
    let rules = aggregate(&role, &roles.list());
    if role.aggregation_rule.is_none() || rules == role.rules.clone().unwrap_or_default() {
        return Ok(Outcome::Done);
    }
    let api: Objects<ClusterRole> = Objects::all(&context.client);
    let body = patch::guarded(&role.metadata, json!({ "rules": rules }));
    api.merge(&name, body)
        .await
        .step(|| format!("aggregate the rules of ClusterRole {name}"))?;
    Ok(Outcome::Done)
}

/// The rules of all roles that the aggregation picks, each once, in the order of selectors and names.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut others: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|other| other.name_any() != role.name_any())
        .collect();
    others.sort_by_key(|other| other.name_any());
    let selectors = role
        .aggregation_rule
        .iter()
        .flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let mut rules = Vec::new();
    for selector in selectors {
        let selector = to_value(selector);
        let picked = others
            .iter()
            .filter(|other| labels::matches(&selector, &to_value(&other.metadata.labels)));
        for rule in picked.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn role(name: &str, label: &str, verbs: &[&str], selects: Value) -> Arc<ClusterRole> {
        let role = json!({"metadata": {"name": name, "labels": {label: "true"}},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}],
            "aggregationRule": selects});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_are_gathered_once_and_in_order() {
        let selects = json!({"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]});
        let view = role("view", "to-view", &["stale"], selects);
        let all = [
            role("z", "to-view", &["get"], Value::Null),
            role("b", "to-view", &["list"], Value::Null),
            role("a", "other", &["delete"], Value::Null),
            role("c", "to-view", &["get"], Value::Null),
            view.clone(),
        ];
        let verbs: Vec<String> = aggregate(&view, &all)
            .into_iter()
            .flat_map(|rule| rule.verbs)
            .collect();
        assert_eq!(verbs, ["list", "get"]);
    }
}
