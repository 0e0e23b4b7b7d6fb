//! Lets go of PersistentVolumes, claims and VolumeAttributesClasses that are deleted and no longer in use: admission gave
//! each a finalizer that holds it until then (upstream's pv-, pvc- and vac-protection controllers). A class that has none,
//! being from before that, or because somebody took it, is given it here.
//!
//! Guarantees: a claim stays while a Pod on a node names it; a volume stays while it is bound; a class stays while a claim
//! or a volume names it.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::json;

use super::context::Context;
use crate::admission::storage::{ATTRIBUTES_PROTECTION, CLAIM_PROTECTION, VOLUME_PROTECTION};
use crate::toolkit::{Kind, ObjectKey, Objects, Outcome, Queue, StepError, Steps, claims, patch, pods, work};

/// Objects looked at at once.
const WORKERS: usize = 2;

/// Registers for changes and returns the futures that do the work.
pub fn start(context: &Context) -> [BoxFuture<'static, ()>; 3] {
    [claims(context), volumes(context), attributes_classes(context)]
}

fn claims(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .claims
        .on_change(move |change| changed.add(ObjectKey::of(change.object().as_ref())));
    let freed = queue.clone();
    context.watches.pods.on_change(move |change| {
        let pod = change.object();
        let namespace = pod.namespace().unwrap_or_default();
        freed.extend(claims::of_pod(pod).map(|used| ObjectKey::new(namespace.as_str(), used.name)));
    });
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work(
        "claim-protection",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, key| release_claim(context, key).boxed(),
    )
}

fn volumes(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .volumes
        .on_change(move |change| changed.add(ObjectKey::of(change.object().as_ref())));
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work(
        "volume-protection",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, key| release_volume(context, key).boxed(),
    )
}

fn attributes_classes(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .attributes_classes
        .on_change(move |change| changed.add(ObjectKey::of(change.object().as_ref())));
    let freed = queue.clone();
    context.watches.claims.on_change(move |change| {
        for claim in [Some(change.object()), change.old()].into_iter().flatten() {
            freed.extend(claims::attributes_classes(claim).map(ObjectKey::cluster));
        }
    });
    let freed = queue.clone();
    context.watches.volumes.on_change(move |change| {
        for volume in [Some(change.object()), change.old()].into_iter().flatten() {
            freed.extend(claims::attributes_class_of_volume(volume).map(ObjectKey::cluster));
        }
    });
    let context = context.clone();
    let shutdown = context.shutdown.clone();
    work(
        "attributes-class-protection",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, key| protect_attributes_class(context, key).boxed(),
    )
}

async fn release_claim(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(claim) = context.watches.claims.get(&key) else {
        return Ok(Outcome::Done);
    };
    let mut users = context.watches.pods.in_namespace(&key.namespace).into_iter();
    let used = users.any(|pod| pods::node_name(&pod).is_some() && claims::uses(&pod, &key.name));
    let Some(finalizers) = left(&claim.metadata, CLAIM_PROTECTION).filter(|_| !used) else {
        return Ok(Outcome::Done);
    };
    let api = Objects::in_namespace(&context.client, &key.namespace);
    leave(&api, claim.as_ref(), finalizers).await
}

async fn release_volume(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(volume) = context.watches.volumes.get(&key) else {
        return Ok(Outcome::Done);
    };
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(finalizers) = left(&volume.metadata, VOLUME_PROTECTION).filter(|_| phase != Some("Bound"))
    else {
        return Ok(Outcome::Done);
    };
    leave(&Objects::all(&context.client), volume.as_ref(), finalizers).await
}

async fn protect_attributes_class(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(class) = context.watches.attributes_classes.get(&key) else {
        return Ok(Outcome::Done);
    };
    let all = Objects::all(&context.client);
    if let Some(finalizers) = with(&class.metadata, ATTRIBUTES_PROTECTION) {
        return leave(&all, class.as_ref(), finalizers).await;
    }
    let Some(finalizers) = left(&class.metadata, ATTRIBUTES_PROTECTION) else {
        return Ok(Outcome::Done);
    };
    if is_named(context, &key.name) {
        return Ok(Outcome::Done);
    }
    leave(&all, class.as_ref(), finalizers).await
}

/// Whether a volume or a claim names the class of attributes.
fn is_named(context: &Context, class: &str) -> bool {
    let mut volumes = context.watches.volumes.list().into_iter();
    let mut all_claims = context.watches.claims.list().into_iter();
    volumes.any(|volume| claims::attributes_class_of_volume(&volume) == Some(class))
        || all_claims.any(|claim| claims::attributes_classes(&claim).any(|name| name == class))
}

/// Leaves the object these finalizers; one that is gone needs none.
async fn leave<K: Kind>(api: &Objects<K>, object: &K, finalizers: Vec<String>) -> Result<Outcome, StepError> {
    let name = object.name_any();
    let body = patch::guarded(object.meta(), json!({"metadata": {"finalizers": finalizers}}));
    let written = api.merge(&name, body).await;
    written.step_opt(|| format!("set the finalizers of the {} {name}", K::kind(&())))?;
    Ok(Outcome::Done)
}

/// The finalizers and this one, of an object that stays and lacks it.
fn with(meta: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let lacks = meta.deletion_timestamp.is_none() && !finalizers.iter().any(|f| f == finalizer);
    finalizers.push(finalizer.to_owned());
    lacks.then_some(finalizers)
}

/// The finalizers without this one, of an object that is being deleted and has it.
pub(super) fn left(meta: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    meta.deletion_timestamp.as_ref()?;
    let finalizers = meta.finalizers.as_ref()?;
    finalizers.iter().any(|f| f == finalizer).then(|| {
        let rest = finalizers.iter().filter(|f| *f != finalizer);
        rest.cloned().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_being_deleted_is_let_go() {
        let meta = |meta: serde_json::Value| serde_json::from_value::<ObjectMeta>(meta).expect("metadata");
        let held = meta(
            json!({"finalizers": ["a/b", CLAIM_PROTECTION], "deletionTimestamp": "2026-01-01T00:00:00Z"}),
        );
        assert_eq!(left(&held, CLAIM_PROTECTION), Some(vec!["a/b".to_owned()]));
        assert_eq!(left(&held, VOLUME_PROTECTION), None);
        let living = meta(json!({"finalizers": [CLAIM_PROTECTION]}));
        assert_eq!(left(&living, CLAIM_PROTECTION), None);
        assert_eq!(with(&living, CLAIM_PROTECTION), None);
        let both = vec![CLAIM_PROTECTION.to_owned(), VOLUME_PROTECTION.to_owned()];
        assert_eq!(with(&living, VOLUME_PROTECTION), Some(both));
        assert_eq!(with(&held, VOLUME_PROTECTION), None);
    }
}
