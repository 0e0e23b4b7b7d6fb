//! Deletes bootstrap tokens when they have ended (upstream's token cleaner).
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};

use super::super::context::Context;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

/// There is no hurry: who shows one that has ended is not let in.
const WORKERS: usize = 1;

pub(super) fn start(context: &Context) -> BoxFuture<'static, ()> {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .bootstrap_tokens
        .on_change(move |change| changed.add(ObjectKey::of(change.object().as_ref())));
    let (context, shutdown) = (context.clone(), context.shutdown.clone());
    work(
        "token-cleaner",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, key| reconcile(context, key).boxed(),
    )
}

async fn reconcile(context: &Context, key: ObjectKey) -> Result<Outcome, StepError> {
    let Some(secret) = context.watches.bootstrap_tokens.get(&key) else {
        return Ok(Outcome::Done);
    };
    let Some(end) = super::end(&secret) else {
        return Ok(Outcome::Done);
    };
    if let Ok(left) = Duration::try_from(end.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        return Ok(Outcome::After(left));
    }
    let api: Objects<Secret> = Objects::in_namespace(&context.client, &key.namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: secret.uid(),
        resource_version: None,
    });
    let deleted = api.delete(&key.name, &params).await;
    match deleted.step_opt(|| format!("delete the bootstrap token {key}")) {
        // Another one has its name.
        Err(error) if error.is_conflict() => Ok(Outcome::Done),
        deleted => deleted.map(|_| Outcome::Done),
    }
}
