//! ValidatingAdmissionPolicies: says in their status what is wrong with their expressions, going by the schemas of what
//! they match.
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::ResourceExt;
use serde_json::json;

use super::context::Context;
use crate::kinds::{Registry, custom, policy};
use crate::toolkit::patch::{guarded, to_value};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

const WORKERS: usize = 1;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let changed = queue.clone();
    context
        .watches
        .policies
        .on_change(move |change| changed.add(change.object().name_any()));
    let shutdown = context.shutdown.clone();
    work("policies", queue, WORKERS, shutdown, context, |context, name| {
        reconcile(context, name).boxed()
    })
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let Some(found) = context.watches.policies.get(&ObjectKey::cluster(&name)) else {
        return Ok(Outcome::Done);
    };
    let observed = found
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    if observed >= found.metadata.generation {
        return Ok(Outcome::Done);
    }
    let definitions = context.watches.definitions.list();
    let customs = definitions
        .iter()
        .flat_map(|d| custom::kinds(&to_value(d.as_ref())));
    let registry = Registry::builtin().extended(customs.collect());
    let warnings = policy::warnings(&to_value(&found.spec), &registry);
    let mut checked = json!({});
    if !warnings.is_empty() {
        checked["expressionWarnings"] = warnings.into();
    }
    let status = json!({"observedGeneration": found.metadata.generation, "typeChecking": checked});
    let body = guarded(&found.metadata, json!({"status": status}));
    let policies: Objects<ValidatingAdmissionPolicy> = Objects::all(&context.client);
    let written = policies.merge_status(&name, body).await;
    written
        .step_opt(|| format!("write the status of policy {name}"))
        .map(|_| Outcome::Done)
}
