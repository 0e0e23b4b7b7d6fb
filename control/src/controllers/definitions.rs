//! CustomResourceDefinitions: accepts their names, establishes them, and deletes their objects before they go.
//!
//! Conditions and reasons are upstream's (`NamesAccepted`, `Established`, `KubernetesAPIApprovalPolicyConformant`, `Terminating`).
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::context::Context;
use crate::kinds::custom::{Naming, approval, has_good_authority, settle_names};
use crate::kinds::time::now;
use crate::toolkit::conditions;
use crate::toolkit::patch::{guarded, to_value};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

/// Keeps a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "KubernetesAPIApprovalPolicyConformant";
/// One: two at once could give the same name to both.
const WORKERS: usize = 1;

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let (changed, watches) = (queue.clone(), context.watches.clone());
    context.watches.definitions.on_change(move |change| {
        changed.add(change.object().name_any());
        // A name that is given back may be what another of the group waits for.
        let group = &change.object().spec.group;
        let others = watches.definitions.list();
        changed.extend(
            others
                .iter()
                .filter(|d| d.spec.group == *group && waits(d))
                .map(|d| d.name_any()),
        );
    });
    let shutdown = context.shutdown.clone();
    work(
        "definitions",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

fn waits(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "NamesAccepted" && c.status == "False")
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let Some(definition) = context.watches.definitions.get(&ObjectKey::cluster(&name)) else {
        return Ok(Outcome::Done);
    };
    let leaving = definition.metadata.deletion_timestamp.is_some();
    let held = definition.finalizers().iter().any(|f| f == FINALIZER);
    match (leaving, held) {
        (true, true) => clean(context, &definition).await,
        (true, false) => Ok(Outcome::Done),
        (false, _) => accept(context, &definition).await,
    }
}

async fn accept(context: &Context, definition: &CustomResourceDefinition) -> Result<Outcome, StepError> {
    let own = to_value(definition);
    let others: Vec<Value> = context
        .watches
        .definitions
        .list()
        .iter()
        .filter(|other| other.uid() != definition.uid())
        .map(|other| json!({"spec": {"group": other.spec.group}, "status": to_value(&other.status)}))
        .collect();
    let naming = settle_names(&own, others.iter());
    let now = now();
    let mut status = status(&own["status"], naming, has_good_authority(&own), &now);
    if let Some((state, reason, message)) = approval(&own) {
        conditions::set(&mut status, APPROVAL, (state, reason, &message), &now);
    }
    if status != own["status"] {
        write_status(context, definition, status).await?;
    }
    Ok(Outcome::Done)
}

/// The status of a definition with these names, and with a converter that can be trusted or not. Pure; conditions that
/// did not change keep their time.
fn status(current: &Value, naming: Naming, trusted: bool, now: &str) -> Value {
    let mut status = current.clone();
    if !status.is_object() {
        status = json!({});
    }
    let accepted = match &naming.conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", *reason, message.clone()),
    };
    let good = naming.conflict.is_none();
    status["acceptedNames"] = naming.accepted;
    let (state, reason, message) = accepted;
    conditions::set(&mut status, "NamesAccepted", (state, reason, &message), now);
    let established = conditions::find(&status, "Established").is_some_and(|c| c["status"] == "True");
    let state = match (good, trusted) {
        (false, _) => ("False", "NotAccepted", "not all names are accepted"),
        (true, false) => (
            "False",
            "InvalidCABundle",
            "The conversion webhook CABundle is invalid",
        ),
        (true, true) => (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
    };
    if !established {
        conditions::set(&mut status, "Established", state, now);
    }
    status
}

async fn write_status(
    context: &Context,
    definition: &CustomResourceDefinition,
    status: Value,
) -> Result<CustomResourceDefinition, StepError> {
    let name = definition.name_any();
    let body = guarded(&definition.metadata, json!({"status": status}));
    definitions(context)
        .merge_status(&name, body)
        .await
        .step(|| format!("write the status of definition {name}"))
}

fn definitions(context: &Context) -> Objects<CustomResourceDefinition> {
    Objects::all(&context.client)
}

/// Deletes the objects; when none is left the definition may go.
async fn clean(context: &Context, definition: &CustomResourceDefinition) -> Result<Outcome, StepError> {
    let mut status = to_value(&definition.status);
    let was_established = conditions::find(&status, "Established").is_some_and(|c| c["status"] == "True");
    let left = match was_established {
        true => delete_instances(context, definition).await?,
        false => 0,
    };
    let (state, reason, message) = match (was_established, left) {
        (false, _) => ("False", "NeverEstablished", "resource was never established"),
        (true, 0) => ("False", "InstanceDeletionCompleted", "removed all instances"),
        (true, _) => (
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        ),
    };
    conditions::set(&mut status, "Terminating", (state, reason, message), &now());
    if status == to_value(&definition.status) {
        return Ok(Outcome::Poll);
    }
    let written = write_status(context, definition, status).await?;
    if left > 0 {
        return Ok(Outcome::Poll);
    }
    release(context, &written).await
}

/// Objects that are still there after they were told to go.
async fn delete_instances(
    context: &Context,
    definition: &CustomResourceDefinition,
) -> Result<usize, StepError> {
    let Some(resource) = resource(definition) else {
        return Ok(0);
    };
    let all: kube::Api<DynamicObject> = kube::Api::all_with(context.client.clone(), &resource);
    let what = definition.name_any();
    let listing = || format!("list the objects of definition {what}");
    let found = all.list_metadata(&ListParams::default()).await.step(listing)?;
    let namespaced = definition.spec.scope == "Namespaced";
    let mut namespaces: Vec<String> = found
        .items
        .iter()
        .map(|o| o.namespace().unwrap_or_default())
        .collect();
    namespaces.sort();
    namespaces.dedup();
    for namespace in namespaces {
        let api: kube::Api<DynamicObject> = match namespaced {
            true => kube::Api::namespaced_with(context.client.clone(), &namespace, &resource),
            false => all.clone(),
        };
        api.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .step(|| format!("delete the objects of definition {what}"))?;
    }
    Ok(all
        .list_metadata(&ListParams::default())
        .await
        .step(listing)?
        .items
        .len())
}

/// Any version that is served leads to all objects; the stored one does so without a converter.
fn resource(definition: &CustomResourceDefinition) -> Option<ApiResource> {
    let spec = &definition.spec;
    let served = || spec.versions.iter().filter(|v| v.served);
    let version = &served().find(|v| v.storage).or_else(|| served().next())?.name;
    Some(ApiResource {
        group: spec.group.clone(),
        version: version.clone(),
        api_version: format!("{}/{version}", spec.group),
        kind: spec.names.kind.clone(),
        plural: spec.names.plural.clone(),
    })
}

async fn release(context: &Context, definition: &CustomResourceDefinition) -> Result<Outcome, StepError> {
    let rest: Vec<&String> = definition
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .collect();
    let body = guarded(&definition.metadata, json!({"metadata": {"finalizers": rest}}));
    let name = definition.name_any();
    let released = definitions(context).merge(&name, body).await;
    released
        .step_opt(|| format!("let definition {name} go"))
        .map(|_| Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(conflict: Option<(&'static str, String)>) -> Naming {
        Naming {
            accepted: json!({"plural": "foos", "kind": "Foo"}),
            conflict,
        }
    }

    #[test]
    fn names_without_conflict_establish() {
        let status = status(&Value::Null, naming(None), true, "T1");
        assert_eq!(status["conditions"][0]["reason"], "NoConflicts");
        assert_eq!(status["conditions"][1]["status"], "True");
        let again = super::status(&status, naming(None), true, "T2");
        assert_eq!(again, status, "nothing new");
        let distrusted = super::status(&status, naming(None), false, "T2");
        assert_eq!(distrusted, status, "it stays established");
    }

    #[test]
    fn a_conflict_keeps_from_establishing_but_does_not_end_it() {
        let conflict = || Some(("KindConflict", "\"Foo\" is already in use".to_owned()));
        let fresh = status(&Value::Null, naming(conflict()), true, "T1");
        assert_eq!(fresh["conditions"][1]["reason"], "NotAccepted");
        let established = status(&Value::Null, naming(None), true, "T1");
        let later = status(&established, naming(conflict()), true, "T2");
        assert_eq!(later["conditions"][0]["status"], "False");
        assert_eq!(later["conditions"][1]["status"], "True");
    }

    #[test]
    fn a_converter_that_cannot_be_trusted_keeps_from_establishing_until_it_can() {
        let fresh = status(&Value::Null, naming(None), false, "T1");
        let established = |status: &Value| conditions::find(status, "Established").cloned().expect("there");
        assert_eq!(established(&fresh)["reason"], "InvalidCABundle");
        assert_eq!(established(&fresh)["status"], "False");
        let mended = status(&fresh, naming(None), true, "T2");
        assert_eq!(established(&mended)["status"], "True");
    }
}
