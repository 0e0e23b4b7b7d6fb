//! ServiceAccount `default`: every namespace that is not being deleted has one.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::ResourceExt;
use kube::core::ObjectMeta;

use super::context::Context;
use crate::toolkit::{Change, ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

const NAME: &str = "default";
/// Namespaces furnished at once.
const WORKERS: usize = 2;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let namespaces = queue.clone();
    context
        .watches
        .namespaces
        .on_change(move |change| namespaces.add(change.object().name_any()));
    let accounts = queue.clone();
    context.watches.service_accounts.on_change(move |change| {
        if let Change::Deleted(account) = change {
            accounts.add(account.namespace().unwrap_or_default());
        }
    });
    let shutdown = context.shutdown.clone();
    work(
        "serviceaccount",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

/// Whether the namespace exists and stays.
pub fn is_active(namespace: Option<&Namespace>) -> bool {
    namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none())
}

async fn reconcile(context: &Context, namespace: String) -> Result<Outcome, StepError> {
    let exists = context
        .watches
        .service_accounts
        .get(&ObjectKey::new(&namespace, NAME))
        .is_some();
    let active = is_active(
        context
            .watches
            .namespaces
            .get(&ObjectKey::cluster(&namespace))
            .as_deref(),
    );
    if exists || !active {
        return Ok(Outcome::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.clone()),
            ..Default::default()
        },
        ..Default::default()
    };
    let api: Objects<ServiceAccount> = Objects::in_namespace(&context.client, &namespace);
    match api
        .create(&account)
        .await
        .step(|| format!("create ServiceAccount {namespace}/{NAME}"))
    {
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
        _ => Ok(Outcome::Done),
    }
}
