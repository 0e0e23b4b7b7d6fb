//! APIServices: one for each group and version that this server serves itself, and for those of other servers whether
//! they answer.
//!
//! Level-triggered by name: what should be registered comes from the table of kinds and the definitions, what is
//! available from Services, their endpoints and a request. Conditions, reasons and messages are upstream's.
mod probe;
mod registration;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::context::Context;
use crate::kinds::Registry;
use crate::kinds::api_service;
use crate::kinds::time::now;
use crate::kinds::view::View;
use crate::toolkit::conditions;
use crate::toolkit::patch::{guarded, to_value};
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};
use registration::Wanted;

/// Services looked after at once: one that does not answer must not keep the others waiting.
const WORKERS: usize = 4;
/// How often another server is asked whether it is still there, when it is and when it is not.
const RECHECK: Duration = Duration::from_secs(30);
const RECHECK_ABSENT: Duration = Duration::from_secs(5);

/// Whether a server can be reached, as its condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    available: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn away(reason: &'static str, message: String) -> Verdict {
        Verdict {
            available: false,
            reason,
            message,
        }
    }

    fn there(reason: &'static str, message: &str) -> Verdict {
        Verdict {
            available: true,
            reason,
            message: message.to_owned(),
        }
    }
}

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let watches = &context.watches;
    let changed = queue.clone();
    watches
        .api_services
        .on_change(move |change| changed.add(change.object().name_any()));
    let (changed, known) = (queue.clone(), watches.clone());
    watches.definitions.on_change(move |change| {
        changed.extend(names(change.object()));
        // Versions that the definition had before.
        let group = &change.object().spec.group;
        let registered = known.api_services.list();
        changed.extend(
            registered
                .iter()
                .filter(|s| group_of(s) == *group)
                .map(|s| s.name_any()),
        );
    });
    let (changed, known) = (queue.clone(), watches.clone());
    watches.services.on_change(move |change| {
        changed.extend(served_by(&known.api_services.list(), &change.object().name_any()))
    });
    let (changed, known) = (queue.clone(), watches.clone());
    watches.slices.on_change(move |change| {
        let service = change.object().labels().get("kubernetes.io/service-name");
        changed.extend(
            service
                .into_iter()
                .flat_map(|name| served_by(&known.api_services.list(), name)),
        );
    });
    let shutdown = context.shutdown.clone();
    queue.extend(builtin());
    work(
        "api-services",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

fn group_of(service: &APIService) -> &str {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.group.as_deref())
        .unwrap_or_default()
}

fn names(definition: &CustomResourceDefinition) -> Vec<String> {
    let group = &definition.spec.group;
    let versions = definition.spec.versions.iter();
    versions.map(|v| format!("{}.{group}", v.name)).collect()
}

fn builtin() -> Vec<String> {
    let served = Registry::builtin().group_versions().into_iter();
    served
        .filter(|(group, _)| *group != api_service::GROUP)
        .map(|(group, version)| format!("{version}.{group}"))
        .collect()
}

/// The APIServices of other servers behind a Service with this name, in whatever namespace.
fn served_by(all: &[Arc<APIService>], service: &str) -> Vec<String> {
    let behind = |s: &&Arc<APIService>| {
        let reference = s.spec.as_ref().and_then(|spec| spec.service.as_ref());
        reference.is_some_and(|r| r.name.as_deref() == Some(service))
    };
    all.iter().filter(behind).map(|s| s.name_any()).collect()
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let definitions = context.watches.definitions.list();
    let wanted = Wanted::of(&name, &definitions);
    let Some(service) = context.watches.api_services.get(&ObjectKey::cluster(&name)) else {
        return register(context, wanted, &name).await;
    };
    let current = to_value(service.as_ref());
    match registration::decide(wanted.as_ref(), &current) {
        registration::Step::Keep => {}
        registration::Step::Remove => return remove(context, &service).await,
        registration::Step::Correct(spec) => {
            let body = guarded(&service.metadata, json!({"spec": spec}));
            let written = objects(context).merge(&name, body).await;
            written.step(|| format!("correct APIService {name}"))?;
            return Ok(Outcome::Done);
        }
    }
    let (verdict, outcome) = match api_service::is_local(&current) {
        true => {
            let (reason, message) = api_service::LOCAL;
            (Verdict::there(reason, message), Outcome::Done)
        }
        false => {
            let verdict = probe::check(context, &current).await;
            let again = if verdict.available {
                RECHECK
            } else {
                RECHECK_ABSENT
            };
            (verdict, Outcome::After(again))
        }
    };
    if let Some(conditions) = conditions(&current, &verdict, &now()) {
        let body = guarded(&service.metadata, json!({"status": {"conditions": conditions}}));
        let written = objects(context).merge_status(&name, body).await;
        written.step(|| format!("write the status of APIService {name}"))?;
        if !verdict.available && was_available(&current) {
            context.options.unavailable.count(&name, verdict.reason);
        }
    }
    Ok(outcome)
}

async fn register(context: &Context, wanted: Option<Wanted>, name: &str) -> Result<Outcome, StepError> {
    let Some(wanted) = wanted else {
        return Ok(Outcome::Done);
    };
    match objects(context).create(&wanted.object(name)).await {
        // The cache is behind: its change brings us back here.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Outcome::Done),
        made => made
            .map(|_| Outcome::Done)
            .step(|| format!("register APIService {name}")),
    }
}

async fn remove(context: &Context, service: &APIService) -> Result<Outcome, StepError> {
    let name = service.name_any();
    let params = DeleteParams::default().preconditions(kube::api::Preconditions {
        uid: service.uid(),
        resource_version: service.resource_version(),
    });
    match objects(context).delete(&name, &params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Outcome::Done),
        gone => gone
            .map(|()| Outcome::Done)
            .step(|| format!("remove APIService {name}")),
    }
}

fn objects(context: &Context) -> Objects<APIService> {
    Objects::all(&context.client)
}

fn was_available(service: &Value) -> bool {
    let mut conditions = service.list("status.conditions").iter();
    conditions.any(|c| c.text("type") == "Available" && c.text("status") == "True")
}

/// The conditions with this verdict; none when they say so already.
fn conditions(current: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let mut status = json!({"conditions": current["status"]["conditions"]});
    let state = if verdict.available { "True" } else { "False" };
    conditions::set(
        &mut status,
        "Available",
        (state, verdict.reason, &verdict.message),
        now,
    );
    let conditions = status["conditions"].take();
    (conditions != current["status"]["conditions"]).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_while_it_says_the_same() {
        let away = Verdict::away("ServiceNotFound", "service/s in \"n\" is not present".to_owned());
        let first = conditions(&json!({}), &away, "T1").expect("new");
        let current = json!({"status": {"conditions": first}});
        assert_eq!(conditions(&current, &away, "T2"), None);
        let other = Verdict::away("MissingEndpoints", String::new());
        let second = conditions(&current, &other, "T2").expect("another reason");
        assert_eq!(second[0]["lastTransitionTime"], "T1");
        let there = conditions(&current, &Verdict::there("Passed", "all checks passed"), "T3");
        assert_eq!(there.expect("changed")[0]["lastTransitionTime"], "T3");
    }
}
