//! Namespace deletion: empties a namespace that is being deleted, then lets it go (spec.finalizers).
//!
//! Pods go first, so that nothing they need disappears under them (KEP-5080). What is left and why shows in the
//! conditions.
mod conditions;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::Value;

use super::context::Context;
use crate::toolkit::catalog::Served;
use crate::toolkit::raw::Raw;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, pods, work};
use conditions::Leftovers;

/// Namespaces emptied at once (upstream's default).
const WORKERS: usize = 10;
/// The finalizer in `spec.finalizers` that this controller answers for.
const FINALIZER: &str = "kubernetes";
/// Objects read at once when counting what is left.
const PAGE: u32 = 500;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let namespaces = queue.clone();
    context.watches.namespaces.on_change(move |change| {
        if is_waiting(change.object()) {
            namespaces.add(change.object().name_any());
        }
    });
    let (waiting, watches) = (queue.clone(), context.watches.clone());
    context.watches.pods.on_change(move |change| {
        let namespace = change.object().namespace().unwrap_or_default();
        let dying = pods::is_dying(change.object());
        if dying
            && watches
                .namespaces
                .get(&ObjectKey::cluster(&namespace))
                .is_some_and(|ns| is_waiting(&ns))
        {
            waiting.add(namespace);
        }
    });
    let shutdown = context.shutdown.clone();
    work("namespace", queue, WORKERS, shutdown, context, |context, name| {
        reconcile(context, name).boxed()
    })
}

fn is_waiting(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers(namespace).any(|finalizer| finalizer == FINALIZER)
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &String> {
    namespace
        .spec
        .iter()
        .flat_map(|spec| spec.finalizers.iter().flatten())
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let key = ObjectKey::cluster(&name);
    let Some(namespace) = context
        .watches
        .namespaces
        .get(&key)
        .filter(|namespace| is_waiting(namespace))
    else {
        return Ok(Outcome::Done);
    };
    let leftovers = empty(context, &name).await?;
    write_status(context, &namespace, &leftovers).await?;
    if !leftovers.is_empty() {
        return Ok(Outcome::Poll);
    }
    finalize(context, &name).await?;
    Ok(Outcome::Done)
}

/// Deletes everything in the namespace and reports what is still there.
async fn empty(context: &Context, namespace: &str) -> Result<Leftovers, StepError> {
    let found = context.catalog.refreshed().await?;
    let deletable =
        |served: &&Served| served.namespaced && served.supports("list") && served.supports("delete");
    let (pods, others): (Vec<&Served>, Vec<&Served>) = found
        .served
        .iter()
        .filter(deletable)
        .partition(|served| served.qualified_name() == "pods");
    let mut leftovers = Leftovers::default();
    leftovers.may_hide_in(found.silent.clone());
    for resources in [pods, others] {
        for resource in resources {
            if let Err(error) = empty_of(context, namespace, resource, &mut leftovers).await {
                leftovers.failed(&error);
            }
        }
        if leftovers.holds_any() {
            break;
        }
    }
    Ok(leftovers)
}

async fn empty_of(
    context: &Context,
    namespace: &str,
    resource: &Served,
    leftovers: &mut Leftovers,
) -> Result<(), StepError> {
    let instances = resource.instances(context.client.clone(), namespace);
    let what = resource.qualified_name();
    let page = ListParams::default().limit(PAGE);
    let present = instances
        .list(&page)
        .await
        .step(|| format!("list {what} in {namespace}"))?;
    if present.items.is_empty() {
        return Ok(());
    }
    let params = DeleteParams::background();
    if resource.supports("deletecollection") {
        let deleted = instances.delete_all(&params).await;
        deleted.step(|| format!("delete {what} in {namespace}"))?;
    } else {
        for object in present.items {
            instances
                .delete(&object.name_any(), &params)
                .await
                .step_opt(|| format!("delete {what} in {namespace}"))?;
        }
    }
    let left = instances
        .list(&page)
        .await
        .step(|| format!("list {what} in {namespace}"))?;
    let more = left
        .metadata
        .remaining_item_count
        .and_then(|more| usize::try_from(more).ok())
        .unwrap_or(0);
    leftovers.remain(
        resource,
        left.items.len() + more,
        left.items.iter().map(|object| object.finalizers()),
    );
    Ok(())
}

async fn write_status(
    context: &Context,
    namespace: &Namespace,
    leftovers: &Leftovers,
) -> Result<(), StepError> {
    let before = namespace.status.clone().unwrap_or_default();
    let after = NamespaceStatus {
        phase: Some("Terminating".into()),
        conditions: Some(conditions::after(
            before.conditions.as_deref(),
            leftovers,
            Timestamp::now(),
        )),
    };
    let Some(body) = patch::versioned(&namespace.metadata, "status", &before, &after) else {
        return Ok(());
    };
    let name = namespace.name_any();
    let api: Objects<Namespace> = Objects::all(&context.client);
    api.merge_status(&name, body)
        .await
        .step_opt(|| format!("write the conditions of namespace {name}"))
        .map(drop)
}

/// The namespace without our finalizer.
fn released(namespace: &Raw) -> Result<Raw, serde_json::Error> {
    let mut value: Value = namespace.parse()?;
    if let Some(finalizers) = value["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    Raw::of(&value)
}

/// Removes our finalizer through `namespaces/finalize`; the API then removes the namespace itself.
async fn finalize(context: &Context, name: &str) -> Result<(), StepError> {
    let api = Objects::<Namespace>::all(&context.client).into_raw();
    // Read anew, and as raw JSON: this is a replacement, and must lose nothing.
    let found = api.get_opt(name).await;
    let Some(namespace) = found.step(|| format!("read namespace {name}"))? else {
        return Ok(());
    };
    let finalized = released(&namespace).map_err(kube::Error::SerdeError);
    let namespace = finalized.step(|| format!("take our finalizer from namespace {name}"))?;
    api.replace_subresource("finalize", name, &PostParams::default(), &namespace)
        .await
        .step_opt(|| format!("finalize namespace {name}"))
        .map(drop)
}
