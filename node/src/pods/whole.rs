//! What a Pod as a whole has of the node, as its status tells it: `status.resources`, with what runs, and
//! `status.allocatedResources`, as promised (KEP-5419; the kubelet's words for every Pod since 1.36). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::observed::{Observed, Seen};
use super::record::Record;
use super::view::PodView;
use crate::quantity;

type List = BTreeMap<String, Quantity>;

/// Fewer thousandths of a processor than this are no share of one: the kernel's least.
const LEAST_CPU: i64 = 2;

/// Requests or limits, of whatever has them.
type Side = fn(&ResourceRequirements) -> Option<&List>;

fn requests(resources: &ResourceRequirements) -> Option<&List> {
    resources.requests.as_ref()
}

fn limits(resources: &ResourceRequirements) -> Option<&List> {
    resources.limits.as_ref()
}

/// Resources that a Pod can say for all its containers.
fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Who was given what: the Pod itself, and each container.
struct Given<'a> {
    pod: Option<&'a ResourceRequirements>,
    of: &'a dyn Fn(&'a Container) -> Option<&'a ResourceRequirements>,
}

impl<'a> Given<'a> {
    /// Containers and sidecars together, or an init container beside the sidecars before it, unless the Pod says it for all.
    fn together(&self, spec: &'a PodSpec, side: Side) -> List {
        let of = |container: &'a Container| (self.of)(container).and_then(side);
        let mut all = List::new();
        spec.containers
            .iter()
            .filter_map(of)
            .for_each(|list| add(&mut all, list));
        let (mut sidecars, mut peak) = (List::new(), List::new());
        for container in spec.init_containers.iter().flatten() {
            let Some(own) = of(container) else { continue };
            let mut together = sidecars.clone();
            add(&mut together, own);
            if container.restart_policy.as_deref() == Some("Always") {
                add(&mut all, own);
                sidecars.clone_from(&together);
            }
            raise(&mut peak, &together);
        }
        raise(&mut all, &peak);
        let own = self.pod.and_then(side).into_iter().flatten();
        let own = own.filter(|(name, _)| is_of_pods(name));
        all.extend(own.map(|(name, amount)| (name.clone(), amount.clone())));
        all
    }

    fn requests(&self, spec: &'a PodSpec) -> List {
        let mut all = self.together(spec, requests);
        spec.overhead.iter().for_each(|overhead| add(&mut all, overhead));
        all
    }

    /// The overhead makes limits larger, and no new ones.
    fn limits(&self, spec: &'a PodSpec) -> List {
        let mut all = self.together(spec, limits);
        for (name, more) in spec.overhead.iter().flatten() {
            if let Some(limit) = all.get_mut(name).filter(|limit| !quantity::is_zero(limit)) {
                *limit = quantity::plus(limit, more);
            }
        }
        all
    }
}

fn add(list: &mut List, more: &List) {
    for (name, amount) in more {
        let sum = match list.get(name) {
            Some(has) => quantity::plus(has, amount),
            None => amount.clone(),
        };
        list.insert(name.clone(), sum);
    }
}

fn raise(list: &mut List, least: &List) {
    for (name, amount) in least {
        let is_less = |has: &Quantity| quantity::milli(has) < quantity::milli(amount);
        if list.get(name).is_none_or(is_less) {
            list.insert(name.clone(), amount.clone());
        }
    }
}

/// `status.allocatedResources`: what the node has agreed to.
pub fn allocated(spec: &PodSpec) -> Option<List> {
    let given = Given {
        pod: spec.resources.as_ref(),
        of: &|container| container.resources.as_ref(),
    };
    Some(given.requests(spec)).filter(|list| !list.is_empty())
}

fn running(seen: &Seen) -> Option<&Record> {
    seen.last.as_ref().filter(|record| record.is_running())
}

/// `status.resources`: what its containers were given while they run, else what was agreed to. Of one that runs only that is
/// told which its cgroup has.
pub fn resources(pod: PodView<'_>, seen: &Observed, is_running: bool) -> ResourceRequirements {
    let spec = pod.spec;
    let mut all = seen.containers.values().filter_map(|seen| running(seen));
    let around = all.find_map(|record| record.pod_resources.as_ref());
    let own = spec.resources.as_ref().map(|promised| around.unwrap_or(promised));
    let given = Given {
        pod: own,
        of: &|container| {
            let seen = seen.containers.get(&container.name);
            let given = seen
                .and_then(|seen| running(seen))
                .and_then(|record| record.resources.as_ref());
            given.or(container.resources.as_ref())
        },
    };
    let shown = |list: List, own: Option<&List>| -> Option<List> {
        let is_own = |name: &str| own.is_some_and(|own| own.contains_key(name));
        let is_shown = |name: &str, amount: &Quantity| match name {
            "cpu" => is_own(name) || quantity::milli(amount) > Some(LEAST_CPU),
            "memory" => true,
            name => is_own(name),
        };
        let shown = list
            .into_iter()
            .filter(|(name, amount)| !is_running || is_shown(name, amount));
        Some(shown.collect()).filter(|list: &List| !list.is_empty())
    };
    ResourceRequirements {
        requests: shown(given.requests(spec), own.and_then(requests)),
        limits: shown(given.limits(spec), own.and_then(limits)),
        claims: own.and_then(|own| own.claims.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::State;
    use crate::pods::record::tests::record;
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
    }

    fn told(spec: Value, seen: &Observed, is_running: bool) -> Value {
        let pod = pod(spec);
        let view = PodView::new(&pod).unwrap();
        json!({"resources": resources(view, seen, is_running), "allocated": allocated(view.spec)})
    }

    #[test]
    fn every_pod_tells_what_it_has_as_a_whole() {
        let spec = json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "10m", "memory": "2Gi"}}},
            ],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "64Mi", "ephemeral-storage": "1Gi"},
                    "limits": {"memory": "128Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "64Mi"}}},
            ],
            "overhead": {"memory": "16Mi", "cpu": "1m"},
        });
        let none = Observed::default();
        let allocated = json!({"cpu": "1151m", "memory": "2064Mi", "ephemeral-storage": "1Gi"});
        assert_eq!(
            told(spec.clone(), &none, false),
            json!({"resources": {"requests": allocated, "limits": {"memory": "144Mi"}}, "allocated": allocated})
        );
        assert_eq!(
            told(spec, &none, true)["resources"]["requests"],
            json!({"cpu": "1151m", "memory": "2064Mi"})
        );
        let nothing = json!({"containers": [{"name": "a"}]});
        assert_eq!(
            told(nothing, &none, true),
            json!({"resources": {}, "allocated": null})
        );
    }

    #[test]
    fn what_runs_has_what_it_was_given() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let running = State::Running {
            started_at: Timestamp::UNIX_EPOCH,
        };
        let last = Record {
            resources: serde_json::from_value(of("100m")).unwrap(),
            pod_resources: serde_json::from_value(of("300m")).unwrap(),
            ..record("a", 0, running)
        };
        let seen = Seen {
            last: Some(last),
            ..Seen::default()
        };
        let seen = Observed {
            containers: [("a".to_owned(), Box::new(seen))].into(),
            ..Observed::default()
        };
        let mut spec = json!({"containers": [{"name": "a", "resources": of("200m")}]});
        assert_eq!(
            told(spec.clone(), &seen, true),
            json!({"resources": of("100m"), "allocated": {"cpu": "200m"}})
        );
        spec["resources"] = of("400m");
        assert_eq!(
            told(spec, &seen, true),
            json!({"resources": of("300m"), "allocated": {"cpu": "400m"}})
        );
    }
}
