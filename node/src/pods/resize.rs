//! Resizing a running Pod (KEP-1287): which resources its containers are given until the node agrees to others, and what a
//! change means for a container. Pure; the worker carries it out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::observed::Observed;
use super::record::Record;
use super::view::PodView;

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

/// From what an attempt was given to what its container is to have.
pub fn change(container: &Container, record: &Record) -> Change {
    // An attempt of an older agent: what it was given is not known.
    let Some(given) = &record.resources else {
        return Change::None;
    };
    let wanted = own(container);
    let changed: Vec<&str> = RESOURCES
        .into_iter()
        .filter(|r| differs(given, &wanted, r))
        .collect();
    let restarts = |resource: &&str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|p| p.resource_name == *resource && p.restart_policy == "RestartContainer")
    };
    match changed.iter().any(restarts) {
        _ if changed.is_empty() => Change::None,
        true => Change::Restart,
        false => Change::InPlace,
    }
}

fn differs(one: &ResourceRequirements, other: &ResourceRequirements, resource: &str) -> bool {
    let of = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().and_then(|l| l.get(resource).cloned());
    of(&one.requests) != of(&other.requests) || of(&one.limits) != of(&other.limits)
}

/// Whether `wanted` gives a container other resources than `allocated`.
pub fn is_resized(allocated: &Pod, wanted: &Pod) -> bool {
    let (Some(allocated), Some(wanted)) = (PodView::new(allocated), PodView::new(wanted)) else {
        return false;
    };
    wanted.containers().any(|(container, _)| {
        let before = allocated.container(&container.name);
        before.is_some_and(|(before, _)| {
            RESOURCES
                .iter()
                .any(|r| differs(&own(&before), &own(container), r))
        })
    })
}

/// `wanted` with the resources that its containers have in `allocated`.
pub fn keep(allocated: &Pod, wanted: &Pod) -> Pod {
    let given = |name: &str| {
        let before = PodView::new(allocated)?.container(name)?;
        before.0.resources.clone()
    };
    give(wanted, |container| given(&container.name))
}

/// `wanted` with what its running attempts were given.
pub fn recall(wanted: &Pod, seen: &Observed) -> Pod {
    give(wanted, |container| {
        let last = seen.containers.get(&container.name).and_then(|s| s.last.as_ref());
        let given = last.filter(|r| r.is_running()).and_then(|r| r.resources.clone());
        given.or_else(|| container.resources.clone())
    })
}

fn give(pod: &Pod, resources: impl Fn(&Container) -> Option<ResourceRequirements>) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
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
        let differs = last.is_running() && change(container, last) != Change::None;
        (differs || seen.restart_due).then(|| seen.resize_failed.as_ref().map(|f| f.message.clone()))
    });
    open.reduce(|one, other| one.or(other))
}

/// A running Wasm guest whose limits would have to change under it.
pub fn fixed_guest<'a>(pod: PodView<'a>, seen: &Observed) -> Option<&'a str> {
    let mut guests = pod.containers().filter(|(container, _)| {
        let last = seen.containers.get(&container.name).and_then(|s| s.last.as_ref());
        last.is_some_and(|r| r.is_running() && r.is_wasm() && change(container, r) == Change::InPlace)
    });
    guests.next().map(|(container, _)| container.name.as_str())
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
        let wanted = |resources: Value| pod(resources).spec.unwrap().containers[0].clone();
        assert_eq!(
            change(&wanted(given.clone()), &attempt),
            Change::None,
            "not known"
        );
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
            assert_eq!(change(&wanted(resources.clone()), &attempt), means, "{resources}");
        }
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
