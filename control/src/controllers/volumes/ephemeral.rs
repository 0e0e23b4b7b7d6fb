//! Claims of Pods' own (`volumes[].ephemeral`, KEP-1698): made from the Pod's template, owned by the Pod, and gone with it.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::WORKERS;
use crate::controllers::context::Context;
use crate::toolkit::patch::to_value;
use crate::toolkit::{
    Change, ObjectKey, Objects, Outcome, Pod, Queue, Recorder, StepError, Steps, claims, owners, pods, work,
};

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context.watches.pods.on_change(move |change| {
        let pod = change.object();
        let of_its_own = claims::of_pod(pod).any(|used| used.own);
        if of_its_own && matches!(change, Change::Added(_)) {
            changed.add(ObjectKey::of(pod.as_ref()));
        }
    });
    let (changed, pods) = (queue.clone(), context.watches.pods.clone());
    context.watches.claims.on_change(move |change| {
        // A claim that somebody deleted is made again while its Pod is there.
        let claim = change.object();
        let owner = owners::controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod");
        if let (Change::Deleted(_), Some(owner)) = (change, owner) {
            let key = ObjectKey::new(claim.namespace().unwrap_or_default(), owner.name.as_str());
            pods.get(&key).into_iter().for_each(|_| changed.add(key.clone()));
        }
    });
    let maker = (context.clone(), context.events.recorder("ephemeral_volume"));
    let shutdown = context.shutdown.clone();
    work(
        "ephemeral-volumes",
        queue,
        WORKERS,
        shutdown,
        maker,
        |(context, events), key| reconcile(context, events, key).boxed(),
    )
}

async fn reconcile(context: &Context, events: &Recorder, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(pod) = context.watches.pods.get(&key).filter(|pod| !pods::is_dying(pod)) else {
        return Ok(Outcome::Done);
    };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    let its_own = volumes.unwrap_or_default().iter();
    for volume in its_own.filter(|volume| volume.ephemeral.is_some()) {
        let name = format!("{}-{}", key.name, volume.name);
        match context
            .watches
            .claims
            .get(&ObjectKey::new(key.namespace.as_str(), name.as_str()))
        {
            Some(claim) if owners::controller_uid(claim.as_ref()) == pod.uid() => {}
            Some(_) => {
                let (volume, key) = (&volume.name, &key);
                let text = format!(
                    "ephemeral volume {volume}: PVC {}/{name} was not created for pod {key} (pod is not owner)",
                    key.namespace
                );
                events.warning(pod.as_ref(), "FailedBinding", text);
                return Ok(Outcome::Poll);
            }
            None => create(context, events, &pod, &volume.name, &name).await?,
        }
    }
    Ok(Outcome::Done)
}

async fn create(
    context: &Context,
    events: &Recorder,
    pod: &Pod,
    volume: &str,
    name: &str,
) -> Result<(), StepError> {
    let (namespace, pod_name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let Some(claim) = wanted(context, pod, volume, name).await? else {
        return Ok(());
    };
    let api: Objects<PersistentVolumeClaim> = Objects::in_namespace(&context.client, &namespace);
    let made = api.create(&claim).await;
    let made = made.step(|| format!("create claim {name} of Pod {namespace}/{pod_name}"));
    match made {
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => {
            let text = format!(
                "ephemeral volume {volume}: create PVC {name}: {}",
                error.message()
            );
            events.warning(pod, "FailedBinding", text);
            Err(error)
        }
        Ok(_) => Ok(()),
    }
}

/// The claim by the Pod's template. The cache keeps no templates, so the Pod is read whole.
async fn wanted(context: &Context, pod: &Pod, volume: &str, name: &str) -> Result<Option<Value>, StepError> {
    type Whole = k8s_openapi::api::core::v1::Pod;
    let namespace = pod.namespace().unwrap_or_default();
    let api: Objects<Whole> = Objects::in_namespace(&context.client, &namespace);
    let whole = api.get_opt(&pod.name_any()).await;
    let whole = whole.step(|| format!("read Pod {namespace}/{}", pod.name_any()))?;
    let spec = whole
        .filter(|whole| whole.metadata.uid == pod.uid())
        .and_then(|whole| whole.spec);
    let source = spec.into_iter().flat_map(|spec| spec.volumes.unwrap_or_default());
    let mut source = source.filter(|source| source.name == volume);
    let template = source
        .next()
        .and_then(|source| source.ephemeral?.volume_claim_template);
    Ok(template.map(|template| {
        let meta = template.metadata.unwrap_or_default();
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "annotations": meta.annotations, "labels": meta.labels,
                "ownerReferences": [owners::controller_reference(pod)]},
            "spec": to_value(&template.spec),
        })
    }))
}
