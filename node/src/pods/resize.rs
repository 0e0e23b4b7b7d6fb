//! Resizing a running Pod (KEP-1287): which resources its containers are given until the node agrees to others, and what a
//! change means for a container. What the Pod has as a whole (KEP-5419) goes with each of its containers. Pure; the worker
//! carries it out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::observed::{Due, Observed};
use super::record::Record;
use super::view::PodView;
use crate::bundle::resources::memory_limit;

const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Why a resize has to wait: the condition `PodResizePending`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
}

impl Pending {
    pub fn infeasible(message: String) -> Self {
        Pending {
            reason: "Infeasible",
            message,
        }
    }

    pub fn deferred(message: String) -> Self {
        Pending {
            reason: "Deferred",
            message,
        }
    }
}

/// A resize that the host refused, and when it is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    pub message: String,
    pub retry_at: Timestamp,
}

/// What other resources mean for a running container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    InPlace,
    /// `resizePolicy` wants a restart for one of the resources that change.
    Restart,
}

fn own(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// From what an attempt, and its Pod with it, was given to what they are to have.
pub fn change(pod: PodView<'_>, container: &Container, record: &Record) -> Change {
    // An attempt of an older agent: what it was given is not known.
    let Some(given) = &record.resources else {
        return Change::None;
    };
    let wanted = own(container);
    let changed: Vec<&str> = RESOURCES
        .into_iter()
        .filter(|r| differs(given, &wanted, r))
        .collect();
    let around = pod.spec.resources.is_some() && is_other(&record.pod_resources, &pod.spec.resources);
    let restarts = |resource: &&str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == *resource && p.restart_policy == "RestartContainer")
    };
    match changed.iter().any(restarts) {
        _ if changed.is_empty() && !around => Change::None,
        true => Change::Restart,
        false => Change::InPlace,
    }
}

fn differs(one: &ResourceRequirements, other: &ResourceRequirements, resource: &str) -> bool {
    let of = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().and_then(|l| l.get(resource).cloned());
    of(&one.requests) != of(&other.requests) || of(&one.limits) != of(&other.limits)
}

fn is_other(one: &Option<ResourceRequirements>, other: &Option<ResourceRequirements>) -> bool {
    let [one, other] = [one, other].map(|r| r.clone().unwrap_or_default());
    RESOURCES.iter().any(|r| differs(&one, &other, r))
}

/// The limit of memory that a running attempt is to come down to, if it is. One without its own has its Pod's.
pub fn less_memory(pod: PodView<'_>, container: &Container, record: &Record) -> Option<u64> {
    let limit = |own: &Option<ResourceRequirements>, around: &Option<ResourceRequirements>| {
        u64::try_from(memory_limit(own.as_ref(), around.as_ref())?).ok()
    };
    let wanted = limit(&container.resources, &pod.spec.resources)?;
    let less = limit(&record.resources, &record.pod_resources).is_none_or(|given| wanted < given);
    less.then_some(wanted)
}

/// Whether `wanted` gives the Pod, or a container, other resources than `allocated`.
pub fn is_resized(allocated: &Pod, wanted: &Pod) -> bool {
    let (Some(allocated), Some(wanted)) = (PodView::new(allocated), PodView::new(wanted)) else {
        return false;
    };
    is_other(&allocated.spec.resources, &wanted.spec.resources)
        || wanted.containers().any(|(container, _)| {
            let before = allocated.container(&container.name);
            before.is_some_and(|(before, _)| is_other(&before.resources, &container.resources))
        })
}

/// `wanted` with the resources that it and its containers have in `allocated`.
pub fn keep(allocated: &Pod, wanted: &Pod) -> Pod {
    let given = |name: &str| {
        let before = PodView::new(allocated)?.container(name)?;
        before.0.resources.clone()
    };
    let around = allocated.spec.as_ref().and_then(|spec| spec.resources.clone());
    give(wanted, around, |container| given(&container.name))
}

/// `wanted` with what its running attempts were given.
pub fn recall(wanted: &Pod, seen: &Observed) -> Pod {
    let running = seen.containers.values().filter_map(|s| s.last.as_ref());
    let mut running = running.filter(|r| r.is_running());
    let around = running.find_map(|r| r.pod_resources.clone());
    let around = around.or_else(|| wanted.spec.as_ref()?.resources.clone());
    give(wanted, around, |container| {
        let last = seen.containers.get(&container.name).and_then(|s| s.last.as_ref());
        let given = last.filter(|r| r.is_running()).and_then(|r| r.resources.clone());
        given.or_else(|| container.resources.clone())
    })
}

fn give(
    pod: &Pod,
    around: Option<ResourceRequirements>,
    resources: impl Fn(&Container) -> Option<ResourceRequirements>,
) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.resources = around;
        let all = spec
            .init_containers
            .iter_mut()
            .flatten()
            .chain(&mut spec.containers);
        all.for_each(|container| container.resources = resources(container));
    }
    pod
}

/// Whether a container still has to be brought to what the Pod was promised, and why that failed.
pub fn in_progress(pod: PodView<'_>, seen: &Observed) -> Option<Option<String>> {
    let open = pod.containers().filter_map(|(container, _)| {
        let seen = seen.containers.get(&container.name)?;
        let last = seen.last.as_ref()?;
        let differs = last.is_running() && change(pod, container, last) != Change::None;
        (differs || seen.due == Some(Due::Resize))
            .then(|| seen.resize_failed.as_ref().map(|f| f.message.clone()))
    });
    open.reduce(|one, other| one.or(other))
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(rename = "initContainers", skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Given<'a>>,
    containers: Vec<Given<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Given<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// What an Event says of a resize: upstream's words, and the resources as JSON.
pub fn told(pod: PodView<'_>, what: &str, error: &str) -> String {
    fn given(containers: &[Container]) -> Vec<Given<'_>> {
        let of = containers.iter().map(|c| Given {
            name: &c.name,
            resources: own(c),
        });
        of.collect()
    }
    let summary = Summary {
        init_containers: given(pod.init_containers()),
        containers: given(&pod.spec.containers),
        generation: pod.pod.metadata.generation.unwrap_or_default(),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(text) => format!("Pod resize {what}: {text}"),
        Err(_) => format!("Pod resize {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::State;
    use crate::pods::record::tests::record;
    use serde_json::{Value, json};

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [
            {"name": "c", "resources": resources,
             "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_change_is_in_place_or_restarts() {
        let given = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        let mut attempt = record("c", 0, State::Created);
        let wanted = |resources: Value, attempt: &Record| {
            let pod = pod(resources);
            let view = PodView::new(&pod).unwrap();
            change(view, &view.spec.containers[0], attempt)
        };
        assert_eq!(wanted(given.clone(), &attempt), Change::None, "not known");
        attempt.resources = Some(serde_json::from_value(given.clone()).unwrap());
        for (resources, means) in [
            (given, Change::None),
            (
                json!({"requests": {"cpu": "2", "memory": "1Gi"}}),
                Change::InPlace,
            ),
            (
                json!({"requests": {"cpu": "2", "memory": "2Gi"}}),
                Change::Restart,
            ),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "3"}}),
                Change::InPlace,
            ),
        ] {
            assert_eq!(wanted(resources.clone(), &attempt), means, "{resources}");
        }
    }

    #[test]
    fn memory_that_is_taken_back_is_known_before_it_is() {
        let mut attempt = record("c", 0, State::Created);
        let limits = |limits: &Value| serde_json::from_value(json!({"limits": limits})).unwrap();
        let (none, one, two) = (json!({}), json!({"memory": "1Ki"}), json!({"memory": "2Ki"}));
        // What the container was given and is to have, and the Pod around it.
        for (given, wanted, around, expected) in [
            (&two, &one, [&none, &none], Some(1024)),
            (&none, &one, [&none, &none], Some(1024)),
            (&one, &one, [&none, &none], None),
            (&one, &two, [&none, &none], None),
            (&one, &none, [&none, &none], None),
            (&none, &none, [&two, &one], Some(1024)),
            (&none, &none, [&one, &two], None),
            (&one, &one, [&two, &one], None),
        ] {
            attempt.resources = Some(limits(given));
            attempt.pod_resources = Some(limits(around[0]));
            let mut pod = pod(json!({"limits": wanted}));
            pod.spec.as_mut().unwrap().resources = Some(limits(around[1]));
            let view = PodView::new(&pod).unwrap();
            assert_eq!(
                less_memory(view, &view.spec.containers[0], &attempt),
                expected,
                "{given} {wanted} {around:?}"
            );
        }
    }

    #[test]
    fn what_the_pod_has_as_a_whole_changes_in_place() {
        let given = json!({"requests": {"cpu": "1"}});
        let around = |cpu: &str| {
            let mut pod = pod(given.clone());
            let limits = json!({"limits": {"cpu": cpu}});
            pod.spec.as_mut().unwrap().resources = serde_json::from_value(limits).unwrap();
            pod
        };
        let (before, wanted) = (around("1"), around("2"));
        assert!(is_resized(&before, &wanted));
        assert_eq!(keep(&before, &wanted), before);
        let attempt = Record {
            resources: serde_json::from_value(given.clone()).unwrap(),
            pod_resources: before.spec.as_ref().unwrap().resources.clone(),
            ..record(
                "c",
                0,
                State::Running {
                    started_at: Timestamp::UNIX_EPOCH,
                },
            )
        };
        for (pod, means) in [(&before, Change::None), (&wanted, Change::InPlace)] {
            let view = PodView::new(pod).unwrap();
            assert_eq!(change(view, &view.spec.containers[0], &attempt), means);
        }
        let mut seen = Observed::default();
        seen.containers.entry("c".into()).or_default().last = Some(attempt);
        assert_eq!(
            recall(&wanted, &seen),
            before,
            "a later agent knows what was given"
        );
        let view = PodView::new(&wanted).unwrap();
        assert_eq!(in_progress(view, &seen), Some(None));
    }

    #[test]
    fn until_it_is_agreed_a_pod_keeps_what_it_has() {
        let (before, wanted) = (
            pod(json!({"limits": {"cpu": "1"}})),
            pod(json!({"limits": {"cpu": "2"}})),
        );
        assert!(is_resized(&before, &wanted) && !is_resized(&before, &before));
        assert_eq!(keep(&before, &wanted), before);
        assert_eq!(recall(&wanted, &Observed::default()), wanted, "nothing runs yet");
    }

    #[test]
    fn events_name_what_was_asked() {
        let pod = pod(json!({"limits": {"cpu": "2"}}));
        assert_eq!(
            told(PodView::new(&pod).unwrap(), "started", ""),
            "Pod resize started: {\"containers\":[{\"name\":\"c\",\"resources\":{\"limits\":{\"cpu\":\"2\"}}}],\"generation\":2}"
        );
    }
}
