//! PodDisruptionBudgets: how many of the Pods they pick may be disrupted now (upstream's disruption controller).
//!
//! Flow: a budget or a Pod that one picks changes → healthy and expected Pods are counted → the status is written, which
//! `pods/eviction` spends. How many Pods are expected is what their controllers ask for, read from their `scale`.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::context::Context;
use crate::kinds::conduct::is_ready_pod;
use crate::kinds::labels;
use crate::kinds::time::{format_seconds, parse};
use crate::kinds::view::View;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};
use crate::uri::escape;

/// Budgets counted at once.
const WORKERS: usize = 2;
/// How long an eviction that nothing came of counts (upstream's `DeletionTimeout`).
const EVICTED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let (watches, own, touched) = (context.watches.clone(), queue.clone(), queue.clone());
    watches
        .budgets
        .on_change(move |change| own.add(ObjectKey::of(change.object().as_ref())));
    let budgets = watches.budgets.clone();
    watches.pods.on_change(move |change| {
        let namespace = change.object().namespace().unwrap_or_default();
        let all = budgets.in_namespace(&namespace);
        touched.extend(all.iter().map(|budget| ObjectKey::of(budget.as_ref())));
    });
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work("disruption", queue, WORKERS, shutdown, context, |context, key| {
        reconcile(context, key).boxed()
    })
}

async fn reconcile(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(budget) = context.watches.budgets.get(&key) else {
        return Ok(Outcome::Done);
    };
    let value = patch::to_value(budget.as_ref());
    let pods = context.watches.pods.in_namespace(&key.namespace);
    let pods: Vec<Value> = pods.iter().map(|pod| patch::to_value(pod.as_ref())).collect();
    let picked: Vec<&Value> = pods
        .iter()
        .filter(|pod| labels::matches(value.at("spec.selector"), pod.at("metadata.labels")))
        .collect();
    let expected = match scales(&value) {
        true => expected(context, &key, &picked).await?,
        false => count(picked.len()),
    };
    let now = Timestamp::now();
    let status = status(&value, &picked, expected, now);
    if let Some(change) = patch::difference(value.at("status"), &status) {
        let api: Objects<PodDisruptionBudget> = Objects::in_namespace(&context.client, &key.namespace);
        let body = patch::guarded(&budget.metadata, json!({"status": change}));
        let written = api.merge_status(&key.name, body).await;
        written.step(|| format!("write the status of the disruption budget {key}"))?;
        if picked.is_empty() {
            let events = context.events.recorder("controllermanager");
            events.normal(budget.as_ref(), "NoPods", "No matching pods found");
        }
    }
    Ok(
        match status.map("disruptedPods").is_some_and(|pods| !pods.is_empty()) {
            true => Outcome::After(Duration::from_secs(EVICTED_WITHIN.as_secs().unsigned_abs())),
            false => Outcome::Done,
        },
    )
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Whether the budget is relative to what controllers ask for.
fn scales(budget: &Value) -> bool {
    budget.has("spec.maxUnavailable") || budget.at("spec.minAvailable").is_string()
}

/// What the controllers of these Pods ask for together; a Pod without one counts for nothing, as upstream has it.
async fn expected(context: &Context, key: &ObjectKey, pods: &[&Value]) -> Result<i64, StepError> {
    let mut controllers: BTreeMap<&str, &Value> = BTreeMap::new();
    for pod in pods {
        let mut owners = pod.list("metadata.ownerReferences").iter();
        if let Some(owner) = owners.find(|owner| owner.flag("controller")) {
            controllers.insert(owner.text("uid"), owner);
        }
    }
    let mut total = 0;
    for owner in controllers.values() {
        total += replicas(context, key, owner).await?;
    }
    // The field's type, which some controllers together may exceed.
    Ok(total.min(i64::from(i32::MAX)))
}

/// `spec.replicas` of the controller's scale; nothing when it has none, or is gone.
async fn replicas(context: &Context, key: &ObjectKey, owner: &Value) -> Result<i64, StepError> {
    let (version, kind) = (owner.text("apiVersion"), owner.text("kind"));
    let Some(served) = context.catalog.find(version, kind).await? else {
        return Ok(0);
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    let path = format!(
        "/{root}/{version}/namespaces/{}/{}/{}/scale",
        key.namespace,
        served.resource.plural,
        escape(owner.text("name"))
    );
    let request = Request::get(&path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError);
    let answer: Result<Value, kube::Error> = match request {
        Ok(request) => context.client.request(request).await,
        Err(error) => Err(error),
    };
    match answer.step(|| format!("read {path}")) {
        Ok(scale) => Ok(scale.int("spec.replicas").unwrap_or(0)),
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}

/// The status that these Pods give the budget. Pure.
fn status(budget: &Value, pods: &[&Value], expected: i64, now: Timestamp) -> Value {
    let disrupted = disrupted(budget, pods, now);
    let healthy = pods
        .iter()
        .filter(|pod| is_ready_pod(pod) && !pod.has("metadata.deletionTimestamp"))
        .filter(|pod| !disrupted.contains_key(pod.text("metadata.name")))
        .count();
    let (healthy, desired) = (count(healthy), desired(budget.at("spec"), expected));
    let allowed = match expected {
        0 => 0,
        _ => (healthy - desired).max(0),
    };
    let mut status = json!({
        "observedGeneration": budget.int("metadata.generation").unwrap_or(0),
        "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
        "disruptionsAllowed": allowed, "conditions": [condition(budget, allowed > 0, now)],
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = disrupted.into();
    }
    status
}

/// Evictions that are under way: their Pods are there still, and were evicted a short time ago.
fn disrupted(budget: &Value, pods: &[&Value], now: Timestamp) -> Map<String, Value> {
    let under_way = |(name, time): &(&String, &Value)| {
        let pod = pods.iter().find(|pod| pod.text("metadata.name") == name.as_str());
        let since = time.as_str().and_then(parse);
        pod.is_some_and(|pod| !pod.has("metadata.deletionTimestamp"))
            && since.is_some_and(|since| now.duration_since(since) < EVICTED_WITHIN)
    };
    let known = budget.map("status.disruptedPods").into_iter().flatten();
    let left = known.filter(under_way);
    left.map(|(name, time)| (name.clone(), time.clone())).collect()
}

/// How many Pods must stay healthy.
fn desired(spec: &Value, expected: i64) -> i64 {
    let part = |value: &Value| match value.as_str().and_then(|t| t.strip_suffix('%')) {
        // Rounded up, as upstream does for both.
        Some(percent) => percent
            .parse::<i64>()
            .map_or(0, |p| (p.saturating_mul(expected) + 99) / 100),
        None => value.as_i64().unwrap_or(0),
    };
    match spec.has("maxUnavailable") {
        true => (expected - part(spec.at("maxUnavailable"))).max(0),
        false => part(spec.at("minAvailable")),
    }
}

fn condition(budget: &Value, allowed: bool, now: Timestamp) -> Value {
    let mut known = budget.list("status.conditions").iter();
    let old = known.find(|c| c.text("type") == "DisruptionAllowed");
    let (status, reason) = match allowed {
        true => ("True", "SufficientPods"),
        false => ("False", "InsufficientPods"),
    };
    let since = match old.filter(|old| old.text("status") == status) {
        Some(old) => old.at("lastTransitionTime").clone(),
        None => format_seconds(now).into(),
    };
    json!({"type": "DisruptionAllowed", "status": status, "reason": reason, "message": "",
        "observedGeneration": budget.int("metadata.generation").unwrap_or(0), "lastTransitionTime": since})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn what_may_be_disrupted() {
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "False")];
        let pods: Vec<&Value> = pods.iter().collect();
        for (spec, want) in [
            (json!({"minAvailable": 1}), 1),
            (json!({"minAvailable": 2}), 0),
            (json!({"minAvailable": "50%"}), 0),
            (json!({"maxUnavailable": 2}), 1),
            (json!({"maxUnavailable": "100%"}), 2),
        ] {
            let budget = json!({"metadata": {"generation": 3}, "spec": spec});
            let status = status(&budget, &pods, 3, Timestamp::UNIX_EPOCH);
            assert_eq!(status["disruptionsAllowed"], want, "{spec}");
            assert_eq!(status["observedGeneration"], 3);
        }
    }

    #[test]
    fn an_evicted_pod_is_not_healthy_until_the_eviction_is_forgotten() {
        let pods = [pod("a", "True"), pod("b", "True")];
        let pods: Vec<&Value> = pods.iter().collect();
        let budget = json!({"spec": {"minAvailable": 1}, "status": {"disruptedPods": {
            "a": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"}}});
        let soon = status(&budget, &pods, 2, Timestamp::UNIX_EPOCH);
        assert_eq!(soon["currentHealthy"], 1);
        assert_eq!(soon["disruptedPods"], json!({"a": "1970-01-01T00:00:00Z"}));
        let later: Timestamp = "1970-01-01T00:03:00Z".parse().expect("a time");
        assert_eq!(status(&budget, &pods, 2, later)["currentHealthy"], 2);
    }
}
