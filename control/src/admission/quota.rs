//! ResourceQuota: what a namespace may hold.
//!
//! An object that a quota is about is stored in one transaction with the quota's new `status.used`, which must not
//! have changed: so many creations at once never overcommit. Those of one namespace queue for their turn here instead
//! of failing one another.
use super::{Action, Claims, Denial, Objects, ResourceName, Review};
use crate::kinds::Kind;
use crate::kinds::device_usage::{self, Classes};
use crate::kinds::quantity::Quantity;
use crate::kinds::usage::{self, Usage};
use crate::kinds::view::View;
use crate::store::{KeyValue, Range, Store};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const QUOTAS: ResourceName<'_> = ("", "v1", "resourcequotas");
const PODS: ResourceName<'_> = ("", "v1", "pods");
const CLAIMS: ResourceName<'_> = ("resource.k8s.io", "v1", "resourceclaims");
const CLASSES: ResourceName<'_> = ("resource.k8s.io", "v1", "deviceclasses");
const PREFIX: &str = "/registry/resourcequotas/";

/// One lock for each namespace that has quotas.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }
}

/// Charges the object to the quotas that are about it.
pub(super) async fn charge(
    turns: &Turns,
    objects: &dyn Objects,
    store: &dyn Store,
    review: &Review<'_>,
    object: &Value,
    claims: &mut Claims,
) -> Result<(), Denial> {
    let Some(namespace) = review.namespace else {
        return Ok(());
    };
    if !handles(review, object) || objects.list(QUOTAS, Some(namespace)).is_empty() {
        return Ok(());
    }
    if claims.turn.is_none() {
        claims.turn = Some(turns.of(namespace).lock_owned().await);
    }
    let found = store
        .range(Range::prefix(format!("{PREFIX}{namespace}/")))
        .await?;
    let scales = Scales::of(objects, review, namespace);
    for stored in found.items.iter() {
        let Ok(quota) = serde_json::from_slice::<Value>(&stored.value) else {
            continue;
        };
        if let Some(changed) = charged(&quota, review, object, &scales)? {
            claims.replace.extend(replacement(stored, &quota, changed));
        }
    }
    Ok(())
}

/// What objects are weighed with: of a claim, what Pods call its devices.
struct Scales<'r> {
    objects: &'r dyn Objects,
    namespace: &'r str,
    classes: Option<Classes>,
}

impl<'r> Scales<'r> {
    fn of(objects: &'r dyn Objects, review: &Review<'_>, namespace: &'r str) -> Self {
        let claims = (review.kind.group.as_str(), review.kind.plural.as_str()) == (CLAIMS.0, CLAIMS.2);
        let classes = || Classes::of(objects.list(CLASSES, None).iter().map(AsRef::as_ref));
        Scales {
            objects,
            namespace,
            classes: claims.then(classes),
        }
    }

    fn concerns(&self, kind: &Kind, resource: &str) -> bool {
        match &self.classes {
            Some(classes) => usage::concerns(kind, resource, classes),
            None => usage::concerns(kind, resource, &Classes::default()),
        }
    }

    /// What the object counts.
    fn weigh(&self, kind: &Kind, object: &Value, now: Timestamp) -> Usage {
        let mut usage = usage::of(kind, object, now);
        if let Some(classes) = &self.classes {
            let counted = self.counted(object, now).unwrap_or_default();
            classes.add(&mut usage, &counted);
        }
        usage
    }

    /// What the Pod of a claim counts, if that is for its devices too.
    fn counted(&self, claim: &Value, now: Timestamp) -> Option<Usage> {
        let (name, _) = device_usage::asker(claim)?;
        let pod = self.objects.get(PODS, Some(self.namespace), name)?;
        let claims = self.objects.list(CLAIMS, Some(self.namespace));
        let others = claims.iter().map(AsRef::as_ref);
        let kinds = self.objects.kinds();
        let kind = kinds.resource(PODS.0, PODS.1, PODS.2)?;
        device_usage::is_counted(claim, &pod, others).then(|| usage::of(kind, &pod, now))
    }
}

/// The quota with its new use, as it is stored.
fn replacement(stored: &KeyValue, quota: &Value, used: Usage) -> Option<(String, u64, Bytes)> {
    let mut quota = quota.clone();
    for (name, amount) in used {
        quota["status"]["used"][name] = amount.to_string().into();
    }
    let bytes = crate::api::encode(&quota);
    Some((stored.key.to_string(), stored.mod_revision, bytes))
}

fn handles(review: &Review<'_>, object: &Value) -> bool {
    let ends = |pod: &Value| pod.int("spec.activeDeadlineSeconds").is_some();
    match (review.resource(), review.action) {
        (_, Action::Delete { .. }) => false,
        ((_, _, None), Action::Create) => true,
        (("", "pods", None), Action::Update { old }) => ends(old) != ends(object),
        (("", "pods", Some("resize")), Action::Update { .. }) => true,
        (("", "services" | "persistentvolumeclaims", None), Action::Update { .. }) => true,
        (("resource.k8s.io", "resourceclaims", None), Action::Update { .. }) => true,
        _ => false,
    }
}

/// The amounts of `status.used` that change, or why the object may not be. `None` when the quota is not about it.
fn charged(
    quota: &Value,
    review: &Review<'_>,
    object: &Value,
    scales: &Scales<'_>,
) -> Result<Option<Usage>, Denial> {
    let (kind, name) = (review.kind, quota.text("metadata.name"));
    let hard = crate::kinds::resources::list(quota.at("status.hard"));
    let hard = if hard.is_empty() {
        crate::kinds::resources::list(quota.at("spec.hard"))
    } else {
        hard
    };
    let concerned: Vec<&str> = hard
        .keys()
        .map(String::as_str)
        .filter(|r| scales.concerns(kind, r))
        .collect();
    if concerned.is_empty() || !usage::in_scope(kind, quota, object) {
        return Ok(None);
    }
    if kind.group.is_empty() && kind.plural == "pods" {
        requires(name, object, &concerned)?;
    }
    let used = crate::kinds::resources::list(quota.at("status.used"));
    if concerned.iter().any(|r| !used.contains_key(*r)) {
        let names = concerned.join(",");
        return Err(Denial::Forbidden(format!(
            "status unknown for quota: {name}, resources: {names}"
        )));
    }
    let asked = delta(review, quota, object, (scales, &hard));
    let mut after = Usage::new();
    let mut over = Vec::new();
    for (resource, amount) in &asked {
        let (Some(now), Some(limit)) = (used.get(resource), hard.get(resource)) else {
            continue;
        };
        let sum = now.plus(*amount);
        if sum > *limit {
            over.push(resource.as_str());
        }
        after.insert(resource.clone(), sum);
    }
    match over.is_empty() {
        true => Ok((!after.is_empty()).then_some(after)),
        false => Err(Denial::Forbidden(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            shown(&over, &asked),
            shown(&over, &used),
            shown(&over, &hard)
        ))),
    }
}

/// Containers must say what they need of the resources that a quota limits.
fn requires(quota: &str, pod: &Value, concerned: &[&str]) -> Result<(), Denial> {
    let missing = usage::missing(pod, concerned);
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(resource, names)| format!("{resource} for: {}", names.join(",")))
        .collect();
    Err(Denial::Forbidden(format!(
        "failed quota: {quota}: must specify {}",
        parts.join("; ")
    )))
}

/// What the object takes of what is limited beyond what it took, without zeros.
fn delta(review: &Review<'_>, quota: &Value, object: &Value, (scales, hard): (&Scales<'_>, &Usage)) -> Usage {
    let now = Timestamp::now();
    let before = match review.action {
        Action::Update { old } if usage::in_scope(review.kind, quota, old) => {
            scales.weigh(review.kind, old, now)
        }
        _ => Usage::new(),
    };
    let after = scales.weigh(review.kind, object, now).into_iter();
    let concerned = after.filter(|(name, _)| hard.contains_key(name));
    let more = concerned.map(|(name, amount)| {
        let held = before.get(&name).copied().unwrap_or(Quantity::whole(0));
        (name, amount.minus(held))
    });
    more.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative())
        .collect()
}

/// `pods=1,requests.cpu=2`.
fn shown(names: &[&str], amounts: &Usage) -> String {
    let pairs = names
        .iter()
        .filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn judged(hard: Value, used: Value, pod: Value) -> Result<Option<Usage>, String> {
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}});
        let (objects, review) = (Fixed::default(), review("pods", Action::Create));
        let scales = Scales::of(&objects, &review, "n");
        charged(&quota, &review, &pod, &scales).map_err(|denial| match denial {
            Denial::Forbidden(why) => why,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn quotas_speak_as_upstream() {
        let pod =
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "600m"}}}]}});
        for (hard, used, want) in [
            (
                json!({"pods": "1"}),
                json!({"pods": "1"}),
                "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
            ),
            (
                json!({"pods": "5", "requests.cpu": "1"}),
                json!({"pods": "1", "requests.cpu": "500m"}),
                "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1",
            ),
            (
                json!({"limits.cpu": "1", "memory": "1"}),
                json!({"limits.cpu": "0", "memory": "0"}),
                "failed quota: q: must specify limits.cpu for: c; memory for: c",
            ),
            (
                json!({"pods": "1"}),
                json!({}),
                "status unknown for quota: q, resources: pods",
            ),
        ] {
            assert_eq!(judged(hard, used, pod.clone()), Err(want.to_owned()));
        }
        let charged = judged(json!({"pods": "2"}), json!({"pods": "1"}), pod.clone()).expect("allowed");
        assert_eq!(charged.map(|u| u["pods"].to_string()).as_deref(), Some("2"));
        assert_eq!(judged(json!({"configmaps": "0"}), json!({}), pod), Ok(None));
    }

    #[test]
    fn a_claim_of_a_pod_that_asks_for_devices_counts_what_that_does_not() {
        let class =
            json!({"metadata": {"name": "gpus"}, "spec": {"extendedResourceName": "example.com/gpu"}});
        let resources = json!({"requests": {"example.com/gpu": "2"}});
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": resources}]}});
        let objects = Fixed(vec![("deviceclasses", class), ("pods", pod)]);
        let mut claim = json!({"metadata": {"name": "o", "namespace": "n"}, "spec": {"devices": {"requests": [
            {"exactly": {"deviceClassName": "gpus", "allocationMode": "ExactCount", "count": 3}}]}}});
        let review = review("resourceclaims.resource.k8s.io", Action::Create);
        let scales = Scales::of(&objects, &review, "n");
        let hard = json!({"requests.example.com/gpu": "2", "requests.cpu": "1"});
        let used = json!({"requests.example.com/gpu": "0", "requests.cpu": "0"});
        let quota = json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}});
        let Err(Denial::Forbidden(why)) = charged(&quota, &review, &claim, &scales) else {
            panic!("it asks for three")
        };
        let want = "exceeded quota: q, requested: requests.example.com/gpu=3, used: requests.example.com/gpu=0, limited: \
                    requests.example.com/gpu=2";
        assert_eq!(why, want);
        claim["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
        claim["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        let charged = charged(&quota, &review, &claim, &scales)
            .expect("allowed")
            .expect("some");
        assert_eq!(charged["requests.example.com/gpu"].to_string(), "1");
        assert_eq!(charged.len(), 1);
    }
}
