//! Counts again what ResourceQuotas limit: `status.hard` follows the spec, `status.used` what is there.
//!
//! Flow: a quota or a Pod, Service or claim of its namespace changes → the quota is read, then what it counts is listed,
//! then the status is written if the quota is still the one that was read. Admission writes a quota in the same
//! transaction as the object that it charges; so a count that misses an object also misses the quota's version, and is
//! made again. What other kinds count is looked up every few seconds: nothing here watches all kinds.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::context::Context;
use crate::kinds::device_usage::{self, Classes};
use crate::kinds::quantity::Quantity;
use crate::kinds::usage::{self, Usage};
use crate::kinds::view::View;
use crate::kinds::{Kind, Registry, resources};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

/// Quotas counted at once.
const WORKERS: usize = 2;
/// Time between two counts of kinds that are not watched here.
const AGAIN: Duration = Duration::from_secs(5);
/// Objects of one page of a list.
const PAGE: usize = 500;
const PODS: (&str, &str) = ("", "pods");
/// Kinds whose objects count more than one each, by group and plural: those that are watched here, and those that are not.
const WATCHED: [(&str, &str); 3] = [PODS, ("", "services"), ("", "persistentvolumeclaims")];
const LOOKED_UP: (&str, &str) = ("resource.k8s.io", "resourceclaims");
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let watches = context.watches.clone();
    let own = queue.clone();
    watches
        .quotas
        .on_change(move |change| own.add(ObjectKey::of(change.object().as_ref())));
    macro_rules! counted {
        ($($cache:ident),*) => {$(
            let (quotas, queue_of_all) = (watches.quotas.clone(), queue.clone());
            watches.$cache.on_change(move |change| {
                let namespace = change.object().namespace().unwrap_or_default();
                let concerned = quotas.in_namespace(&namespace);
                queue_of_all.extend(concerned.iter().map(|quota| ObjectKey::of(quota.as_ref())));
            });
        )*};
    }
    counted!(pods, services, claims);
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work("quota", queue, WORKERS, shutdown, context, |context, key| {
        reconcile(context, key).boxed()
    })
}

async fn reconcile(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let api: Objects<ResourceQuota> = Objects::in_namespace(&context.client, &key.namespace);
    let read = api
        .get_opt(&key.name)
        .await
        .step(|| format!("read the quota {key}"))?;
    let Some(quota) = read else {
        return Ok(Outcome::Done);
    };
    let value = patch::to_value(&quota);
    let hard = resources::list(value.at("spec.hard"));
    let used = count(context, &key, &value, &hard).await?;
    let status = json!({"hard": shown(&hard), "used": shown(&used)});
    let before = json!({"hard": value.at("status.hard"), "used": value.at("status.used")});
    if let Some(change) = patch::difference(&before, &status) {
        let body = patch::guarded(&quota.metadata, json!({"status": change}));
        let written = api.merge_status(&key.name, body).await;
        written.step(|| format!("write the status of the quota {key}"))?;
    }
    // Claims are looked up, whatever else counts for a name.
    let unwatched = hard
        .keys()
        .any(|name| !is_watched(name) || device_usage::may_be_devices(name));
    Ok(match unwatched {
        true => Outcome::After(AGAIN),
        false => Outcome::Done,
    })
}

fn shown(amounts: &BTreeMap<String, Quantity>) -> Value {
    let pairs = amounts
        .iter()
        .map(|(name, q)| (name.clone(), Value::from(q.to_string())));
    Value::Object(pairs.collect())
}

/// Whether a change of what the resource counts is seen here.
fn is_watched(resource: &str) -> bool {
    let concerns =
        |name| builtin(name).is_some_and(|kind| usage::concerns(kind, resource, &Classes::default()));
    WATCHED.into_iter().any(concerns)
}

fn builtin((group, plural): (&str, &str)) -> Option<&'static Arc<Kind>> {
    Registry::builtin().resource(group, "v1", plural)
}

/// Nothing of what a quota limits, without what is a name of nothing: that is not told of, unless it is looked up.
fn none(hard: &Usage) -> Usage {
    let named = hard
        .keys()
        .filter(|name| is_watched(name) || name.ends_with(device_usage::DEVICES));
    named.map(|name| (name.clone(), Quantity::whole(0))).collect()
}

/// What is used of everything that the quota limits.
async fn count(context: &Context, key: &ObjectKey, quota: &Value, hard: &Usage) -> Result<Usage, StepError> {
    let mut used = none(hard);
    for kind in WATCHED.into_iter().filter_map(builtin) {
        if hard
            .keys()
            .any(|name| usage::concerns(kind, name, &Classes::default()))
        {
            let path = listed(&kind.api_version(), &key.namespace, &kind.plural);
            weigh(context, kind, quota, &path, &mut used).await?;
        }
    }
    let classes = classes(context, hard).await?;
    if let Some(kind) = builtin(LOOKED_UP)
        && hard.keys().any(|name| usage::concerns(kind, name, &classes))
    {
        weigh_claims(context, (kind, &classes), (key, quota), &mut used).await?;
    }
    for name in hard.keys().filter(|name| !is_watched(name)) {
        if let Some(number) = number(context, key, name).await? {
            used.insert(name.clone(), Quantity::whole(number));
        }
    }
    Ok(used)
}

/// The classes of devices, if the quota may name devices as Pods do.
async fn classes(context: &Context, hard: &Usage) -> Result<Classes, StepError> {
    match hard.keys().any(|name| device_usage::may_be_devices(name)) {
        true => Ok(Classes::of(&all(context, CLASSES).await?)),
        false => Ok(Classes::default()),
    }
}

/// Adds what each object of the list counts.
async fn weigh(
    context: &Context,
    kind: &Kind,
    quota: &Value,
    path: &str,
    used: &mut Usage,
) -> Result<(), StepError> {
    let (now, mut from) = (Timestamp::now(), Some(String::new()));
    while let Some(at) = from {
        let page = page(context, path, &at).await?;
        let items = page.list("items").iter();
        for object in items.filter(|o| usage::in_scope(kind, quota, o)) {
            add(used, usage::of(kind, object, now));
        }
        from = next(&page);
    }
    Ok(())
}

/// Adds what each claim counts, also for the names that Pods have for its devices.
async fn weigh_claims(
    context: &Context,
    (kind, classes): (&Kind, &Classes),
    (key, quota): (&ObjectKey, &Value),
    used: &mut Usage,
) -> Result<(), StepError> {
    let path = listed(&kind.api_version(), &key.namespace, &kind.plural);
    let (claims, now) = (all(context, &path).await?, Timestamp::now());
    for claim in claims.iter().filter(|claim| usage::in_scope(kind, quota, claim)) {
        let mut usage = usage::of(kind, claim, now);
        let counted = counted(context, key, claim, &claims).await?;
        classes.add(&mut usage, &counted);
        add(used, usage);
    }
    Ok(())
}

/// What the Pod of a claim counts, if that is for the claim's devices too.
async fn counted(
    context: &Context,
    key: &ObjectKey,
    claim: &Value,
    claims: &[Value],
) -> Result<Usage, StepError> {
    let named = device_usage::asker(claim).filter(|(name, _)| is_plain(name));
    let (Some((name, _)), Some(kind)) = (named, builtin(PODS)) else {
        return Ok(Usage::new());
    };
    let path = listed(&kind.api_version(), &key.namespace, &kind.plural);
    let found = get(context, &format!("{path}?fieldSelector=metadata.name={name}")).await?;
    let pod = found.list("items").first();
    let pod = pod.filter(|pod| device_usage::is_counted(claim, pod, claims));
    Ok(pod.map_or_else(Usage::new, |pod| usage::of(kind, pod, Timestamp::now())))
}

/// Whether the name, which an owner's reference says, can be one of a Pod, and be part of a query.
fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !name.is_empty() && name.chars().all(fits)
}

/// Adds to what is used of that which a quota limits.
fn add(used: &mut Usage, usage: Usage) {
    for (name, amount) in usage {
        if let Some(sum) = used.get_mut(&name) {
            *sum = sum.plus(amount);
        }
    }
}

/// All objects of a list.
async fn all(context: &Context, path: &str) -> Result<Vec<Value>, StepError> {
    let (mut all, mut from) = (Vec::new(), Some(String::new()));
    while let Some(at) = from {
        let page = page(context, path, &at).await?;
        all.extend_from_slice(page.list("items"));
        from = next(&page);
    }
    Ok(all)
}

async fn page(context: &Context, path: &str, from: &str) -> Result<Value, StepError> {
    get(context, &format!("{path}?limit={PAGE}{from}")).await
}

/// How the page after this one is asked for.
fn next(page: &Value) -> Option<String> {
    match page.text("metadata.continue") {
        "" => None,
        token => Some(format!("&continue={token}")),
    }
}

/// How many objects there are of the kind that `count/NAME`, or one of the older names, stands for. `None` when no such
/// kind is served.
async fn number(context: &Context, key: &ObjectKey, resource: &str) -> Result<Option<i64>, StepError> {
    let name = resource.strip_prefix("count/").unwrap_or(resource);
    let found = context.catalog.known().await?;
    let mut served = found.served.iter();
    let Some(kind) = served.find(|s| s.qualified_name() == name && s.namespaced) else {
        return Ok(None);
    };
    let (version, plural) = (&kind.resource.api_version, &kind.resource.plural);
    let path = listed(version, &key.namespace, plural);
    let page = get(context, &format!("{path}?limit=1")).await?;
    let shown = i64::try_from(page.list("items").len()).unwrap_or(i64::MAX);
    let rest = page.int("metadata.remainingItemCount").unwrap_or(0);
    Ok(Some(shown + rest))
}

/// Where all of a namespace are.
fn listed(version: &str, namespace: &str, plural: &str) -> String {
    let root = if version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{version}/namespaces/{namespace}/{plural}")
}

async fn get(context: &Context, path: &str) -> Result<Value, StepError> {
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError);
    let answer = match request {
        Ok(request) => context.client.request(request).await,
        Err(error) => Err(error),
    };
    answer.step(|| format!("list {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_at_once_and_what_is_looked_up() {
        for name in [
            "pods",
            "requests.cpu",
            "services.nodeports",
            "requests.storage",
            "count/pods",
        ] {
            assert!(is_watched(name), "{name}");
        }
        for name in ["configmaps", "count/deployments.apps", "secrets"] {
            assert!(!is_watched(name), "{name}");
        }
    }

    #[test]
    fn what_nothing_counts_for_is_not_told_of() {
        for (name, told) in [
            ("pods", true),
            ("requests.example.com/gpu", true),
            ("requests.deviceclass.resource.kubernetes.io/d", true),
            ("d.deviceclass.resource.k8s.io/devices", true),
            ("deviceclass.resource.kubernetes.io/d", false),
            ("example.com/gpu", false),
            ("configmaps", false),
        ] {
            let hard = Usage::from([(name.to_owned(), Quantity::whole(1))]);
            assert_eq!(none(&hard).contains_key(name), told, "{name}");
        }
    }
}
