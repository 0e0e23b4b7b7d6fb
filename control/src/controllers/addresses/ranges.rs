//! ServiceCIDRs: ready with a finalizer, and gone when no Service has an address that would be in no range then; the
//! one of the range that the cluster was started with comes back.
//!
//! Conditions and messages are upstream's. No time passes before the finalizer goes: an address is only given away in a
//! transaction that proves that its range is as it was.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{contains, is_ours};
use crate::admission::services::address::{ALLOCATOR, MANAGED_BY};
use crate::admission::services::ranges::{DEFAULT, READY};
use crate::controllers::context::Context;
use crate::controllers::protection;
use crate::kinds::time::now;
use crate::toolkit::patch::{guarded, to_value};
use crate::toolkit::{Change, Kind, ObjectKey, Objects, Outcome, Queue, StepError, Steps, conditions, work};

/// Keeps a range until nothing needs it.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// One: of two ranges that overlap each would let go for the sake of the other.
const WORKERS: usize = 1;
const PAGE: u32 = 500;

/// Status, reason and message of the condition.
type Condition = (&'static str, &'static str, &'static str);
const USABLE: Condition = ("True", "", "Kubernetes Service CIDR is ready");
const LEAVING: Condition = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
);

/// The object of the range that the cluster was started with.
pub fn default_range(cidr: IpNet) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": DEFAULT, "finalizers": [FINALIZER]},
        "spec": {"cidrs": [cidr.trunc()]},
    })
}

pub(super) fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let watches = &context.watches;
    let (changed, known) = (queue.clone(), watches.clone());
    watches.service_ranges.on_change(move |change| {
        changed.add(change.object().name_any());
        changed.extend(leaving(&known.service_ranges.list()));
    });
    let (freed, known) = (queue.clone(), watches.clone());
    watches.addresses.on_change(move |change| {
        if let Change::Deleted(_) = change {
            freed.extend(leaving(&known.service_ranges.list()));
        }
    });
    let shutdown = context.shutdown.clone();
    work(
        "service-ranges",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

fn leaving(all: &[Arc<ServiceCIDR>]) -> Vec<String> {
    let leaving = all.iter().filter(|range| is_leaving(range));
    leaving.map(|range| range.name_any()).collect()
}

fn is_leaving(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some()
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    match context.watches.service_ranges.get(&ObjectKey::cluster(&name)) {
        Some(range) if is_leaving(&range) => let_go(context, &range).await?,
        Some(range) => keep(context, &range).await?,
        None if name == DEFAULT => bring_back(context).await?,
        None => {}
    }
    Ok(Outcome::Done)
}

async fn bring_back(context: &Context) -> Result<(), StepError> {
    let Some(cidr) = context.options.service_cidr else {
        return Ok(());
    };
    let ranges: Objects<ServiceCIDR> = Objects::all(&context.client);
    let created = ranges.create(&default_range(cidr)).await;
    created
        .step(|| format!("create the ServiceCIDR {DEFAULT}"))
        .map(drop)
}

async fn keep(context: &Context, range: &ServiceCIDR) -> Result<(), StepError> {
    if !range.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let mut finalizers = range.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        // What comes of it is looked at next.
        return set_finalizers(context, range, finalizers).await;
    }
    tell(context, range, USABLE).await
}

async fn let_go(context: &Context, range: &ServiceCIDR) -> Result<(), StepError> {
    let Some(finalizers) = protection::left(&range.metadata, FINALIZER) else {
        return Ok(());
    };
    let watches = &context.watches;
    let mut needed = is_needed(range, &watches.addresses.list(), &watches.service_ranges.list());
    if !needed {
        // What was given away last may not be known here yet.
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={ALLOCATOR}"));
        let addresses = all_now::<IPAddress>(context, ours).await?;
        let ranges = all_now::<ServiceCIDR>(context, ListParams::default()).await?;
        needed = is_needed(range, &addresses, &ranges);
    }
    match needed {
        true => tell(context, range, LEAVING).await,
        false => set_finalizers(context, range, finalizers).await,
    }
}

async fn all_now<K: Kind>(context: &Context, list: ListParams) -> Result<Vec<Arc<K>>, StepError> {
    let objects: Objects<K> = Objects::all(&context.client);
    let (mut page, mut all) = (list.limit(PAGE), Vec::new());
    loop {
        let listed = objects.list(&page).await;
        let (items, next) = listed.step(|| format!("list {}", K::plural(&())))?;
        all.extend(items.into_iter().map(Arc::new));
        let Some(next) = next else {
            return Ok(all);
        };
        page = page.continue_token(&next);
    }
}

/// Whether an address of a Service would be in no range without this one. Pure.
fn is_needed(range: &ServiceCIDR, addresses: &[Arc<IPAddress>], ranges: &[Arc<ServiceCIDR>]) -> bool {
    let others: Vec<_> = ranges
        .iter()
        .filter(|other| other.uid() != range.uid() && !is_leaving(other))
        .collect();
    let ips = addresses.iter().filter(|address| is_ours(address));
    let mut ips = ips.filter_map(|address| address.name_any().parse().ok());
    ips.any(|ip| contains(range, ip) && !others.iter().any(|other| contains(other, ip)))
}

async fn set_finalizers(
    context: &Context,
    range: &ServiceCIDR,
    finalizers: Vec<String>,
) -> Result<(), StepError> {
    let name = range.name_any();
    let body = guarded(&range.metadata, json!({"metadata": {"finalizers": finalizers}}));
    let ranges: Objects<ServiceCIDR> = Objects::all(&context.client);
    let written = ranges.merge(&name, body).await;
    let written = written.step_opt(|| format!("write the finalizers of the ServiceCIDR {name}"));
    written.map(drop)
}

/// Writes the condition where it says something else.
async fn tell(context: &Context, range: &ServiceCIDR, condition: Condition) -> Result<(), StepError> {
    let mut status = to_value(&range.status);
    let (state, reason, message) = condition;
    let said = conditions::find(&status, READY);
    if said
        .is_some_and(|said| said["status"] == state && said["reason"] == reason && said["message"] == message)
    {
        return Ok(());
    }
    conditions::set(&mut status, READY, condition, &now());
    let name = range.name_any();
    let body = guarded(&range.metadata, json!({ "status": status }));
    let ranges: Objects<ServiceCIDR> = Objects::all(&context.client);
    let written = ranges.merge_status(&name, body).await;
    let written = written.step_opt(|| format!("write the status of the ServiceCIDR {name}"));
    written.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidr: &str, leaving: bool) -> Arc<ServiceCIDR> {
        let since = leaving.then_some("2026-01-01T00:00:00Z");
        let meta = json!({"name": name, "uid": name, "deletionTimestamp": since});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": {"cidrs": [cidr]}})).unwrap())
    }

    fn address(ip: &str, by: &str) -> Arc<IPAddress> {
        let meta = json!({"name": ip, "labels": {MANAGED_BY: by}});
        let spec = json!({"parentRef": {"resource": "services", "name": "s"}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    }

    #[test]
    fn a_range_is_needed_while_a_service_has_an_address_of_no_other() {
        let own = range("own", "10.1.0.0/24", true);
        let ours = || vec![address("10.1.0.5", ALLOCATOR)];
        for (addresses, other, want) in [
            (vec![], None, false),
            (ours(), None, true),
            (vec![address("10.1.0.5", "me")], None, false),
            (vec![address("10.2.0.5", ALLOCATOR)], None, false),
            (ours(), Some(range("b", "10.1.0.0/16", false)), false),
            (ours(), Some(range("b", "10.1.0.0/16", true)), true),
            (ours(), Some(range("b", "10.1.0.128/25", false)), true),
        ] {
            let mut ranges = vec![own.clone()];
            ranges.extend(other);
            assert_eq!(
                is_needed(&own, &addresses, &ranges),
                want,
                "{addresses:?} {ranges:?}"
            );
        }
    }
}
