//! ConfigMap `kube-root-ca.crt`: the cluster CA in every namespace, so that Pods can verify the API server.
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::json;

use super::context::Context;
use super::service_account::is_active;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, patch, work};

pub const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";
/// Namespaces furnished at once.
const WORKERS: usize = 2;

/// Registers for changes and returns the future that does the work; without a CA there is none.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let Some(ca) = context.options.root_ca.clone() else {
        return Box::pin(async {});
    };
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let namespaces = queue.clone();
    context
        .watches
        .namespaces
        .on_change(move |change| namespaces.add(change.object().name_any()));
    let maps = queue.clone();
    context
        .watches
        .root_cas
        .on_change(move |change| maps.add(change.object().namespace().unwrap_or_default()));
    let shutdown = context.shutdown.clone();
    work(
        "root-ca",
        queue,
        WORKERS,
        shutdown,
        (context, ca),
        |(context, ca), name| reconcile(context, ca, name).boxed(),
    )
}

async fn reconcile(context: &Context, ca: &str, namespace: String) -> Result<Outcome, StepError> {
    if !is_active(
        context
            .watches
            .namespaces
            .get(&ObjectKey::cluster(&namespace))
            .as_deref(),
    ) {
        return Ok(Outcome::Done);
    }
    let api: Objects<ConfigMap> = Objects::in_namespace(&context.client, &namespace);
    let data = BTreeMap::from([(FILE.to_owned(), ca.to_owned())]);
    let written = match context.watches.root_cas.get(&ObjectKey::new(&namespace, NAME)) {
        Some(existing) if existing.data.as_ref() == Some(&data) => return Ok(Outcome::Done),
        Some(existing) => {
            let body = patch::guarded(&existing.metadata, json!({"data": data}));
            api.merge(NAME, body).await
        }
        None => api.create(&publication(&namespace, data)).await,
    };
    match written.step(|| format!("publish the cluster CA in {namespace}")) {
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

fn publication(namespace: &str, data: BTreeMap<String, String>) -> ConfigMap {
    let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())]);
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(annotations),
            ..Default::default()
        },
        data: Some(data),
        ..Default::default()
    }
}
